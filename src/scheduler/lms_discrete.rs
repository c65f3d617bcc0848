//! Linear multistep of order 4: `sample_lms` of k-diffusion; diffusers 0.42.1 `scheduling_lms_discrete.py`.
//!
//! Begun part-way, the first steps have the weights of order 4 and fewer derivatives than these are for, as in diffusers:
//! they move the sample too far (the newest derivative alone counts up to 55/24).

use ndarray::{Array3, ArrayView3};

use super::clipping::Clipping;
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
    class_name: "LMSDiscreteScheduler",
    variants: &[
        Variant { canonical: "lms", a1111: "LMS", aliases: &["k_lms"], overrides: &[] },
        Variant {
            canonical: "lms_karras",
            a1111: "LMS Karras",
            aliases: &["k_lms_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[betas::FIELDS, timesteps::FIELDS, sigmas::SPACING, &["prediction_type"]],
    defaults: &[],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

/// How many derivatives a step looks at.
const ORDER: usize = 4;

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let (levels, numbers) = Exploding::new(fields, SigmaSpacing::read(fields)?, FinalSigmas::Zero, request)?;
    let coefficients = (0..numbers.timesteps.len()).map(|i| coefficients(&levels.sigmas, i)).collect();
    Ok(Schedule::new(ALGORITHM.class_name, numbers, LmsDiscrete { levels, coefficients }))
}

/// Returns the weights of the derivatives at step `i`, newest first: each the integral over the step of the polynomial
/// that is 1 at its own level and 0 at the others'.
fn coefficients(sigmas: &[f64], i: usize) -> Vec<f64> {
    // As f32, as diffusers has them: the step from the highest level is large, and so is what a last bit of it does.
    let level = |i: usize| f64::from(sigmas[i] as f32);
    let order = ORDER.min(i + 1);
    let known: Vec<f64> = (0..order).map(|back| level(i - back)).collect();
    let basis = |own: usize, at: f64| -> f64 {
        let others = (0..order).filter(|other| *other != own);
        others.map(|other| (at - known[other]) / (known[own] - known[other])).product()
    };
    (0..order).map(|own| integral(level(i), level(i + 1), |at| basis(own, at))).collect()
}

/// Returns the integral of a polynomial of degree 3 or less from `from` to `to`: Gauss and Legendre's rule with two points,
/// which is exact for it (diffusers integrates numerically, to the same number).
fn integral(from: f64, to: f64, polynomial: impl Fn(f64) -> f64) -> f64 {
    let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
    let offset = half / 3f64.sqrt();
    half * (polynomial(middle - offset) + polynomial(middle + offset))
}

#[derive(Debug)]
struct LmsDiscrete {
    levels: Exploding,
    coefficients: Vec<Vec<f64>>,
}

impl Solver for LmsDiscrete {
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
        memory.insert(0, self.levels.derivative(i, model_output, sample, Clipping::Off));
        memory.truncate(ORDER);
        let mut sum = Array3::<f32>::zeros(sample.dim());
        for (coefficient, derivative) in self.coefficients[i].iter().zip(memory.iter()) {
            sum.scaled_add(*coefficient as f32, derivative);
        }
        sample + &sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_to_the_step_and_follow_a_cubic() {
        let sigmas = [10.0, 6.0, 3.0, 1.0, 0.2];
        let weights = coefficients(&sigmas, 3);
        assert!((weights.iter().sum::<f64>() - (0.2 - 1.0)).abs() < 1e-7);
        let cubic: f64 = weights.iter().zip([1.0, 3.0, 6.0, 10.0]).map(|(w, at)| w * 4.0 * at * at * at).sum();
        assert!((cubic - (0.2f64.powi(4) - 1.0)).abs() < 1e-7, "{cubic}");
        assert_eq!(coefficients(&sigmas, 0), [-4.0]);
    }
}
