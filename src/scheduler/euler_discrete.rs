//! Euler's method on the probability flow ODE: Karras et al. 2022 (arXiv 2206.00364), algorithm 2 without churn;
//! diffusers 0.42.1 `scheduling_euler_discrete.py`.

use ndarray::{Array3, ArrayView3};

use super::exploding::Exploding;
use super::fields::Fields;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Schedule, Solver};
use super::sigmas::{FinalSigmas, SigmaSpacing};
use super::{betas, sigmas, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "EulerDiscreteScheduler",
    variants: &[
        Variant { canonical: "euler", a1111: "Euler", aliases: &["k_euler"], overrides: &[] },
        Variant {
            canonical: "euler_karras",
            a1111: "Euler Karras",
            aliases: &["k_euler_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[
        betas::FIELDS,
        betas::ZERO_SNR,
        timesteps::FIELDS,
        sigmas::SPACING,
        sigmas::FINAL,
        &["prediction_type", "interpolation_type", "timestep_type"],
    ],
    defaults: &[],
    neutral: &[],
    takes: Takes::BOTH,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let last = fields.choice("final_sigmas_type", FinalSigmas::Zero)?;
    let (levels, numbers) = Exploding::new(fields, SigmaSpacing::read(fields)?, last, request)?;
    Ok(Schedule::new(ALGORITHM.class_name, numbers, EulerDiscrete { levels }))
}

#[derive(Debug)]
struct EulerDiscrete {
    levels: Exploding,
}

impl Solver for EulerDiscrete {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        self.levels.model_input(i, sample)
    }

    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        _memory: &mut Vec<Array3<f32>>,
        _noise: &mut dyn Noise,
    ) -> Array3<f32> {
        self.levels.euler(i, self.levels.sigmas[i + 1], model_output, sample)
    }
}
