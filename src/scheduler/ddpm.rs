//! Denoising diffusion probabilistic models: Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7; diffusers 0.42.1
//! `scheduling_ddpm.py`.

use ndarray::{Array3, ArrayView3};

use super::betas;
use super::clipping::{self, Clipping};
use super::fields::{Choice, Fields};
use super::noising;
use super::prediction::{Mix, PredictionType, weighted_sum};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::timesteps::{self, Spacing, TimestepSpacing};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "DDPMScheduler",
    variants: &[Variant { canonical: "ddpm", a1111: "DDPM", aliases: &[], overrides: &[] }],
    honoured: &[
        betas::FIELDS,
        betas::ZERO_SNR,
        timesteps::FIELDS,
        clipping::FIELDS,
        &["prediction_type", "clip_sample", "clip_sample_range", "variance_type"],
    ],
    defaults: &[],
    neutral: &[],
    takes: Takes::TIMESTEPS,
    build,
};

/// The variance of the fresh noise (section 3.2). Learned ones need a network that predicts them, which latent diffusion
/// models do not have; `fixed_large_log` has no use in the reference (it takes a logarithm's square root).
#[derive(Debug, Clone, Copy, PartialEq)]
enum VarianceType {
    FixedSmall,
    FixedLarge,
}

impl Choice for VarianceType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("fixed_small", VarianceType::FixedSmall),
        ("fixed_small_log", VarianceType::FixedSmall),
        ("fixed_large", VarianceType::FixedLarge),
    ];
}

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let alphas_cumprod = betas::alphas_cumprod(fields)?;
    let spacing = Spacing::read(fields, TimestepSpacing::Leading, alphas_cumprod.len())?;
    let timesteps = match request.own_whole_timesteps(alphas_cumprod.len())? {
        Some(timesteps) => timesteps,
        None => spacing.timesteps(request.num_inference_steps)?.into_iter().map(f64::round_ties_even).collect(),
    };
    let prediction_type = fields.choice("prediction_type", PredictionType::Epsilon)?;
    let variance_type = fields.choice("variance_type", VarianceType::FixedSmall)?;
    let alphas: Vec<f64> = timesteps.iter().map(|timestep| alphas_cumprod[*timestep as usize]).collect();
    prediction_type.check_alphas(&alphas)?;
    let after = alphas.iter().skip(1).copied().chain([1.0]);
    let mut steps: Vec<Step> = alphas
        .iter()
        .zip(after)
        .map(|(alpha, after)| Step::new(prediction_type, variance_type, *alpha, after))
        .collect();
    for (step, timestep) in steps.iter_mut().zip(&timesteps) {
        step.draws = *timestep > 0.0;
    }
    let begin = request.begin(timesteps.len())?;
    let noising = alphas.iter().map(|alpha| noising::of_alpha(*alpha)).collect();
    let numbers = Numbers { timesteps, sigmas: None, init_noise_sigma: 1.0, noising, begin };
    let solver = Ddpm { steps, clipping: Clipping::read(fields, Some(true))? };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// The scalars of one step.
#[derive(Debug)]
struct Step {
    original: Mix,
    /// Weights of eq. 7.
    picture: f64,
    sample: f64,
    std_dev: f64,
    /// Whether fresh noise is drawn: everywhere but at timestep 0.
    draws: bool,
}

impl Step {
    fn new(
        prediction_type: PredictionType,
        variance_type: VarianceType,
        alpha_prod_t: f64,
        alpha_prod_t_prev: f64,
    ) -> Self {
        let (beta_prod_t, beta_prod_t_prev) = (1.0 - alpha_prod_t, 1.0 - alpha_prod_t_prev);
        let current_alpha_t = alpha_prod_t / alpha_prod_t_prev;
        let current_beta_t = 1.0 - current_alpha_t;
        let variance = match variance_type {
            VarianceType::FixedSmall => (beta_prod_t_prev / beta_prod_t * current_beta_t).max(1e-20),
            VarianceType::FixedLarge => current_beta_t,
        };
        Step {
            original: prediction_type.original(alpha_prod_t.sqrt(), beta_prod_t.sqrt()),
            picture: alpha_prod_t_prev.sqrt() * current_beta_t / beta_prod_t,
            sample: current_alpha_t.sqrt() * beta_prod_t_prev / beta_prod_t,
            std_dev: variance.sqrt(),
            draws: true,
        }
    }
}

#[derive(Debug)]
struct Ddpm {
    steps: Vec<Step>,
    clipping: Clipping,
}

impl Solver for Ddpm {
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        _memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let step = &self.steps[i];
        let original = self.clipping.apply(step.original.of(sample, model_output));
        let terms = [(step.picture, original.view()), (step.sample, sample.view())];
        if !step.draws {
            return weighted_sum(&terms);
        }
        let fresh = noise.draw(sample.dim());
        weighted_sum(&[terms[0], terms[1], (step.std_dev, fresh.view())])
    }
}
