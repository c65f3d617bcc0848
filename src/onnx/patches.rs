//! Latents as patches of 2×2 cells and back, and the positions of patches (diffusers 0.42.1, `pipeline_flux.py`:
//! `_pack_latents`, `_unpack_latents`, `_prepare_latent_image_ids`).

use ndarray::{Array2, Array3, Array4, ArrayView3, ArrayView4};

/// Returns `latents` `[batch, channels, height, width]` (even sides) as `[batch, height/2 · width/2, channels · 4]`.
pub(super) fn pack(latents: ArrayView4<'_, f32>) -> Array3<f32> {
    let (batch, channels, height, width) = latents.dim();
    let columns = width / 2;
    Array3::from_shape_fn((batch, height / 2 * columns, channels * 4), |(b, patch, value)| {
        let (row, column) = (patch / columns, patch % columns);
        let (channel, y, x) = (value / 4, value / 2 % 2, value % 2);
        latents[[b, channel, 2 * row + y, 2 * column + x]]
    })
}

/// Returns `patches` `[batch, height/2 · width/2, channels · 4]` as latents `[batch, channels, height, width]`.
pub(super) fn unpack(patches: ArrayView3<'_, f32>, (height, width): (usize, usize)) -> Array4<f32> {
    let (batch, _, values) = patches.dim();
    let columns = width / 2;
    Array4::from_shape_fn((batch, values / 4, height, width), |(b, channel, y, x)| {
        patches[[b, y / 2 * columns + x / 2, channel * 4 + y % 2 * 2 + x % 2]]
    })
}

/// Returns the positions of the patches of latents with these sides, `[height/2 · width/2, 3]`: 0, row, column.
pub(super) fn positions(height: usize, width: usize) -> Array2<f64> {
    let columns = width / 2;
    Array2::from_shape_fn((height / 2 * columns, 3), |(patch, axis)| match axis {
        0 => 0.0,
        1 => (patch / columns) as f64,
        _ => (patch % columns) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_hold_two_by_two_cells_channel_by_channel() {
        let latents = Array4::from_shape_fn((2, 3, 4, 6), |(b, c, y, x)| (b * 1000 + c * 100 + y * 10 + x) as f32);
        let packed = pack(latents.view());
        assert_eq!(packed.dim(), (2, 6, 12));
        let second = packed.slice(ndarray::s![0, 1, ..8]).to_vec();
        assert_eq!(second, [2.0, 3.0, 12.0, 13.0, 102.0, 103.0, 112.0, 113.0]);
        assert_eq!(unpack(packed.view(), (4, 6)), latents);
        assert_eq!(positions(4, 6).row(4).to_vec(), [0.0, 1.0, 1.0]);
    }
}
