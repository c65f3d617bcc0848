//! Pictures as WebP files.

use ::webp::{Encoder, WebPConfig};
use image::RgbImage;
use img_parts::riff::{RiffChunk, RiffContent};
use img_parts::webp::WebP;
use img_parts::{Bytes, ImageEXIF};

use super::parameters::Parameters;
use super::{checksum, exif};
use crate::error::{Error, ErrorKind, Result};

/// Name of the chunk with our JSON. Readers pass over chunks that they do not know.
const OURS: [u8; 4] = *b"nsft";
/// Name of the chunk with the file's checksum.
const CHECKSUM: [u8; 4] = *b"nscr";
/// How hard the lossless encoder tries, of 100: libwebp's own default.
const LOSSLESS_EFFORT: f32 = 75.0;

/// Returns `image` as a WebP file of a `quality` from 1 to 100, or lossless. One thread works on it, so that the same input
/// gives the same bytes.
///
/// # Errors
/// Kind `Unexpected`: the image has no pixels, or more than 16,383 in a row or column.
pub(super) fn encode(image: &RgbImage, text: &Parameters, quality: Option<u8>) -> Result<Vec<u8>> {
    let mut config = WebPConfig::new().map_err(|()| failed("libwebp has another version than its header"))?;
    config.lossless = i32::from(quality.is_none());
    config.quality = quality.map_or(LOSSLESS_EFFORT, f32::from);
    let encoded = Encoder::from_rgb(image.as_raw(), image.width(), image.height()).encode_advanced(&config);
    let encoded = encoded.map_err(|error| failed(&format!("{error:?}")))?;
    let file = WebP::from_bytes(Bytes::copy_from_slice(&encoded));
    let mut file = file.map_err(|error| failed(&error.to_string()))?;
    file.set_exif(Some(exif::with_comment(&text.a1111()).into()));
    file.chunks_mut().push(RiffChunk::new(OURS, RiffContent::Data(text.to_json().into())));
    file.chunks_mut().push(RiffChunk::new(CHECKSUM, RiffContent::Data(checksum::place().into())));
    let mut bytes = file.encoder().bytes().to_vec();
    checksum::fill_in(&mut bytes);
    Ok(bytes)
}

/// Returns the JSON that [`encode`] put into a file; `None` if there is none.
pub(super) fn our_json(bytes: &[u8]) -> Option<Vec<u8>> {
    let file = WebP::from_bytes(Bytes::copy_from_slice(bytes)).ok()?;
    Some(file.chunk_by_id(OURS)?.content().data()?.to_vec())
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Unexpected, "webp", format!("cannot encode the image: {what}"))
}
