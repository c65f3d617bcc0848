//! Pictures as JPEG files.

use image::RgbImage;
use img_parts::Bytes;
use img_parts::jpeg::{Jpeg, markers};
use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};

use super::parameters::Parameters;
use super::{checksum, exif};
use crate::error::{Error, ErrorKind, Result};

/// What our segments start with.
const OURS: &[u8] = b"nightshift\0";
/// Number of the application segment that ours are: nobody else's.
const OUR_SEGMENT: u8 = 9;
/// Most bytes of a segment.
const SEGMENT: usize = 65_533;
/// Bytes before the EXIF block in its segment.
const EXIF_HEADER: usize = 6;

/// Returns `image` as a JPEG file of a `quality` from 1 to 100, with all of the colours' resolution and Huffman tables of its
/// own.
///
/// Segments have 64 KiB: our JSON goes into as many as it takes, and of longer prompts than the EXIF block can hold only
/// that is there.
///
/// # Errors
/// Kind `Unexpected`: the image has no pixels, or more than 65,535 in a row or column.
pub(super) fn encode(image: &RgbImage, text: &Parameters, quality: u8) -> Result<Vec<u8>> {
    let failed = |error: EncodingError| {
        Error::new(ErrorKind::Unexpected, "jpeg", format!("cannot encode the image: {error}")).source(error)
    };
    let mut bytes = Vec::with_capacity(image.as_raw().len() / 4 + 4096);
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    encoder.set_optimized_huffman_tables(true);
    let comment = exif::with_comment(&text.a1111());
    if comment.len() + EXIF_HEADER <= SEGMENT {
        encoder.add_exif_metadata(&comment).map_err(failed)?;
    }
    for part in text.to_json().as_bytes().chunks(SEGMENT - OURS.len()) {
        encoder.add_app_segment(OUR_SEGMENT, [OURS, part].concat()).map_err(failed)?;
    }
    encoder.add_app_segment(OUR_SEGMENT, checksum::place()).map_err(failed)?;
    // A side beyond 16 bits becomes 0, which the encoder refuses.
    let side = |pixels: u32| u16::try_from(pixels).unwrap_or(0);
    encoder.encode(image.as_raw(), side(image.width()), side(image.height()), ColorType::Rgb).map_err(failed)?;
    checksum::fill_in(&mut bytes);
    Ok(bytes)
}

/// Returns the JSON that [`encode`] put into a file; `None` if there is none.
pub(super) fn our_json(bytes: &[u8]) -> Option<Vec<u8>> {
    let file = Jpeg::from_bytes(Bytes::copy_from_slice(bytes)).ok()?;
    let segments = file.segments_by_marker(markers::APP0 + OUR_SEGMENT);
    let parts: Vec<&[u8]> = segments.filter_map(|segment| segment.contents().strip_prefix(OURS)).collect();
    (!parts.is_empty()).then(|| parts.concat())
}
