//! DPM-Solver-2 with fresh noise in both halves of a step, from one Brownian path: `sample_dpmpp_sde` of k-diffusion;
//! diffusers 0.42.1 `scheduling_dpmsolver_sde.py` (which lacks the prediction type `sample`; here it works).
//!
//! The path has the seed `noise_sampler_seed`; where the config has none (diffusers takes a random one then), the image's
//! own seed. Its numbers are of the kind of the image's noise. torchsde looks at times rounded to a millionth, so that the
//! last bit of a level moves a step's noise by about a thousandth: no closer do diffusers' pictures and these agree, nor
//! those of two builds of torch.
//! As for DPM2 ancestral, levels to go down to are computed without diffusers' difference of near equals.

use ndarray::{Array3, ArrayView3, Zip};

use super::brownian::Brownian;
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
    class_name: "DPMSolverSDEScheduler",
    variants: &[
        Variant { canonical: "dpmpp_sde", a1111: "DPM++ SDE", aliases: &["k_dpmpp_sde"], overrides: &[] },
        Variant {
            canonical: "dpmpp_sde_karras",
            a1111: "DPM++ SDE Karras",
            aliases: &["k_dpmpp_sde_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[betas::FIELDS, timesteps::FIELDS, sigmas::SPACING, &["prediction_type", "noise_sampler_seed"]],
    defaults: &[("beta_start", "0.00085"), ("beta_end", "0.012")],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let between = |sigma: f64, next: f64| (sigma * next).sqrt();
    let steps = TwoLevels::new(fields, request, Class::Sde, between)?;
    let inner = &steps.sigmas[..steps.sigmas.len() - 1];
    let path = Brownian::new(inner[inner.len() - 1], inner[0]);
    let mut sigmas = first_once_then_twice(inner);
    sigmas.push(0.0);
    let seed = fields.seed("noise_sampler_seed")?;
    let (levels, numbers) = steps.interleave(sigmas);
    Ok(Schedule::new(ALGORITHM.class_name, numbers, DpmSolverSde { levels, path, seed }))
}

#[derive(Debug)]
struct DpmSolverSde {
    /// The levels of the evaluations, a step's own and the one in between in turn.
    levels: Exploding,
    path: Brownian,
    /// Of the path; `None` is the image's.
    seed: Option<u64>,
}

impl Solver for DpmSolverSde {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        self.levels.model_input(i, sample)
    }

    /// `memory` is the start of the step, in its second half.
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let sigma = |i: usize| self.levels.sigmas[i];
        let derivative = self.levels.derivative(i, model_output, sample, Clipping::Off);
        if sigma(i + 1) == 0.0 {
            return along(sample, &derivative, -sigma(i) as f32);
        }
        let picture = along(sample, &derivative, -sigma(i) as f32);
        let (start, from) = memory.pop().map_or_else(
            || {
                memory.push(sample.clone());
                (sample.clone(), sigma(i))
            },
            // From the start of the step, over all of it, with the picture found in between.
            |start| (start, sigma(i - 1)),
        );
        let to = sigma(i + 1);
        let (down, up) = ancestral_step(from, to);
        let seed = self.seed.unwrap_or_else(|| noise.seed());
        let increment = self.path.increment((to, from), sample.dim(), seed, noise);
        // The path is walked from its end.
        let fresh = (-up / (from - to).sqrt()) as f32;
        let (kept, new) = ((down / from) as f32, (1.0 - down / from) as f32);
        Zip::from(&start)
            .and(&picture)
            .and(&increment)
            .map_collect(|start, picture, increment| kept * start + new * picture + fresh * increment)
    }
}
