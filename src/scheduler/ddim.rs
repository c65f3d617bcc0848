//! Denoising diffusion implicit models: Song et al. 2021 (arXiv 2010.02502), eq. 12 and 16; diffusers 0.42.1
//! `scheduling_ddim.py`.

use ndarray::{Array3, ArrayView3};

use super::betas;
use super::clipping::{self, Clipping};
use super::fields::Fields;
use super::noising;
use super::prediction::{Mix, PredictionType, weighted_sum};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::timesteps::{self, Spacing, TimestepSpacing};
use crate::error::{Error, ErrorKind, Result};
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "DDIMScheduler",
    variants: &[Variant { canonical: "ddim", a1111: "DDIM", aliases: &[], overrides: &[] }],
    honoured: &[
        betas::FIELDS,
        betas::ZERO_SNR,
        timesteps::FIELDS,
        clipping::FIELDS,
        &["prediction_type", "clip_sample", "clip_sample_range", "set_alpha_to_one"],
    ],
    defaults: &[],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

/// As in diffusers, a step goes from timestep t to t - `num_train_timesteps` / n (a whole division), whatever the next
/// timestep is: with `linspace` and `trailing` the two may differ a little.
fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    check_eta(request.eta)?;
    let alphas_cumprod = betas::alphas_cumprod(fields)?;
    let spacing = Spacing::read(fields, TimestepSpacing::Leading, alphas_cumprod.len())?;
    let timesteps: Vec<f64> =
        spacing.timesteps(request.num_inference_steps)?.into_iter().map(f64::round_ties_even).collect();
    let stride = f64::from(spacing.num_train_timesteps / request.num_inference_steps);
    let after_last = if fields.flag("set_alpha_to_one", true)? { 1.0 } else { alphas_cumprod[0] };
    let alpha_at = |timestep: f64| if timestep < 0.0 { after_last } else { alphas_cumprod[timestep as usize] };
    let prediction_type = fields.choice("prediction_type", PredictionType::Epsilon)?;
    prediction_type.check_alphas(&timesteps.iter().map(|timestep| alpha_at(*timestep)).collect::<Vec<_>>())?;
    let step =
        |timestep: &f64| Step::new(prediction_type, alpha_at(*timestep), alpha_at(timestep - stride), request.eta);
    let steps = timesteps.iter().map(step).collect();
    let solver = Ddim { steps, clipping: Clipping::read(fields, Some(true))?, draws: request.eta > 0.0 };
    let begin = request.begin(timesteps.len())?;
    let noising = timesteps.iter().map(|timestep| noising::of_alpha(alpha_at(*timestep))).collect();
    let numbers = Numbers { timesteps, sigmas: None, init_noise_sigma: 1.0, noising, begin };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// Refuses an `eta` outside [0, 1].
///
/// # Errors
/// `eta` (usage).
pub(super) fn check_eta(eta: f64) -> Result<()> {
    if (0.0..=1.0).contains(&eta) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, "eta", format!("`eta` cannot be `{eta}`")).hint("it can be 0 to 1"))
}

#[derive(Debug)]
struct Ddim {
    steps: Vec<Step>,
    clipping: Clipping,
    draws: bool,
}

/// The scalars of one step: two readings of the network's output, and eq. 12's three terms.
#[derive(Debug)]
struct Step {
    original: Mix,
    epsilon: Mix,
    /// Weight of "predicted x0".
    picture: f64,
    /// Weight of "direction pointing to x_t".
    direction: f64,
    /// Weight of the random noise (eq. 16, times `eta`).
    std_dev: f64,
}

impl Step {
    fn new(prediction_type: PredictionType, alpha_prod_t: f64, alpha_prod_t_prev: f64, eta: f64) -> Self {
        let (alpha, sigma) = (alpha_prod_t.sqrt(), (1.0 - alpha_prod_t).sqrt());
        let (beta_prod_t, beta_prod_t_prev) = (1.0 - alpha_prod_t, 1.0 - alpha_prod_t_prev);
        let variance = beta_prod_t_prev / beta_prod_t * (1.0 - alpha_prod_t / alpha_prod_t_prev);
        let std_dev = eta * variance.max(0.0).sqrt();
        Step {
            original: prediction_type.original(alpha, sigma),
            epsilon: prediction_type.epsilon(alpha, sigma),
            picture: alpha_prod_t_prev.sqrt(),
            direction: (beta_prod_t_prev - std_dev * std_dev).max(0.0).sqrt(),
            std_dev,
        }
    }
}

impl Solver for Ddim {
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
        let epsilon = step.epsilon.of(sample, model_output);
        let terms = [(step.picture, original.view()), (step.direction, epsilon.view())];
        if !self.draws {
            return weighted_sum(&terms);
        }
        let fresh = noise.draw(sample.dim());
        weighted_sum(&[terms[0], terms[1], (step.std_dev, fresh.view())])
    }
}
