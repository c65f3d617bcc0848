//! The three networks of a model, loaded.

use super::runtime::Runtime;
use super::session::SessionOptions;
use super::text_encoder::OnnxTextEncoder;
use super::unet::OnnxUnet;
use super::vae_decoder::OnnxVaeDecoder;
use crate::error::Result;
use crate::model::ModelSpec;

/// The networks of one model on one device, each a session of its own: they may work on different threads.
#[derive(Debug)]
pub struct Networks {
    /// Token ids to embeddings.
    pub text_encoder: OnnxTextEncoder,
    /// Sample, timestep and embeddings to a prediction.
    pub unet: OnnxUnet,
    /// Latents to pixels.
    pub vae_decoder: OnnxVaeDecoder,
}

impl Networks {
    /// Loads the networks of `spec`.
    ///
    /// # Errors
    /// Kind `Model`: ONNX Runtime refuses a graph. Kind `Provider`: the device cannot be had; there is no fallback.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions) -> Result<Networks> {
        Ok(Networks {
            text_encoder: OnnxTextEncoder::load(runtime, spec, options)?,
            unet: OnnxUnet::load(runtime, spec, options)?,
            vae_decoder: OnnxVaeDecoder::load(runtime, spec, options)?,
        })
    }
}
