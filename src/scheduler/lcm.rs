//! Latent consistency models: Luo et al. 2023 (arXiv 2310.04378), algorithm 3; diffusers 0.42.1 `scheduling_lcm.py`.

use ndarray::{Array3, ArrayView3};

use super::clipping::{self, Clipping};
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
    class_name: "LCMScheduler",
    variants: &[Variant { canonical: "lcm", a1111: "LCM", aliases: &[], overrides: &[] }],
    honoured: &[
        betas::FIELDS,
        betas::ZERO_SNR,
        clipping::FIELDS,
        distilled::FIELDS,
        &["prediction_type", "clip_sample", "clip_sample_range", "timestep_scaling"],
    ],
    defaults: &[("beta_start", "0.00085"), ("beta_end", "0.012"), ("beta_schedule", "\"scaled_linear\"")],
    neutral: &[
        // The timesteps are those of the distillation, and the last step ends at the picture itself.
        ("timestep_spacing", Neutral::Any),
        ("steps_offset", Neutral::Any),
        ("set_alpha_to_one", Neutral::Any),
    ],
    takes: Takes::TIMESTEPS,
    build,
};

/// Standard deviation of the pictures that the boundary condition assumes.
const SIGMA_DATA: f64 = 0.5;

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let alphas_cumprod = betas::alphas_cumprod(fields)?;
    let timesteps = distilled::timesteps(fields, alphas_cumprod.len(), request)?;
    let prediction_type = fields.choice("prediction_type", PredictionType::Epsilon)?;
    let scaling = fields.number("timestep_scaling", 10.0)?;
    let alphas: Vec<f64> = timesteps.iter().map(|timestep| alphas_cumprod[*timestep]).collect();
    prediction_type.check_alphas(&alphas)?;
    let step = |i: usize| {
        let scaled = timesteps[i] as f64 * scaling;
        let power = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let alpha = alphas[i];
        Step {
            original: prediction_type.original(alpha.sqrt(), (1.0 - alpha).sqrt()),
            skip: SIGMA_DATA * SIGMA_DATA / power,
            out: scaled / power.sqrt(),
            next: alphas.get(i + 1).map(|next| (next.sqrt(), (1.0 - next).sqrt())),
        }
    };
    let solver =
        Lcm { steps: (0..timesteps.len()).map(step).collect(), clipping: Clipping::read(fields, Some(false))? };
    let timesteps = timesteps.into_iter().map(|timestep| timestep as f64).collect();
    let begin = distilled::begin(request, alphas.len())?;
    let noising = alphas.iter().map(|alpha| noising::of_alpha(*alpha)).collect();
    let numbers = Numbers { timesteps, sigmas: None, init_noise_sigma: 1.0, noising, begin };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// The scalars of one step.
#[derive(Debug)]
struct Step {
    original: Mix,
    /// c_skip and c_out of the boundary condition.
    skip: f64,
    out: f64,
    /// Weights of picture and fresh noise in the next sample; the last step ends at the picture.
    next: Option<(f64, f64)>,
}

#[derive(Debug)]
struct Lcm {
    steps: Vec<Step>,
    clipping: Clipping,
}

impl Solver for Lcm {
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
        let denoised = weighted_sum(&[(step.out, original.view()), (step.skip, sample.view())]);
        let Some((alpha, sigma)) = step.next else { return denoised };
        weighted_sum(&[(alpha, denoised.view()), (sigma, noise.draw(sample.dim()).view())])
    }
}
