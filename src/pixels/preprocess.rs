//! RGB8 → the tensors that image-to-image and inpainting start from (diffusers 0.42.1, `image_processor.py`:
//! `VaeImageProcessor.preprocess`, `pipeline_stable_diffusion_inpaint.py`).

use image::{Rgb, RgbImage};
use ndarray::{Array2, Array3, ArrayView2};

use super::resample::{Filter, resize};

/// Returns `image` `[3, height, width]` f32 in [-1, 1]: resized by Lanczos (`resize_mode="default"`: the sides' ratio is not
/// kept), divided by 255, times 2, less 1.
///
/// # Panics
/// `width` or `height` is 0.
pub fn preprocess_image(image: &RgbImage, width: u32, height: u32) -> Array3<f32> {
    let image = resize(image, width, height, Filter::Lanczos);
    Array3::from_shape_fn((3, height as usize, width as usize), |(channel, y, x)| {
        2.0 * (f32::from(image.get_pixel(x as u32, y as u32).0[channel]) / 255.0) - 1.0
    })
}

/// Returns the mask `[height, width]` f32 of `image`: 1 where it is bright and is to be painted, else 0. The colours are
/// resized, then made gray, then compared with a half (`do_convert_grayscale`, `do_binarize`).
///
/// # Panics
/// `width` or `height` is 0.
pub fn preprocess_mask(image: &RgbImage, width: u32, height: u32) -> Array2<f32> {
    let image = resize(image, width, height, Filter::Lanczos);
    Array2::from_shape_fn((height as usize, width as usize), |(y, x)| {
        let gray = f32::from(luma(*image.get_pixel(x as u32, y as u32))) / 255.0;
        if gray < 0.5 { 0.0 } else { 1.0 }
    })
}

/// Returns `mask` at `height` × `width`, such as the latents': `torch.nn.functional.interpolate(mask, size)` in its default
/// mode, `nearest`, which takes the first of the pixels that fall together.
pub fn nearest(mask: ArrayView2<'_, f32>, height: usize, width: usize) -> Array2<f32> {
    let (rows, columns) = mask.dim();
    // The scale is f32 in torch, whatever the tensor.
    let source = |position: usize, input: usize, output: usize| {
        ((position as f32 * (input as f32 / output as f32)) as usize).min(input - 1)
    };
    Array2::from_shape_fn((height, width), |(y, x)| mask[[source(y, rows, height), source(x, columns, width)]])
}

/// Returns `image` `[3, height, width]` with 0 (gray) where `mask` `[height, width]` says that it is to be painted: the
/// `masked_image` that inpainting UNets with 9 channels see (`init_image * (mask_condition < 0.5)`).
///
/// # Panics
/// The sizes differ.
pub fn masked(image: &Array3<f32>, mask: ArrayView2<'_, f32>) -> Array3<f32> {
    image * &mask.mapv(|value| if value < 0.5 { 1.0 } else { 0.0 })
}

/// Returns the brightness of a pixel as Pillow's `convert("L")`: ITU-R 601-2 in 16 fractional bits, rounded.
fn luma(Rgb([r, g, b]): Rgb<u8>) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_ends_of_the_range_are_exact() {
        let image = RgbImage::from_pixel(2, 2, Rgb([0, 255, 51]));
        let tensor = preprocess_image(&image, 2, 2);
        assert_eq!([tensor[[0, 0, 0]], tensor[[1, 1, 1]]], [-1.0, 1.0]);
        assert_eq!(tensor[[2, 0, 1]], 2.0 * (51.0f32 / 255.0) - 1.0);
    }

    #[test]
    fn a_gray_of_128_is_painted_and_one_of_127_is_not() {
        let mask = |gray| preprocess_mask(&RgbImage::from_pixel(1, 1, Rgb([gray; 3])), 1, 1)[[0, 0]];
        assert_eq!([mask(127), mask(128)], [0.0, 1.0]);
    }

    #[test]
    fn nearest_takes_the_first_of_each_group() {
        let mask = array![[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]];
        assert_eq!(nearest(mask.view(), 1, 2), array![[1.0, 3.0]]);
        assert_eq!(nearest(mask.view(), 2, 3), array![[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]);
        assert_eq!(nearest(mask.view(), 4, 4).column(0).to_vec(), [1.0, 1.0, 5.0, 5.0]);
    }

    #[test]
    fn what_is_painted_is_hidden() {
        let image = Array3::from_elem((3, 1, 2), -0.5);
        assert_eq!(masked(&image, array![[1.0, 0.0]].view()).iter().sum::<f32>(), -1.5);
    }
}
