//! The VAE encoder as a trait object for the engine.

use ndarray::{Array3, Array4, ArrayView3, Axis, s};

use super::lanes::{Batch, fill};
use super::runtime::Runtime;
use super::session::{GraphSession, SessionOptions};
use super::tensor::float_input;
use crate::engine::{LatentDistribution, VaeEncoder};
use crate::error::Result;
use crate::model::{ModelSpec, VaeEncoderGraph};

/// A VAE encoder graph.
#[derive(Debug)]
pub struct OnnxVaeEncoder {
    graph: GraphSession,
    bound: VaeEncoderGraph,
    channels: usize,
    vae_scale_factor: usize,
}

impl OnnxVaeEncoder {
    /// Loads the VAE encoder `bound` of `spec`.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(
        runtime: &Runtime,
        spec: &ModelSpec,
        bound: &VaeEncoderGraph,
        options: &SessionOptions,
    ) -> Result<Self> {
        let graph = GraphSession::load(runtime, ("VAE encoder", &bound.file), options, false)?;
        let latents = &spec.recipe.latents;
        let (channels, vae_scale_factor) = (latents.channels, latents.vae_scale_factor as usize);
        Ok(OnnxVaeEncoder { graph, bound: bound.clone(), channels, vae_scale_factor })
    }
}

impl VaeEncoder for OnnxVaeEncoder {
    fn encode(&mut self, pixels: ArrayView3<'_, f32>) -> Result<LatentDistribution> {
        let VaeEncoderGraph { sample: input, latents: output, .. } = &self.bound;
        let batch = Batch { fixed: input.fixed(0), least: 1 };
        let encoded: Array4<f32> = batch.run(1, |range, size| {
            let pixels = fill(pixels.insert_axis(Axis(0)), &range, size);
            self.graph.check(input, pixels.shape())?;
            let inputs = float_input(pixels.view(), input.dtype).map(|value| vec![(input.name.as_str().into(), value)]);
            self.graph.run(inputs, output)
        })?;
        let (_, height, width) = pixels.dim();
        let (rows, columns) = (height / self.vae_scale_factor, width / self.vae_scale_factor);
        let channels = if encoded.dim().1 == self.channels { self.channels } else { 2 * self.channels };
        self.graph.check_output(&encoded, output, &[1, channels, rows, columns])?;
        Ok(distribution(encoded.index_axis_move(Axis(0), 0), self.channels))
    }
}

/// Returns the distribution of an encoder's output: mean and, where there are twice as many channels, the logarithm of the
/// variance (diffusers 0.42.1, `DiagonalGaussianDistribution`).
fn distribution(encoded: Array3<f32>, channels: usize) -> LatentDistribution {
    if encoded.dim().0 == channels {
        return LatentDistribution { mean: encoded, std: None };
    }
    let std = encoded.slice(s![channels.., .., ..]).mapv(|logvar| (0.5 * logvar.clamp(-30.0, 20.0)).exp());
    LatentDistribution { mean: encoded.slice(s![..channels, .., ..]).to_owned(), std: Some(std) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_channels_are_mean_and_log_variance() {
        let encoded = Array3::from_shape_fn((4, 1, 1), |(c, _, _)| [1.0, 2.0, 0.0, -60.0][c]);
        let LatentDistribution { mean, std } = distribution(encoded.clone(), 2);
        assert_eq!(mean.as_slice(), Some([1.0, 2.0].as_slice()));
        assert_eq!(std.expect("half of the channels")[[1, 0, 0]], (-15.0_f32).exp());
        assert_eq!(distribution(encoded.clone(), 4), LatentDistribution { mean: encoded, std: None });
    }
}
