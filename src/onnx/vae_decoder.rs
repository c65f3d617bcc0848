//! The VAE decoder as a trait object for the engine.

use ndarray::{Array4, ArrayView4};

use super::device::Device;
use super::lanes::{Batch, fill, least_entries};
use super::runtime::Runtime;
use super::session::{GraphSession, SessionOptions};
use super::tensor::float_input;
use crate::engine::VaeDecoder;
use crate::error::Result;
use crate::model::{ModelSpec, VaeDecoderGraph};

/// A VAE decoder graph.
#[derive(Debug)]
pub struct OnnxVaeDecoder {
    graph: GraphSession,
    bound: VaeDecoderGraph,
    fixed: Option<usize>,
    /// Entries that keep one product of attention an entry apart from all threads.
    apart: usize,
    vae_scale_factor: usize,
}

impl OnnxVaeDecoder {
    /// Returns how many of which operators of our own the graph has, where it was loaded with any.
    pub fn own_kernels(&self) -> &[(&'static str, usize)] {
        self.graph.own_kernels()
    }

    /// Loads `vae`, a VAE decoder of `spec`.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, vae: &VaeDecoderGraph, options: &SessionOptions) -> Result<Self> {
        let graph = GraphSession::load(runtime, ("VAE decoder", &vae.file), options, false)?;
        let apart = if options.device == Device::Cpu { least_entries(options.thread_count(), 1) } else { 1 };
        let (bound, fixed) = (vae.clone(), vae.latent_sample.fixed(0));
        let vae_scale_factor = spec.recipe.latents.vae_scale_factor as usize;
        Ok(OnnxVaeDecoder { graph, bound, fixed, apart, vae_scale_factor })
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
            let VaeDecoderGraph { latent_sample: input, sample: output, .. } = &self.bound;
            self.graph.check(input, latents.shape())?;
            let inputs =
                float_input(latents.view(), input.dtype).map(|value| vec![(input.name.as_str().into(), value)]);
            let pixels = self.graph.run(inputs, output)?;
            self.graph.check_output(&pixels, output, &[size, 3, height * scale, width * scale])?;
            Ok(pixels)
        })
    }
}

/// A VAE decoder that is loaded when it is first needed, which mostly is never.
#[derive(Debug)]
pub struct LazyVaeDecoder {
    runtime: Runtime,
    spec: ModelSpec,
    bound: VaeDecoderGraph,
    options: SessionOptions,
    loaded: Option<Result<OnnxVaeDecoder>>,
}

impl LazyVaeDecoder {
    /// Returns the decoder of `spec` that is in float32 beside one in float16, if there is one.
    pub fn fp32(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions) -> Option<Self> {
        let bound = spec.vae_decoder_fp32.clone()?;
        Some(LazyVaeDecoder {
            runtime: runtime.clone(),
            spec: spec.clone(),
            bound,
            options: options.clone(),
            loaded: None,
        })
    }
}

impl VaeDecoder for LazyVaeDecoder {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let load = || {
            tracing::info!("loading the VAE decoder in float32");
            OnnxVaeDecoder::load(&self.runtime, &self.spec, &self.bound, &self.options)
        };
        match self.loaded.get_or_insert_with(load) {
            Ok(decoder) => decoder.decode(latents),
            Err(error) => Err(error.again()),
        }
    }
}
