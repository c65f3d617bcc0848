//! What the algorithms in the variables of Karras et al. 2022 share: the sample is picture + sigma noise, and the network
//! gets it divided by sqrt(sigma² + 1).

use ndarray::{Array3, ArrayView3, Zip};

use super::betas::positive_alphas_cumprod;
use super::clipping::Clipping;
use super::fields::{Choice, Fields};
use super::noising;
use super::prediction::PredictionType;
use super::request::{ScheduleRequest, in_f32};
use super::schedule::Numbers;
use super::sigmas::{FinalSigmas, SigmaSpacing, TrainingSigmas};
use super::timesteps::{Spacing, TimestepSpacing};
use crate::error::{Error, ErrorKind, Result};

/// Which levels timesteps have that are given no spacing of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interpolation {
    /// Those of training at the timesteps.
    Linear,
    /// Even in log sigma, between the ends of training: one level more than timesteps, so that the last step ends at the
    /// smallest of training and the final level is never reached. As diffusers has it, which tells the network the timesteps
    /// of the other interpolation all the same.
    LogLinear,
}

impl Choice for Interpolation {
    const WORDS: &'static [(&'static str, Self)] =
        &[("linear", Interpolation::Linear), ("log_linear", Interpolation::LogLinear)];
}

/// What the network is told of the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimestepType {
    /// Its timestep.
    Discrete,
    /// Its logarithm, if the network predicts v (Stable Video Diffusion and its like); else its timestep, as in diffusers.
    Continuous,
}

impl Choice for TimestepType {
    const WORDS: &'static [(&'static str, Self)] =
        &[("discrete", TimestepType::Discrete), ("continuous", TimestepType::Continuous)];
}

/// Noise levels of the evaluations, the last one appended, and what the network predicts.
#[derive(Debug)]
pub(super) struct Exploding {
    pub(super) sigmas: Vec<f64>,
    pub(super) prediction_type: PredictionType,
}

impl Exploding {
    /// Computes timesteps and levels as `EulerDiscreteScheduler.set_timesteps` does.
    ///
    /// Timesteps of `linspace` have fractions. With spaced levels (`sigma_spacing`) the ends are those of the timesteps'
    /// levels. Of the fields `interpolation_type` and `timestep_type`, which only Euler's class has, see [`Interpolation`]
    /// and [`TimestepType`].
    pub(super) fn new(
        fields: &Fields,
        sigma_spacing: SigmaSpacing,
        last: FinalSigmas,
        request: &ScheduleRequest,
    ) -> Result<(Self, Numbers)> {
        Self::with_timesteps(fields, sigma_spacing, last, request, |timestep| f64::from(timestep as f32))
    }

    /// As [`Exploding::new`], for a class that keeps its timesteps as `kept` says.
    pub(super) fn with_timesteps(
        fields: &Fields,
        sigma_spacing: SigmaSpacing,
        last: FinalSigmas,
        request: &ScheduleRequest,
        kept: fn(f64) -> f64,
    ) -> Result<(Self, Numbers)> {
        let alphas_cumprod = positive_alphas_cumprod(fields)?;
        let training = TrainingSigmas::new(&alphas_cumprod)?;
        let prediction_type = fields.choice("prediction_type", PredictionType::Epsilon)?;
        let tells_levels = fields.choice("timestep_type", TimestepType::Discrete)? == TimestepType::Continuous
            && prediction_type == PredictionType::VPrediction;
        if tells_levels && request.timesteps.is_some() {
            let message = "`timesteps` cannot be given where `timestep_type` is `continuous`";
            return Err(
                Error::new(ErrorKind::Usage, "timesteps", message).hint("give `sigmas`: the network is told them")
            );
        }
        let spacing = Spacing::read(fields, TimestepSpacing::Linspace, alphas_cumprod.len())?;
        let (mut timesteps, sigmas) = if let Some(sigmas) = request.own_sigmas()?.map(in_f32) {
            (timesteps_of(&training, &sigmas[..sigmas.len() - 1], kept), sigmas)
        } else {
            let timesteps = match request.own_timesteps(alphas_cumprod.len())? {
                Some(timesteps) => sigma_spacing.refuse_timesteps().map(|()| timesteps)?,
                None => spacing.timesteps(request.num_inference_steps)?,
            };
            let (timesteps, sigmas) =
                spaced(fields, &training, sigma_spacing, timesteps.into_iter().map(kept).collect(), kept)?;
            (timesteps, training.finish(sigmas, last)?)
        };
        let init_noise_sigma = match spacing.spacing {
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => sigmas[0],
            TimestepSpacing::Leading => sigmas[0].hypot(1.0),
        };
        let begin = request.begin(timesteps.len())?;
        if tells_levels {
            timesteps = sigmas[..sigmas.len() - 1].iter().map(|sigma| told_level(*sigma)).collect();
        }
        let mut noising = noising::of_levels(&sigmas, noising::exploding);
        noising.truncate(timesteps.len());
        let numbers = Numbers { timesteps, sigmas: Some(sigmas.clone()), init_noise_sigma, noising, begin };
        Ok((Exploding { sigmas, prediction_type }, numbers))
    }

    /// Returns `sample` as the network takes it at evaluation `i`.
    pub(super) fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        let scale = self.sigmas[i].hypot(1.0) as f32;
        sample.mapv(|x| x / scale)
    }

    /// Returns `sample` moved from level `i` to level `to` (at most the next) along the line to the predicted picture.
    ///
    /// In f32 and in diffusers' order of operations, unlike everything else here: from sigma 157 to 0 in a few steps, the
    /// rounding of the large sample is more than 1e-5 of the small result, and only the same rounding is the same result.
    /// (From the levels of zero terminal SNR and cosine betas, 4096 and 20291, the last bit of torch's square roots
    /// shows; there a tolerance grows with the level.)
    pub(super) fn euler(
        &self,
        i: usize,
        to: f64,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
    ) -> Array3<f32> {
        let derivative = self.derivative(i, model_output, sample, Clipping::Off);
        along(sample, &derivative, to as f32 - self.sigmas[i] as f32)
    }

    /// Returns the derivative of `sample` by sigma at evaluation `i`: (sample - picture) / sigma, the picture in range.
    pub(super) fn derivative(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        clipping: Clipping,
    ) -> Array3<f32> {
        let original = self.prediction_type.original(1.0, self.sigmas[i]);
        let (of_sample, of_output) = (original.sample as f32, original.model_output as f32);
        let sigma = self.sigmas[i] as f32;
        let picture = Zip::from(sample).and(model_output).map_collect(|x, output| of_output * output + of_sample * x);
        Zip::from(sample).and(&clipping.apply(picture)).map_collect(|x, picture| (x - picture) / sigma)
    }
}

/// Returns the levels of `n` steps from the largest of training to the smallest, even in log sigma: `n` + 1 of them, in f32
/// and from both ends as torch's `linspace` counts.
fn log_linear(training: &TrainingSigmas, n: usize) -> Vec<f64> {
    let (from, to) = ((training.largest() as f32).ln(), (training.smallest() as f32).ln());
    let step = (to - from) / n as f32;
    let log = |i: usize| if i < n.div_ceil(2) { from + step * i as f32 } else { to - step * (n - i) as f32 };
    (0..=n).map(|i| f64::from(log(i).exp())).collect()
}

/// Returns what a network with [`TimestepType::Continuous`] is told of a level: `0.25 · ln(sigma)`.
fn told_level(sigma: f64) -> f64 {
    f64::from(0.25 * (sigma as f32).ln())
}

fn timesteps_of(training: &TrainingSigmas, sigmas: &[f64], kept: fn(f64) -> f64) -> Vec<f64> {
    sigmas.iter().map(|sigma| kept(training.timestep_of(*sigma))).collect()
}

/// Returns the levels of `timesteps`, or as many spaced ones between their ends, with their own timesteps.
fn spaced(
    fields: &Fields,
    training: &TrainingSigmas,
    sigma_spacing: SigmaSpacing,
    timesteps: Vec<f64>,
    kept: fn(f64) -> f64,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let sigmas = match fields.choice("interpolation_type", Interpolation::Linear)? {
        Interpolation::Linear => timesteps.iter().map(|timestep| training.at(*timestep)).collect(),
        Interpolation::LogLinear => log_linear(training, timesteps.len()),
    };
    let ends = (sigmas[0], sigmas[sigmas.len() - 1]);
    Ok(match sigma_spacing.levels(fields, ends, timesteps.len())? {
        Some(levels) => (timesteps_of(training, &levels, kept), levels),
        None => (timesteps, sigmas),
    })
}

/// Returns `sample` moved by `dt` along `derivative`.
pub(super) fn along(sample: &Array3<f32>, derivative: &Array3<f32>, dt: f32) -> Array3<f32> {
    Zip::from(sample).and(derivative).map_collect(|x, d| x + d * dt)
}
