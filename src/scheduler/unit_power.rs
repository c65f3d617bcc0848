//! What the algorithms share that keep the sample at unit power (alpha picture + sigma noise, alpha² + sigma² = 1) and step
//! in lambda = ln(alpha / sigma): their timesteps and levels, and how they read the network's output.

use ndarray::{Array3, ArrayView3};

use super::betas;
use super::clipping::Clipping;
use super::fields::{Fields, bad};
use super::prediction::{Mix, PredictionType, weighted_sum};
use super::request::ScheduleRequest;
use super::sigmas::{FinalSigmas, SigmaSpacing, TrainingSigmas};
use super::timesteps::{Spacing, TimestepSpacing};
use crate::error::Result;

/// Returns alpha and sigma of a unit-power sample at noise level `sigma`.
pub(super) fn alpha_sigma(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / sigma.hypot(1.0);
    (alpha, sigma * alpha)
}

/// Where the classes differ in their levels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The final level.
    pub(super) last: FinalSigmas,
    /// Whether a final level above zero is, after spaced levels (Karras, …), the last of them, not the least of training.
    pub(super) ends_at_own_least: bool,
    /// Whether the timesteps of Karras levels are rounded to the nearest; those of other spaced levels are cut off.
    pub(super) rounds_karras: bool,
}

/// Returns timesteps, whole numbers, and noise levels, the final one included.
///
/// With spaced levels (Karras, exponential) neighbouring timesteps may be equal, as in diffusers: they are then only what
/// the network is told. Here such a schedule still starts at its first step (diffusers starts at the second of two equal
/// timesteps).
pub(super) fn levels(fields: &Fields, rules: Rules, request: &ScheduleRequest) -> Result<(Vec<f64>, Vec<f64>)> {
    let alphas_cumprod = betas::positive_alphas_cumprod(fields)?;
    let training = TrainingSigmas::new(&alphas_cumprod)?;
    let lambda_min = -training.largest().ln();
    let clipped = fields.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    if clipped > lambda_min {
        return Err(bad("lambda_min_clipped", &clipped.into(), &format!("`-Infinity` or less than {lambda_min:.4}")));
    }
    let spacing = Spacing::read(fields, TimestepSpacing::Linspace, alphas_cumprod.len())?;
    let spacing = Spacing { without_lowest: true, ..spacing };
    let ends = (training.largest(), training.smallest());
    let sigma_spacing = SigmaSpacing::read(fields)?;
    if let Some(timesteps) = request.own_whole_timesteps(alphas_cumprod.len())? {
        sigma_spacing.refuse_timesteps()?;
        let sigmas = timesteps.iter().map(|timestep| training.at(*timestep)).collect();
        return Ok((timesteps, training.finish(sigmas, rules.last)?));
    }
    let n = request.num_inference_steps;
    spacing.check(n)?;
    let Some(sigmas) = sigma_spacing.levels(fields, ends, n as usize)? else {
        let timesteps: Vec<f64> = spacing.timesteps(n)?.into_iter().map(f64::round_ties_even).collect();
        let sigmas = timesteps.iter().map(|timestep| training.at(*timestep)).collect();
        return Ok((timesteps, training.finish(sigmas, rules.last)?));
    };
    let rounds = sigma_spacing == SigmaSpacing::Karras && rules.rounds_karras;
    let whole = if rounds { f64::round_ties_even } else { f64::trunc };
    let timesteps = sigmas.iter().map(|sigma| whole(training.timestep_of(*sigma))).collect();
    let least = sigmas.last().copied();
    let mut sigmas = training.finish(sigmas, rules.last)?;
    if let (FinalSigmas::SigmaMin, true, Some(end), Some(least)) =
        (rules.last, rules.ends_at_own_least, sigmas.last_mut(), least)
    {
        *end = least;
    }
    Ok((timesteps, sigmas))
}

/// How the network's output is read at one level: as the picture, in range, and from that as the noise where the
/// algorithm sums noise.
#[derive(Debug)]
pub(super) struct Reading {
    original: Mix,
    /// Weights of sample and picture in the noise.
    noise: Option<(f64, f64)>,
}

impl Reading {
    /// The reading as picture.
    pub(super) fn picture(prediction_type: PredictionType, sigma: f64) -> Self {
        let (alpha, sigma) = alpha_sigma(sigma);
        Reading { original: prediction_type.original(alpha, sigma), noise: None }
    }

    /// The reading as picture by weights of sample and output.
    pub(super) fn of_weights(original: Mix) -> Self {
        Reading { original, noise: None }
    }

    /// The reading as noise.
    pub(super) fn noise(prediction_type: PredictionType, sigma: f64) -> Self {
        let picture = Self::picture(prediction_type, sigma);
        let (alpha, sigma) = alpha_sigma(sigma);
        Reading { noise: Some((1.0 / sigma, -alpha / sigma)), ..picture }
    }

    /// Returns the weights of sample and output where nothing but a sum is done with them.
    pub(super) fn linear(&self, clipping: Clipping) -> Option<Mix> {
        let original = self.original;
        let Some((of_sample, of_picture)) = self.noise else { return (clipping == Clipping::Off).then_some(original) };
        (clipping == Clipping::Off).then_some(Mix {
            sample: of_sample + of_picture * original.sample,
            model_output: of_picture * original.model_output,
        })
    }

    /// Returns the picture or the noise in `sample`.
    pub(super) fn of(
        &self,
        sample: &Array3<f32>,
        model_output: ArrayView3<'_, f32>,
        clipping: Clipping,
    ) -> Array3<f32> {
        if let Some(mix) = self.linear(clipping) {
            return mix.of(sample, model_output);
        }
        let picture = clipping.apply(self.original.of(sample, model_output));
        match self.noise {
            None => picture,
            Some((of_sample, of_picture)) => weighted_sum(&[(of_sample, sample.view()), (of_picture, picture.view())]),
        }
    }
}
