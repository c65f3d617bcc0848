//! DPM-Solver-2 a little too far down, then fresh noise back up: `sample_dpm_2_ancestral` of k-diffusion; diffusers 0.42.1
//! `scheduling_k_dpm_2_ancestral_discrete.py` (which lacks the prediction type `sample`; here it works).
//!
//! After a large step, diffusers' level to go down to is a difference of near equals in f32: a few of its bits, or NaN, and
//! the evaluation in between lies at its square root. Here it is computed without that difference, so pictures of few
//! steps differ by about 1e-3 from diffusers'.

use ndarray::{Array3, ArrayView3};

use super::clipping::Clipping;
use super::euler_ancestral_discrete::ancestral_step;
use super::exploding::{Exploding, along};
use super::fields::Fields;
use super::heun_discrete::first_once_then_twice;
use super::k_dpm_2_discrete::{Class, TwoLevels};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Schedule, Solver};
use super::{betas, sigmas, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "KDPM2AncestralDiscreteScheduler",
    variants: &[
        Variant {
            canonical: "dpm2_a",
            a1111: "DPM2 a",
            aliases: &["k_dpm_2_a", "k_dpm_2_ancestral", "kdpm2_ancestral", "dpm_2_ancestral"],
            overrides: &[],
        },
        Variant {
            canonical: "dpm2_a_karras",
            a1111: "DPM2 a Karras",
            aliases: &["k_dpm_2_a_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[betas::FIELDS, timesteps::FIELDS, sigmas::SPACING, &["prediction_type"]],
    defaults: &[("beta_start", "0.00085"), ("beta_end", "0.012")],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let between = |sigma: f64, next: f64| (sigma * ancestral_step(sigma, next).0).sqrt();
    let steps = TwoLevels::new(fields, request, Class::KDpm2, between)?;
    let down_up = steps.sigmas.windows(2).map(|pair| ancestral_step(pair[0], pair[1])).collect();
    let mut sigmas = first_once_then_twice(&steps.sigmas);
    // diffusers' list, which ends in three zeros.
    sigmas.push(0.0);
    let (levels, numbers) = steps.interleave(sigmas);
    Ok(Schedule::new(ALGORITHM.class_name, numbers, KDpm2AncestralDiscrete { levels, down_up }))
}

#[derive(Debug)]
struct KDpm2AncestralDiscrete {
    levels: Exploding,
    /// Of every step: the level to go down to, and the deviation of the noise that leads back up.
    down_up: Vec<(f64, f64)>,
}

impl Solver for KDpm2AncestralDiscrete {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        self.levels.model_input(i, sample)
    }

    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let derivative = self.levels.derivative(i, model_output, sample, Clipping::Off);
        let sigma = |i: usize| self.levels.sigmas[i] as f32;
        let Some(start) = memory.pop() else {
            memory.push(sample.clone());
            return along(sample, &derivative, sigma(i + 1) - sigma(i));
        };
        let (down, up) = self.down_up[i / 2];
        let mut prev_sample = along(&start, &derivative, down as f32 - sigma(i - 1));
        prev_sample.scaled_add(up as f32, &noise.draw(sample.dim()));
        prev_sample
    }
}
