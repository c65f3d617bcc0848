//! Large pictures through a VAE in overlapping tiles, so that memory does not grow with the picture: what
//! `vae.enable_tiling()` does in diffusers 0.42.1 (`autoencoder_kl.py`, `tiled_decode`, `_tiled_encode`), in its order of
//! operations.

use ndarray::{Array4, ArrayView4, ArrayViewMut3, Axis, s};

use super::networks::VaeDecoder;
use crate::error::{Error, ErrorKind, Result};

/// The size of tiles and how far they overlap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Side of a tile in latent cells.
    pub tile_latent_min_size: usize,
    /// Part of a tile that its neighbour also covers.
    pub tile_overlap_factor: f64,
    /// Pixels per latent cell.
    pub vae_scale_factor: usize,
}

/// diffusers' overlap.
const TILE_OVERLAP_FACTOR: f64 = 0.25;

impl Tiling {
    /// Returns diffusers' tiling of a VAE whose config says `sample_size` (pixels) and has `levels` entries in
    /// `block_out_channels`.
    ///
    /// # Errors
    /// `bad_tiling` (model): a quarter of a tile is not a whole number of latent cells.
    pub fn of_config(sample_size: usize, levels: u32) -> Result<Self> {
        let vae_scale_factor = 1 << levels.saturating_sub(1);
        let tile_latent_min_size = sample_size / vae_scale_factor;
        let tiling = Tiling { tile_latent_min_size, tile_overlap_factor: TILE_OVERLAP_FACTOR, vae_scale_factor };
        tiling.steps(tile_latent_min_size, tiling.tile_sample_min_size()).map(|_| tiling)
    }

    /// Returns the pixels `[batch, 3, height, width]` of `latents` `[batch, latent_channels, h, w]`, of which `decode` sees
    /// a tile at a time; of latents that are not larger than a tile it sees all.
    ///
    /// # Errors
    /// Those of `decode`; `bad_tiling` (model): the overlap is not a whole number of latent cells, or tiles come back at
    /// another scale.
    pub fn decode(
        &self,
        latents: ArrayView4<'_, f32>,
        decode: &mut dyn FnMut(ArrayView4<'_, f32>) -> Result<Array4<f32>>,
    ) -> Result<Array4<f32>> {
        self.in_tiles(latents, self.tile_latent_min_size, self.tile_sample_min_size(), decode)
    }

    /// Returns the moments `[batch, 2 * latent_channels, h, w]` of `pixels` `[batch, 3, height, width]`, of which `encode`
    /// sees a tile at a time. The distribution is to be made of the joined moments.
    ///
    /// # Errors
    /// As [`Tiling::decode`].
    pub fn encode(
        &self,
        pixels: ArrayView4<'_, f32>,
        encode: &mut dyn FnMut(ArrayView4<'_, f32>) -> Result<Array4<f32>>,
    ) -> Result<Array4<f32>> {
        self.in_tiles(pixels, self.tile_sample_min_size(), self.tile_latent_min_size, encode)
    }

    /// Side of a tile in pixels.
    fn tile_sample_min_size(&self) -> usize {
        self.tile_latent_min_size * self.vae_scale_factor
    }

    /// Returns how far apart tiles of side `size` start, and over how many lines they fade when they come back with side
    /// `size_after`.
    fn steps(&self, size: usize, size_after: usize) -> Result<(usize, usize)> {
        let stride = (size as f64 * (1.0 - self.tile_overlap_factor)) as usize;
        let blend_extent = (size_after as f64 * self.tile_overlap_factor) as usize;
        // Both are cut to whole numbers; where that matters, diffusers' picture has another size than it should.
        let fits = (size_after - blend_extent.min(size_after)) * size == stride * size_after;
        if stride == 0 || !fits {
            let message = format!("tiles of {size} cannot overlap by {} of their side", self.tile_overlap_factor);
            return Err(Error::new(ErrorKind::Model, "bad_tiling", message)
                .hint("use tiles of 4, 8, 12, … latent cells with an overlap of 0.25"));
        }
        Ok((stride, blend_extent))
    }

    /// Runs `network` on tiles of side `size`, which come back with side `size_after`, and joins them.
    fn in_tiles(
        &self,
        input: ArrayView4<'_, f32>,
        size: usize,
        size_after: usize,
        network: &mut dyn FnMut(ArrayView4<'_, f32>) -> Result<Array4<f32>>,
    ) -> Result<Array4<f32>> {
        let (_, _, height, width) = input.dim();
        if height <= size && width <= size {
            return network(input);
        }
        let (stride, blend_extent) = self.steps(size, size_after)?;
        let row_limit = size_after - blend_extent;
        let mut above: Vec<Array4<f32>> = Vec::new();
        let mut rows = Vec::new();
        for y in (0..height).step_by(stride) {
            let mut row: Vec<Array4<f32>> = Vec::new();
            for (j, x) in (0..width).step_by(stride).enumerate() {
                let (bottom, right) = ((y + size).min(height), (x + size).min(width));
                let mut tile = network(input.slice(s![.., .., y..bottom, x..right]))?;
                // Neighbours were blended themselves before they are blended in: upwards first, then to the left.
                if let Some(above) = above.get(j) {
                    blend(Axis(2), above, &mut tile, blend_extent);
                }
                if let Some(left) = row.last() {
                    blend(Axis(3), left, &mut tile, blend_extent);
                }
                row.push(tile);
            }
            rows.push(join(Axis(3), &row, row_limit)?);
            above = row;
        }
        join(Axis(2), &rows, usize::MAX)
    }
}

/// Fades the last lines of `before` along `axis` into the first of `tile`: `blend_v` and `blend_h`.
fn blend(axis: Axis, before: &Array4<f32>, tile: &mut Array4<f32>, blend_extent: usize) {
    let extent = before.len_of(axis).min(tile.len_of(axis)).min(blend_extent);
    let first = before.len_of(axis) - extent;
    for i in 0..extent {
        // The fractions are Python's (f64), the products torch's (f32).
        let part = i as f64 / extent as f64;
        let (old, new) = ((1.0 - part) as f32, part as f32);
        let mut lines: ArrayViewMut3<'_, f32> = tile.index_axis_mut(axis, i);
        lines.zip_mut_with(&before.index_axis(axis, first + i), |b, a| *b = *a * old + *b * new);
    }
}

/// Joins `tiles` along `axis`, of each at most `limit` lines in both directions.
fn join(axis: Axis, tiles: &[Array4<f32>], limit: usize) -> Result<Array4<f32>> {
    let views: Vec<_> = tiles.iter().map(|tile| crop_to(tile, limit)).collect();
    ndarray::concatenate(axis, &views).map_err(|error| {
        Error::new(ErrorKind::Model, "bad_tiling", format!("the tiles of the VAE do not fit together: {error}"))
            .source(error)
    })
}

fn crop_to(tile: &Array4<f32>, limit: usize) -> ArrayView4<'_, f32> {
    let (_, _, height, width) = tile.dim();
    tile.slice(s![.., .., ..height.min(limit), ..width.min(limit)])
}

/// A VAE decoder that decodes in tiles.
pub struct TiledVae<'a> {
    /// The decoder that sees a tile at a time.
    pub vae: &'a mut dyn VaeDecoder,
    /// The tiles.
    pub tiling: Tiling,
}

impl VaeDecoder for TiledVae<'_> {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        self.tiling.decode(latents, &mut |tile| self.vae.decode(tile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILING: Tiling = Tiling { tile_latent_min_size: 4, tile_overlap_factor: 0.25, vae_scale_factor: 2 };

    /// Every cell twice in both directions.
    fn double(latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let (n, c, h, w) = latents.dim();
        Ok(Array4::from_shape_fn((n, c, 2 * h, 2 * w), |(n, c, y, x)| latents[[n, c, y / 2, x / 2]]))
    }

    #[test]
    fn where_tiles_agree_there_is_no_seam() {
        let latents =
            Array4::from_shape_fn((2, 3, 9, 11), |(n, c, y, x)| (n + 2 * c) as f32 + 8.0 * (y * 16 + x) as f32);
        let whole = double(latents.view()).expect("no error");
        assert_eq!(TILING.decode(latents.view(), &mut double).expect("no error"), whole);
    }

    #[test]
    fn what_fits_into_a_tile_is_not_cut() {
        let mut calls = 0;
        let mut count = |latents: ArrayView4<'_, f32>| {
            calls += 1;
            double(latents)
        };
        TILING.decode(Array4::zeros((1, 1, 4, 3)).view(), &mut count).expect("no error");
        assert_eq!(calls, 1);
        TILING.decode(Array4::zeros((1, 1, 5, 3)).view(), &mut |tile| double(tile)).expect("no error");
    }

    #[test]
    fn tiles_that_cannot_be_are_errors() {
        let code = |tiling: Tiling| {
            let latents = Array4::zeros((1, 1, 9, 9));
            tiling.decode(latents.view(), &mut double).expect_err("no such tiles").code()
        };
        assert_eq!(code(Tiling { tile_latent_min_size: 1, ..TILING }), "bad_tiling");
        assert_eq!(code(Tiling { tile_latent_min_size: 6, ..TILING }), "bad_tiling", "a quarter of 6 is not whole");
        assert_eq!(code(Tiling { tile_latent_min_size: 0, ..TILING }), "bad_tiling");
        assert_eq!(code(Tiling { tile_overlap_factor: -0.5, ..TILING }), "bad_tiling");
        assert_eq!(code(Tiling { tile_overlap_factor: 1.0, ..TILING }), "bad_tiling");
        assert_eq!(code(Tiling { tile_overlap_factor: f64::NAN, ..TILING }), "bad_tiling");
        assert!(Tiling::of_config(8, 4).is_err(), "one latent cell");
    }

    #[test]
    fn tiles_of_stable_diffusion() {
        let tiling = Tiling::of_config(512, 4).expect("valid");
        assert_eq!((tiling.tile_latent_min_size, tiling.vae_scale_factor), (64, 8));
    }
}
