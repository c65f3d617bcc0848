//! The VAE decoder as a trait object for the engine.

use ndarray::{Array4, ArrayView4};

use super::device::Device;
use super::lanes::{Batch, fill, least_entries};
use super::runtime::Runtime;
use super::session::{GraphSession, SessionOptions};
use super::tensor::float_input;
use crate::engine::VaeDecoder;
use crate::error::Result;
use crate::model::{ModelSpec, TensorInfo};

/// A VAE decoder graph.
#[derive(Debug)]
pub struct OnnxVaeDecoder {
    graph: GraphSession,
    latent_sample: TensorInfo,
    fixed: Option<usize>,
    /// Entries that keep one product of attention an entry apart from all threads.
    apart: usize,
    vae_scale_factor: usize,
}

impl OnnxVaeDecoder {
    /// Loads the VAE decoder of `spec`.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions) -> Result<Self> {
        let vae = &spec.vae_decoder;
        let graph = GraphSession::load(runtime, ("VAE decoder", &vae.file), &vae.sample, options, false)?;
        let apart = if options.device == Device::Cpu { least_entries(options.thread_count(), 1) } else { 1 };
        let (latent_sample, fixed) = (vae.latent_sample.clone(), vae.latent_sample.fixed(0));
        Ok(OnnxVaeDecoder { graph, latent_sample, fixed, apart, vae_scale_factor: spec.vae_scale_factor as usize })
    }

    /// Returns how many entries a call with latents of `cells` takes. Its attention has one head as wide as the VAE's
    /// deepest block (512 at most in practice): the product with the values, `cells` × `cells` × width, is only cut
    /// by columns while there are fewer rows than columns, and its sums only while they are longer than 128.
    fn batch(&self, cells: usize) -> Batch {
        let least = if (129..512).contains(&cells) { self.apart } else { 1 };
        Batch { fixed: self.fixed, least }
    }
}

impl VaeDecoder for OnnxVaeDecoder {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let (count, _, height, width) = latents.dim();
        let scale = self.vae_scale_factor;
        self.batch(height * width).run(count, |range, size| {
            let latents = fill(latents.view(), &range, size);
            self.graph.check(&self.latent_sample, latents.shape())?;
            let input = float_input(latents.view(), self.latent_sample.dtype);
            let output = self.graph.run(input.map(|input| vec![(self.latent_sample.name.as_str().into(), input)]))?;
            self.graph.check_output(&output, &[size, 3, height * scale, width * scale])?;
            Ok(output)
        })
    }
}
