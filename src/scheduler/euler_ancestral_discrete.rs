//! Euler steps a little too far down, then fresh noise back up to the next level: `sample_euler_ancestral` of k-diffusion;
//! diffusers 0.42.1 `scheduling_euler_ancestral_discrete.py` (which lacks the prediction type `sample`; here it works).

use ndarray::{Array3, ArrayView3};

use super::exploding::Exploding;
use super::fields::Fields;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Schedule, Solver};
use super::sigmas::{FinalSigmas, SigmaSpacing};
use super::{betas, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "EulerAncestralDiscreteScheduler",
    variants: &[Variant {
        canonical: "euler_a",
        a1111: "Euler a",
        aliases: &["euler_ancestral", "k_euler_a", "k_euler_ancestral"],
        overrides: &[],
    }],
    honoured: &[betas::FIELDS, betas::ZERO_SNR, timesteps::FIELDS, &["prediction_type"]],
    defaults: &[],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let (levels, numbers) = Exploding::new(fields, SigmaSpacing::Timesteps, FinalSigmas::Zero, request)?;
    Ok(Schedule::new(ALGORITHM.class_name, numbers, EulerAncestralDiscrete { levels }))
}

#[derive(Debug)]
struct EulerAncestralDiscrete {
    levels: Exploding,
}

impl Solver for EulerAncestralDiscrete {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        self.levels.model_input(i, sample)
    }

    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        _memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let (down, up) = ancestral_step(self.levels.sigmas[i], self.levels.sigmas[i + 1]);
        let mut prev_sample = self.levels.euler(i, down, model_output, sample);
        // Drawn at the last step too, where its weight is zero, as diffusers does.
        prev_sample.scaled_add(up as f32, &noise.draw(sample.dim()));
        prev_sample
    }
}

/// Returns the level to step down to and the deviation of the noise that leads from there up to `next`.
pub(super) fn ancestral_step(sigma: f64, next: f64) -> (f64, f64) {
    // k-diffusion's sqrt(next² - up²), without the difference of near equals.
    let down = next * next / sigma;
    (down, (next * next - down * down).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_and_up_make_the_next_level() {
        let (down, up) = ancestral_step(10.0, 6.0);
        assert!((down.hypot(up) - 6.0).abs() < 1e-12 && down < 6.0);
        assert_eq!(ancestral_step(0.1, 0.0), (0.0, 0.0));
    }
}
