//! The animation of a trace: latents and guess side by side, frame by frame.

use image::RgbImage;
use image::imageops::{self, FilterType};
use webp::{AnimEncoder, AnimFrame, WebPConfig};

use super::frames::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::output::contact_sheet::scaled;
use crate::output::lettering::PAPER;

/// Pixels of a picture's longer side, at most.
const SIDE: u32 = 320;
/// Between the two pictures.
const GAP: u32 = 12;
/// How long a frame stays; the last one stays longer.
const MILLISECONDS: i32 = 160;
const LAST_MILLISECONDS: i32 = 2500;

/// Returns the animation as WebP: latents and guess side by side.
pub fn animation(frames: &[Frame]) -> Result<Vec<u8>> {
    let failed =
        |what: &str| Error::new(ErrorKind::Unexpected, "animation", format!("cannot encode the animation: {what}"));
    let pictures: Vec<RgbImage> = frames.iter().map(pair).collect();
    let (width, height) = pictures[0].dimensions();
    let mut config = WebPConfig::new().map_err(|()| failed("no configuration"))?;
    config.quality = 90.0;
    let mut encoder = AnimEncoder::new(width, height, &config);
    encoder.set_loop_count(0);
    for (at, picture) in pictures.iter().enumerate() {
        encoder.add_frame(AnimFrame::from_rgb(picture.as_raw(), width, height, at as i32 * MILLISECONDS));
    }
    let (end, last) = (pictures.len() as i32 * MILLISECONDS + LAST_MILLISECONDS, &pictures[pictures.len() - 1]);
    encoder.add_frame(AnimFrame::from_rgb(last.as_raw(), width, height, end));
    encoder.try_encode().map(|bytes| bytes.to_vec()).map_err(|error| failed(&format!("{error:?}")))
}

fn pair(frame: &Frame) -> RgbImage {
    let left = enlarged(&frame.sample);
    let (width, height) = left.dimensions();
    let mut both = RgbImage::from_pixel(2 * width + GAP, height, PAPER);
    imageops::replace(&mut both, &left, 0, 0);
    if let Some(guess) = &frame.pred_original_sample {
        imageops::replace(&mut both, &enlarged(guess), i64::from(width + GAP), 0);
    }
    both
}

/// Returns small pictures enlarged by a whole factor, dot by dot, and large ones made smaller.
fn enlarged(image: &RgbImage) -> RgbImage {
    let longer = image.width().max(image.height()).max(1);
    match SIDE / longer {
        0 => scaled(image, SIDE, FilterType::Lanczos3),
        factor => scaled(image, factor * longer, FilterType::Nearest),
    }
}
