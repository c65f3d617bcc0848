//! The bytes of a picture file → RGB8, as diffusers' `load_image` makes it of them.

use std::io::Cursor;

use image::error::DecodingError;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};

use crate::error::{Error, ErrorKind, Result};

/// Returns the picture in `bytes` (a whole PNG, JPEG or WebP file), turned upright and without alpha: what
/// `PIL.ImageOps.exif_transpose(image).convert("RGB")` gives (diffusers 0.42.1, `load_image`; Pillow 13). Transparent
/// pixels keep the colour under them; 16-bit channels lose their lower byte.
///
/// # Errors
/// `bad_image` (row): the bytes are no picture, or of a format that is not read; or the picture is 16-bit grayscale,
/// which Pillow clips at 255 of 65535, so that what diffusers sees is white.
pub fn read_rgb(bytes: &[u8]) -> Result<RgbImage> {
    let mut image = decode(bytes).map_err(bad_image)?;
    if let DynamicImage::ImageLuma16(_) = image {
        let message = "the picture is 16-bit grayscale, of which Pillow (hence diffusers) makes white";
        return Err(Error::new(ErrorKind::Row, "bad_image", message).hint("save it with 8 bits a channel"));
    }
    Ok(match &mut image {
        DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) | DynamicImage::ImageLumaA16(_) => {
            high_bytes(&image)
        }
        _ => image.to_rgb8(),
    })
}

/// Returns width and height in pixels of the picture in `bytes`, turned upright; its pixels are not looked at.
///
/// # Errors
/// `bad_image` (row): the bytes do not begin as a picture that is read here.
pub fn picture_size(bytes: &[u8]) -> Result<(u32, u32)> {
    let size = || -> image::ImageResult<(u32, u32)> {
        let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
        let ((width, height), orientation) = (decoder.dimensions(), decoder.orientation()?);
        use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let lies = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
        Ok(if lies { (height, width) } else { (width, height) })
    };
    size().map_err(bad_image)
}

/// Larger pictures are taken for attacks, as by Pillow (twice `Image.MAX_IMAGE_PIXELS`).
const MAX_PIXELS: u64 = 178_956_970;

fn bad_image(error: image::ImageError) -> Error {
    let message = format!("cannot read the picture: {error}");
    Error::new(ErrorKind::Row, "bad_image", message).hint("save it as PNG, JPEG or WebP").source(error)
}

fn decode(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let is_jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut image = if is_jpeg { jpeg(bytes)?.into() } else { DynamicImage::from_decoder(decoder)? };
    image.apply_orientation(orientation);
    Ok(image)
}

/// Returns the pixels of a JPEG, to the byte those of Pillow: libjpeg-turbo's slow integer transform, its smooth
/// enlargement of colours and its tables, which the decoder of `image` has otherwise (by one or two of 255).
fn jpeg(bytes: &[u8]) -> image::ImageResult<RgbImage> {
    let bad = |error: Box<dyn std::error::Error + Send + Sync>| {
        ImageError::Decoding(DecodingError::new(ImageFormat::Jpeg.into(), error))
    };
    let mut decoder = Decoder::new(bytes).map_err(|error| bad(error.into()))?;
    decoder.set_limits(DecodeLimits { max_pixels: MAX_PIXELS, ..DecodeLimits::default() });
    decoder.set_output_format(PixelFormat::Rgb);
    let decoded = decoder.decode_image().map_err(|error| bad(error.into()))?;
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    RgbImage::from_raw(side(decoded.width), side(decoded.height), decoded.data)
        .ok_or_else(|| bad("the decoder gave fewer pixels than it said".into()))
}

/// Returns the upper byte of each channel (Pillow's raw mode `RGB;16B`), where `image` itself would round.
fn high_bytes(image: &DynamicImage) -> RgbImage {
    let wide = image.to_rgb16();
    RgbImage::from_fn(wide.width(), wide.height(), |x, y| {
        image::Rgb(wide.get_pixel(x, y).0.map(|channel| (channel >> 8) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).expect("a vector takes everything");
        bytes.into_inner()
    }

    #[test]
    fn what_is_no_picture_is_an_error_of_the_row() {
        let error = read_rgb(b"GIF89a, perhaps").expect_err("not a PNG");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Row, "bad_image"));
        let whole = png(&DynamicImage::new_rgb8(9, 9));
        assert!(read_rgb(&whole).is_ok());
        assert!(read_rgb(&whole[..whole.len() / 2]).is_err(), "half a file");
    }

    #[test]
    fn sixteen_bit_grayscale_is_refused() {
        let error = read_rgb(&png(&DynamicImage::new_luma16(2, 2))).expect_err("Pillow clips it");
        assert!(error.to_string().contains("16-bit grayscale"));
    }
}
