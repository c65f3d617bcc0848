//! The three networks as the engine sees them. `onnx` implements these traits; tests use small doubles.
//!
//! Methods take `&mut self` because `ort`'s `Session::run` does.

use ndarray::{Array3, Array4, ArrayView2, ArrayView3, ArrayView4};

use crate::error::Result;

/// Turns token ids into embeddings.
pub trait TextEncoder: Send {
    /// Returns `prompt_embeds` `[batch, sequence, width]` of `input_ids` `[batch, sequence]`.
    ///
    /// # Errors
    /// The graph fails to run.
    fn encode(&mut self, input_ids: ArrayView2<'_, i64>) -> Result<Array3<f32>>;
}

/// How a UNet graph takes its timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepInput {
    /// One timestep a lane: `[batch]`. Images at different steps share a call.
    PerLane,
    /// One timestep a call: a scalar, or a static `[1]`. Only equal timesteps share a call.
    Shared,
}

/// Estimates noise (or velocity, or the sample: the scheduler's `prediction_type` says which).
pub trait Unet: Send {
    /// Returns how the graph takes its timestep.
    fn timestep_input(&self) -> TimestepInput;

    /// Returns `noise_pred` `[lanes, latent_channels, height, width]` for scaled `sample` of the same shape, one timestep
    /// a lane (all equal where [`TimestepInput::Shared`]) and `encoder_hidden_states` `[lanes, sequence, width]`.
    ///
    /// # Errors
    /// The graph fails to run.
    fn predict(
        &mut self,
        sample: ArrayView4<'_, f32>,
        timesteps: &[f64],
        encoder_hidden_states: ArrayView3<'_, f32>,
    ) -> Result<Array4<f32>>;
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
