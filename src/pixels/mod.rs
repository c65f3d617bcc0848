//! Pixels: what the VAE decoder gives → RGB8, pictures that a row names → what the VAE encoder takes, and pictures → what a
//! scorer takes. Pure: the bytes
//! of a picture are read by others.
//!
//! Pictures are treated as Pillow 13 treats them on behalf of diffusers 0.42.1 (`load_image`, then `VaeImageProcessor`),
//! down to the last bit of the resampling.

mod clip_image;
mod luma;
mod preprocess;
mod read;
mod resample;
mod rgb8;

pub use clip_image::{ClipImage, Resize};
pub use luma::{ONE_COLOUR, luma_std};
pub use preprocess::{masked, nearest, preprocess_image, preprocess_mask};
pub use read::{picture_size, read_rgb};
pub use resample::{Filter, resize};
pub use rgb8::to_rgb8;
