//! When pictures are decoded in tiles.

use ndarray::{Array4, ArrayView4};

use super::options::VaeTiling;
use crate::engine::{TiledVae, Tiling, VaeDecoder};
use crate::error::Result;
use crate::model::ModelSpec;

/// Pixels of a tile's side for VAEs whose config does not say what pictures they were trained on.
const SAMPLE_SIZE: u32 = 512;
/// Bytes that decoding takes at its peak per pixel, about: eight activations of 128 channels in f32 at full size, as in the
/// VAEs of Stable Diffusion.
const BYTES_PER_PIXEL: u64 = 8 * 128 * 4;

/// A decoder that decides for each call.
pub(super) struct TilingDecoder<'a> {
    vae: &'a mut dyn VaeDecoder,
    mode: VaeTiling,
    tiling: Tiling,
    told: bool,
}

impl<'a> TilingDecoder<'a> {
    /// Returns `vae` with the tiles of diffusers for the VAE of `spec`.
    ///
    /// # Errors
    /// A tile of this VAE cannot be divided, and tiles are asked for.
    pub(super) fn new(vae: &'a mut dyn VaeDecoder, spec: &ModelSpec, mode: VaeTiling) -> Result<Self> {
        let levels = spec.recipe.latents.vae_scale_factor.ilog2() + 1;
        let own = Tiling::of_config(spec.vae_sample_size.unwrap_or(SAMPLE_SIZE) as usize, levels);
        let tiling = match (own, mode) {
            (Ok(tiling), _) => tiling,
            (Err(error), VaeTiling::On) => return Err(error),
            (Err(_), _) => Tiling::of_config(SAMPLE_SIZE as usize, levels)?,
        };
        Ok(TilingDecoder { vae, mode, tiling, told: false })
    }

    fn tiled(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        TiledVae { vae: &mut *self.vae, tiling: self.tiling }.decode(latents)
    }

    fn tell(&mut self, why: &str) {
        if !self.told {
            self.told = true;
            tracing::warn!("pictures are decoded in tiles, which changes their pixels a little: {why}");
        }
    }

    fn is_too_large(&self, latents: ArrayView4<'_, f32>) -> bool {
        let (count, _, height, width) = latents.dim();
        let pixels = (count * height * width * self.tiling.vae_scale_factor.pow(2)) as u64;
        available_memory().is_some_and(|available| pixels.saturating_mul(BYTES_PER_PIXEL) > available)
    }
}

impl VaeDecoder for TilingDecoder<'_> {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        match self.mode {
            VaeTiling::Off => self.vae.decode(latents),
            VaeTiling::On => self.tiled(latents),
            VaeTiling::Auto if self.is_too_large(latents) => {
                self.tell("there is not enough memory for whole ones");
                self.tiled(latents)
            }
            VaeTiling::Auto => match self.vae.decode(latents) {
                // Several pictures are first tried in smaller calls, which changes nothing.
                Err(error) if error.code() == "out_of_memory" && latents.dim().0 == 1 => {
                    self.tell("decoding whole ones ran out of memory");
                    self.tiled(latents)
                }
                decoded => decoded,
            },
        }
    }
}

/// Returns the bytes that this machine could still give, where it says so.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_says_how_much_memory_there_is() {
        if cfg!(target_os = "linux") {
            assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
