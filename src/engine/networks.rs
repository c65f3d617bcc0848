//! The networks as the engine sees them. `onnx` implements these traits; tests use small doubles.
//!
//! Methods take `&mut self` because `ort`'s `Session::run` does.

use image::RgbImage;
use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayView3, ArrayView4};

use crate::error::{Error, ErrorKind, Result};
use crate::noise::Noise;

/// What a text encoder gives for a batch of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// `[batch, sequence, width]`; `None` where the model has no use for it.
    pub hidden_states: Option<Array3<f32>>,
    /// `[batch, width]`; `None` where the model has no use for it.
    pub pooled: Option<Array2<f32>>,
}

/// Turns token ids into embeddings.
pub trait TextEncoder: Send {
    /// Returns the embeddings of `input_ids` `[batch, sequence]`, of a layer `clip_skip` before the one that the model was
    /// trained with.
    ///
    /// # Errors
    /// The graph fails to run, or does not give that layer.
    fn encode(&mut self, input_ids: ArrayView2<'_, i64>, clip_skip: u32) -> Result<Encoded>;

    /// Told when no text is left to encode for a long time: what takes memory may go. A later text brings it back.
    fn rest(&mut self) {}
}

/// How a UNet graph takes its timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepInput {
    /// One timestep a lane: `[batch]`. Images at different steps share a call.
    PerLane,
    /// One timestep a call: a scalar, or a static `[1]`. Only equal timesteps share a call.
    Shared,
}

/// The lanes of one call of a UNet, or of the transformer that some models have in its place.
#[derive(Debug, Clone, Copy)]
pub struct UnetInputs<'a> {
    /// Scaled latents, and image channels after them: `[lanes, channels, height, width]`.
    pub sample: ArrayView4<'a, f32>,
    /// One timestep a lane (all equal where [`TimestepInput::Shared`]).
    pub timesteps: &'a [f64],
    /// `[lanes, sequence, width]`.
    pub encoder_hidden_states: ArrayView3<'a, f32>,
    /// Pooled text embeddings `[lanes, width]`, for models that take them.
    pub pooled: Option<ArrayView2<'a, f32>>,
    /// Sizes and crops `[lanes, 5 or 6]`, for models that take them.
    pub time_ids: Option<ArrayView2<'a, f32>>,
    /// Guidance scales, one a lane; only models with embedded guidance look at them.
    pub guidance_scales: &'a [f64],
}

/// Estimates noise (or velocity, or the sample: the scheduler's `prediction_type` says which).
pub trait Unet: Send {
    /// Returns how the graph takes its timestep.
    fn timestep_input(&self) -> TimestepInput;

    /// Returns `noise_pred` `[lanes, latent_channels, height, width]`.
    ///
    /// # Errors
    /// The graph fails to run.
    fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>>;

    /// Returns what [`Unet::predict`] does, for inputs that differ from those of the last call in `sample` and `timesteps` at
    /// most. A device that still has the others need not be given them again; who has no use for that calls `predict`.
    ///
    /// # Errors
    /// The graph fails to run.
    fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>>;

    /// Returns what [`Unet::predict`] does, and what the inner blocks gave, `[lanes, channels, h, w]`, for later calls of
    /// [`Unet::predict_shallow`].
    ///
    /// # Errors
    /// The graph fails to run, or was not loaded for this.
    fn predict_deep(&mut self, _: UnetInputs<'_>) -> Result<(Array4<f32>, Array4<f32>)> {
        Err(no_features())
    }

    /// Returns what [`Unet::predict`] does, with `features` in place of what the inner blocks would give, which are not computed.
    ///
    /// # Errors
    /// The graph fails to run, or was not loaded for this.
    fn predict_shallow(&mut self, _: UnetInputs<'_>, _features: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        Err(no_features())
    }

    /// Returns whether all calls are to have the same number of lanes, as long as memory suffices for it, those that are left
    /// over filled up. Kernels of GPUs give other last bits for other numbers of lanes, and want to be chosen for each.
    fn wants_fixed_lanes(&self) -> bool;
}

fn no_features() -> Error {
    Error::new(ErrorKind::Unexpected, "no_features", "this network was not loaded to keep what its inner blocks give")
}

/// Turns latents into pixels.
pub trait VaeDecoder: Send {
    /// Returns pixels `[batch, 3, height, width]` in about [-1, 1] of `latents` `[batch, latent_channels, h, w]`, which the
    /// caller has already divided by `scaling_factor`.
    ///
    /// # Errors
    /// The graph fails to run.
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>>;
}

/// Says how well a picture fits a text.
pub trait Scorer: Send {
    /// Returns the cosine of the angle between the embeddings of picture and text, -1 to 1.
    ///
    /// # Errors
    /// A graph fails to run, or the text cannot be split into tokens.
    fn cosine(&mut self, image: &RgbImage, text: &str) -> Result<f64>;
}

/// What a VAE's encoder gives for one picture; both `[latent_channels, h, w]`, not yet scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentDistribution {
    /// Mean of each value.
    pub mean: Array3<f32>,
    /// Standard deviation of each value; `None` for encoders that give latents without a distribution.
    pub std: Option<Array3<f32>>,
}

impl LatentDistribution {
    /// Returns a sample, drawn from `noise` (diffusers: `retrieve_latents`); without a distribution, the latents themselves.
    pub fn sample(self, noise: &mut dyn Noise) -> Array3<f32> {
        match self.std {
            Some(std) => {
                let fresh = noise.draw(std.dim());
                self.mean + std * fresh
            }
            None => self.mean,
        }
    }
}

/// Turns pixels into latents.
pub trait VaeEncoder: Send {
    /// Returns the latents of one picture `[3, height, width]` in [-1, 1].
    ///
    /// # Errors
    /// The graph fails to run.
    fn encode(&mut self, pixels: ArrayView3<'_, f32>) -> Result<LatentDistribution>;
}
