//! Heun's method on the probability flow ODE: Karras et al. 2022 (arXiv 2206.00364), algorithm 2 without churn; diffusers
//! 0.42.1 `scheduling_heun_discrete.py`.

use ndarray::{Array3, ArrayView3, Zip};

use super::clipping::Clipping;
use super::exploding::{Exploding, along};
use super::fields::Fields;
use super::noising;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::sigmas::{FinalSigmas, SigmaSpacing};
use super::{betas, sigmas, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "HeunDiscreteScheduler",
    variants: &[
        Variant { canonical: "heun", a1111: "Heun", aliases: &["k_heun"], overrides: &[] },
        Variant {
            canonical: "heun_karras",
            a1111: "Heun Karras",
            aliases: &["k_heun_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[
        betas::FIELDS,
        timesteps::FIELDS,
        sigmas::SPACING,
        &["prediction_type", "clip_sample", "clip_sample_range"],
    ],
    defaults: &[("beta_start", "0.00085"), ("beta_end", "0.012")],
    neutral: &[],
    takes: Takes::TIMESTEPS,
    build,
};

/// Every step but the last has two evaluations: at its own level, and at the next one, where Euler's step lands.
///
/// With timesteps of the request's own and a start part-way, `strength` is a share of the steps. (In diffusers' pipelines
/// it is then one of the evaluations, of which twice as many are left out, so that often none is left.)
fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let (levels, numbers) = Exploding::new(fields, SigmaSpacing::read(fields)?, FinalSigmas::Zero, request)?;
    let timesteps = first_once_then_twice(&numbers.timesteps);
    let (last, before) = levels.sigmas.split_last().expect("there is a final level");
    let mut sigmas = first_once_then_twice(before);
    sigmas.push(*last);
    let levels = Exploding { sigmas: sigmas.clone(), ..levels };
    let noising = noising::of_levels(&sigmas, noising::exploding);
    let numbers = Numbers { timesteps, sigmas: Some(sigmas), noising, begin: 2 * numbers.begin, ..numbers };
    let clipping = Clipping::range(fields, false)?;
    Ok(Schedule::new(ALGORITHM.class_name, numbers, HeunDiscrete { levels, clipping }))
}

/// Returns the first of `values` once and every other twice.
pub(super) fn first_once_then_twice(values: &[f64]) -> Vec<f64> {
    values.iter().flat_map(|value| [*value; 2]).skip(1).collect()
}

#[derive(Debug)]
struct HeunDiscrete {
    levels: Exploding,
    clipping: Clipping,
}

impl Solver for HeunDiscrete {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        self.levels.model_input(i, sample)
    }

    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        _noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let derivative = self.levels.derivative(i, model_output, sample, self.clipping);
        let dt = |from: usize, to: usize| self.levels.sigmas[to] as f32 - self.levels.sigmas[from] as f32;
        let (Some(start), Some(first)) = (memory.pop(), memory.pop()) else {
            // Euler's step; the next evaluation begins again from here with the mean of both derivatives.
            let landed = along(sample, &derivative, dt(i, i + 1));
            memory.extend([derivative, sample.clone()]);
            return landed;
        };
        let mean = Zip::from(&first).and(&derivative).map_collect(|a, b| (a + b) / 2.0);
        along(&start, &mean, dt(i - 1, i))
    }
}
