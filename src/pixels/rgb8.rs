//! Decoder output → RGB8.

use image::RgbImage;
use ndarray::ArrayView3;

/// Returns the picture of one decoded image `[3, height, width]` f32 in about [-1, 1]: `x / 2 + 0.5`, clamped, times 255,
/// rounded half to even (diffusers 0.42.1, `image_processor.py`: `denormalize` and `numpy_to_pil`), or `None` if a
/// value is not finite.
pub fn to_rgb8(decoded: ArrayView3<'_, f32>) -> Option<RgbImage> {
    if decoded.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (_, height, width) = decoded.dim();
    Some(RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let channel = |c: usize| quantize(decoded[[c, y as usize, x as usize]]);
        image::Rgb([channel(0), channel(1), channel(2)])
    }))
}

fn quantize(value: f32) -> u8 {
    ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn ends_middle_and_beyond() {
        assert_eq!([-1.0, 1.0, -3.0, 3.0].map(quantize), [0, 255, 0, 255]);
        assert_eq!(quantize(0.0), 128, "127.5 rounds to the even neighbour");
        assert_eq!(quantize(-1.0 + 2.0 * 0.5 / 255.0), 0, "0.5 rounds to the even neighbour");
    }

    #[test]
    fn channels_and_axes_stay_in_place() {
        let decoded = Array3::from_shape_fn((3, 2, 5), |(c, y, x)| if (c, y, x) == (1, 1, 4) { 1.0 } else { -1.0 });
        let picture = to_rgb8(decoded.view()).expect("no NaN");
        assert_eq!(picture.dimensions(), (5, 2));
        assert_eq!(picture.get_pixel(4, 1).0, [0, 255, 0]);
        assert_eq!(picture.get_pixel(3, 1).0, [0, 0, 0]);
    }

    #[test]
    fn not_a_number_is_no_picture() {
        let mut decoded = Array3::zeros((3, 2, 2));
        decoded[[2, 1, 1]] = f32::NAN;
        assert!(to_rgb8(decoded.view()).is_none());
        decoded[[2, 1, 1]] = f32::NEG_INFINITY;
        assert!(to_rgb8(decoded.view()).is_none());
    }
}
