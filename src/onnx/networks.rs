//! The networks of a model, loaded.

use super::cuda_libraries;
use super::heap;
use super::runtime::Runtime;
use super::session::SessionOptions;
use super::text_encoder::OnnxTextEncoder;
use super::unet::OnnxUnet;
use super::vae_decoder::{LazyVaeDecoder, OnnxVaeDecoder};
use super::vae_encoder::OnnxVaeEncoder;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::model::ModelSpec;

/// The networks of one model on one device, each a session of its own: they may work on different threads.
#[derive(Debug)]
pub struct Networks {
    /// Token ids to embeddings, one for each text encoder of the model.
    pub text_encoders: Vec<OnnxTextEncoder>,
    /// Sample, timestep and embeddings to a prediction.
    pub unet: OnnxUnet,
    /// Latents to pixels.
    pub vae_decoder: OnnxVaeDecoder,
    /// Latents to pixels where the other overflows, if the model has it.
    pub vae_decoder_fp32: Option<LazyVaeDecoder>,
    /// Pixels to latents, if asked for.
    pub vae_encoder: Option<OnnxVaeEncoder>,
}

impl Networks {
    /// Loads the networks of `spec`; the VAE's encoder only `with_images`.
    ///
    /// # Errors
    /// Kind `Model`: ONNX Runtime refuses a graph, or there is no VAE encoder. Kind `Provider`: the device cannot be had;
    /// there is no fallback.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions, with_images: bool) -> Result<Networks> {
        cuda_libraries::open(runtime, options.device)?;
        let text = |part| OnnxTextEncoder::load(runtime, part, options);
        let vae_encoder = match &spec.vae_encoder {
            _ if !with_images => None,
            Some(bound) => Some(OnnxVaeEncoder::load(runtime, spec, bound, options)?),
            None => return Err(no_encoder(spec)),
        };
        let networks = Networks {
            text_encoders: spec.texts.iter().map(text).collect::<Result<_>>()?,
            unet: OnnxUnet::load(runtime, spec, options)?,
            vae_decoder: OnnxVaeDecoder::load(runtime, spec, &spec.vae_decoder, options)?,
            vae_decoder_fp32: LazyVaeDecoder::fp32(runtime, spec, options),
            vae_encoder,
        };
        heap::give_back();
        Ok(networks)
    }
}

fn no_encoder(spec: &ModelSpec) -> Error {
    Error::new(ErrorKind::Model, "no_vae_encoder", "rows name images, and the model folder has no `vae_encoder`")
        .at(Location::file(&spec.dir))
        .hint("copy `vae_encoder` of the same export into the folder, or leave those rows out")
}
