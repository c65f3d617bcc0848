//! The two graphs of a VAE, bound: latents to pixels and back.

use super::graph_file::{FLOATS, GraphFile, Role};
use super::signature::TensorInfo;
use crate::error::Result;

/// The VAE's decoder: latents to pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeDecoderGraph {
    /// The file.
    pub file: GraphFile,
    /// float `[batch, channels, height, width]`.
    pub latent_sample: TensorInfo,
    /// float `[batch, 3, height, width]`.
    pub sample: TensorInfo,
}

impl VaeDecoderGraph {
    /// Binds `file` as a VAE decoder.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a VAE decoder's.
    pub fn bind(file: GraphFile) -> Result<Self> {
        let latent = Role { names: &["latent_sample", "latent", "latents"], may_have_any_name: true, ..FLOATS };
        let image = Role { side: "output", names: &["sample", "images"], may_have_any_name: true, ..FLOATS };
        let latent_sample = file.input(&latent)?;
        let sample = file.output(&image)?;
        file.only_inputs(&[&latent_sample])?;
        Ok(VaeDecoderGraph { file, latent_sample, sample })
    }
}

/// The VAE's encoder: pixels to latents.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeEncoderGraph {
    /// The file.
    pub file: GraphFile,
    /// float `[batch, 3, height, width]`.
    pub sample: TensorInfo,
    /// float `[batch, channels, height, width]`: mean and logarithm of the variance one after the other where there are
    /// twice as many channels as latents have, else latents (which old exporters draw inside of the graph).
    pub latents: TensorInfo,
}

impl VaeEncoderGraph {
    /// Binds `file` as a VAE encoder.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a VAE encoder's.
    pub fn bind(file: GraphFile) -> Result<Self> {
        let image = Role { names: &["sample", "images"], may_have_any_name: true, ..FLOATS };
        let names = &["latent_parameters", "latent_sample", "latent", "latents", "moments"];
        let latents = Role { side: "output", names, may_have_any_name: true, ..FLOATS };
        let sample = file.input(&image)?;
        let latents = file.output(&latents)?;
        file.only_inputs(&[&sample])?;
        Ok(VaeEncoderGraph { file, sample, latents })
    }
}
