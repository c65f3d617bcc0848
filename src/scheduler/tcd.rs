//! Trajectory consistency distillation: Zheng et al. 2024 (arXiv 2402.19159), algorithm 4 (strategic stochastic sampling);
//! diffusers 0.42.1 `scheduling_tcd.py`. `eta` is the paper's gamma.

use ndarray::{Array3, ArrayView3};

use super::ddim::check_eta;
use super::fields::{Fields, Neutral};
use super::noising;
use super::prediction::{Mix, PredictionType, weighted_sum};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::{betas, distilled};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "TCDScheduler",
    variants: &[Variant { canonical: "tcd", a1111: "TCD", aliases: &[], overrides: &[] }],
    honoured: &[betas::FIELDS, betas::ZERO_SNR, distilled::FIELDS, &["prediction_type"]],
    defaults: &[("beta_start", "0.00085"), ("beta_end", "0.012"), ("beta_schedule", "\"scaled_linear\"")],
    neutral: &[
        // The class has these fields, and its `step` uses none of them.
        ("clip_sample", Neutral::Any),
        ("clip_sample_range", Neutral::Any),
        ("thresholding", Neutral::Any),
        ("dynamic_thresholding_ratio", Neutral::Any),
        ("sample_max_value", Neutral::Any),
        ("set_alpha_to_one", Neutral::Any),
        ("steps_offset", Neutral::Any),
        ("timestep_spacing", Neutral::Any),
        ("timestep_scaling", Neutral::Any),
    ],
    takes: Takes::TIMESTEPS,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let eta = request.eta;
    check_eta(eta)?;
    let alphas_cumprod = betas::alphas_cumprod(fields)?;
    let timesteps = distilled::timesteps(fields, alphas_cumprod.len(), request)?;
    let prediction_type = fields.choice("prediction_type", PredictionType::Epsilon)?;
    let alphas: Vec<f64> = timesteps.iter().map(|timestep| alphas_cumprod[*timestep]).collect();
    prediction_type.check_alphas(&alphas)?;
    let step = |i: usize| {
        let last = i + 1 == timesteps.len();
        let prev_timestep = timesteps.get(i + 1).copied().unwrap_or(0);
        // In f32, as torch multiplies whole numbers by a fraction.
        let timestep_s = ((1.0 - eta) as f32 * prev_timestep as f32).floor() as usize;
        let (alpha, prev, s) = (alphas[i], alphas_cumprod[prev_timestep], alphas_cumprod[timestep_s]);
        let (root, sigma) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        let (original, epsilon) = (prediction_type.original(root, sigma), prediction_type.epsilon(root, sigma));
        let noised = |of_picture: f64, of_noise: f64| s.sqrt() * of_picture + (1.0 - s).sqrt() * of_noise;
        let mix = Mix {
            sample: noised(original.sample, epsilon.sample),
            model_output: noised(original.model_output, epsilon.model_output),
        };
        let fresh = (eta > 0.0 && !last).then(|| ((prev / s).sqrt(), (1.0 - prev / s).max(0.0).sqrt()));
        Step { mix, fresh }
    };
    let solver = Tcd { steps: (0..timesteps.len()).map(step).collect() };
    let timesteps = timesteps.iter().map(|timestep| *timestep as f64).collect();
    let begin = distilled::begin(request, alphas.len())?;
    let noising = alphas.iter().map(|alpha| noising::of_alpha(*alpha)).collect();
    let numbers = Numbers { timesteps, sigmas: None, init_noise_sigma: 1.0, noising, begin };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// The scalars of one step.
#[derive(Debug)]
struct Step {
    /// What gives the sample at timestep s, between the next one and the picture.
    mix: Mix,
    /// Weights of that sample and of fresh noise, where it goes back up to the next timestep.
    fresh: Option<(f64, f64)>,
}

#[derive(Debug)]
struct Tcd {
    steps: Vec<Step>,
}

impl Solver for Tcd {
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        _memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let pred_noised_sample = self.steps[i].mix.of(sample, model_output);
        let Some((kept, fresh)) = self.steps[i].fresh else { return pred_noised_sample };
        weighted_sum(&[(kept, pred_noised_sample.view()), (fresh, noise.draw(sample.dim()).view())])
    }
}
