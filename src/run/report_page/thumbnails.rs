//! Small pictures as JPEG, in the page itself.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::listing::Listing;
use super::pictures::{Pictures, shrunk};

/// Pixels of the longer side, at most.
const SIDE: u32 = 160;
const QUALITY: u8 = 80;

/// Returns the first `count` pictures as `data:` addresses without their beginning, by their rows. What cannot be read has none.
pub fn make(pictures: Pictures<'_>, listing: &Listing, count: usize) -> BTreeMap<usize, String> {
    let wanted = listing.pictures().take(count).map(|(row, file, key)| (file, (key, row))).collect();
    pictures.each(&wanted, small)
}

fn small(bytes: &[u8]) -> Option<String> {
    let image = shrunk(bytes, SIDE)?;
    let mut jpeg = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut jpeg, QUALITY);
    let (width, height) = (u16::try_from(image.width()).ok()?, u16::try_from(image.height()).ok()?);
    encoder.encode(&image, width, height, jpeg_encoder::ColorType::Rgb).ok()?;
    Some(STANDARD.encode(jpeg))
}
