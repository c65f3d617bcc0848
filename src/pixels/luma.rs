//! How much a picture varies: one that does not at all is mostly the mark of a network that broke.

use image::RgbImage;

/// Standard deviation of luma, in steps of 1/255, below which a picture is all but of one colour. The darkest photograph has
/// more: its noise alone makes 0.7, and a black picture with one pixel in a hundred at 10 has 1.0. A decoder that gives a
/// constant, or a constant with rounding around it, stays below 0.3.
pub const ONE_COLOUR: f32 = 0.5;

/// Returns the standard deviation of the luma of `image`, 0.299 R + 0.587 G + 0.114 B in steps of 1/255; 0 where all pixels are
/// equal. The sums are of whole numbers: the same pixels give the same bits.
pub fn luma_std(image: &RgbImage) -> f32 {
    let (mut sum, mut squares) = (0_u64, 0_u128);
    for [r, g, b] in image.pixels().map(|pixel| pixel.0) {
        let luma = 299 * u64::from(r) + 587 * u64::from(g) + 114 * u64::from(b);
        sum += luma;
        squares += u128::from(luma * luma);
    }
    let count = u128::from(image.width()) * u128::from(image.height());
    if count == 0 {
        return 0.0;
    }
    let variance = (count * squares - u128::from(sum).pow(2)) as f64 / (count as f64).powi(2);
    (variance.sqrt() / 1000.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(value: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
        RgbImage::from_fn(64, 64, |x, y| image::Rgb(value(x, y)))
    }

    #[test]
    fn one_colour_has_none() {
        for colour in [[0, 0, 0], [255, 255, 255], [12, 200, 77]] {
            assert_eq!(luma_std(&picture(|_, _| colour)), 0.0);
        }
        assert_eq!(luma_std(&RgbImage::new(0, 0)), 0.0);
    }

    #[test]
    fn rounding_around_one_colour_is_suspect() {
        let rounding = picture(|x, y| [127 + u8::from((x * 7 + y * 13) % 16 == 0); 3]);
        assert!(luma_std(&rounding) < ONE_COLOUR);
    }

    #[test]
    fn a_dark_picture_with_texture_is_not() {
        let dark = picture(|x, y| [((x * 31 + y * 17) % 4) as u8; 3]);
        assert!(luma_std(&dark) > ONE_COLOUR);
        let star = picture(|x, y| if (x, y) == (9, 9) { [255; 3] } else { [0; 3] });
        assert!(luma_std(&star) > ONE_COLOUR, "{}", luma_std(&star));
    }

    #[test]
    fn halves_of_black_and_white_deviate_by_half() {
        let halves = picture(|x, _| if x < 32 { [0; 3] } else { [255; 3] });
        assert_eq!(luma_std(&halves), 127.5);
    }
}
