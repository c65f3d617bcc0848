//! DPM-Solver-2 in k-diffusion's form (`sample_dpm_2`): Lu et al. 2022 (arXiv 2206.00927) on the levels of Karras et al.
//! 2022; diffusers 0.42.1 `scheduling_k_dpm_2_discrete.py` (which lacks the prediction type `sample`; here it works).

use ndarray::{Array3, ArrayView3};

use super::clipping::Clipping;
use super::exploding::{Exploding, along};
use super::fields::Fields;
use super::heun_discrete::first_once_then_twice;
use super::noising;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::sigmas::{FinalSigmas, SigmaSpacing};
use super::{betas, sigmas, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "KDPM2DiscreteScheduler",
    variants: &[
        Variant { canonical: "dpm2", a1111: "DPM2", aliases: &["k_dpm_2", "kdpm2", "dpm_2"], overrides: &[] },
        Variant {
            canonical: "dpm2_karras",
            a1111: "DPM2 Karras",
            aliases: &["k_dpm_2_karras", "kdpm2_karras"],
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
    let steps = TwoLevels::new(fields, request, Class::KDpm2, geometric_mean)?;
    let mut sigmas = first_once_then_twice(&steps.sigmas);
    // diffusers' list, which ends in three zeros.
    sigmas.push(0.0);
    let (levels, numbers) = steps.interleave(sigmas);
    Ok(Schedule::new(ALGORITHM.class_name, numbers, KDpm2Discrete { levels }))
}

/// Returns the level halfway in log sigma, as diffusers' f32 arithmetic has it.
fn geometric_mean(sigma: f64, next: f64) -> f64 {
    let (high, low) = ((sigma as f32).ln(), (next as f32).ln());
    f64::from((high - (high - low) * 0.5).exp())
}

/// Where the forms differ in their timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// They are kept in f32; those of Karras levels are rounded to whole ones.
    KDpm2,
    /// They are kept in f64.
    Sde,
}

impl Class {
    fn kept(self) -> fn(f64) -> f64 {
        match self {
            Class::KDpm2 => |timestep| f64::from(timestep as f32),
            Class::Sde => |timestep| timestep,
        }
    }
}

/// What all forms of DPM-Solver-2 share: steps with an evaluation at their level and one at a level in between.
pub(super) struct TwoLevels {
    /// The levels of the steps, and the final one.
    pub(super) sigmas: Vec<f64>,
    /// The level in between, for every step but the last.
    between: Vec<f64>,
    /// Timesteps of both.
    timesteps: (Vec<f64>, Vec<f64>),
    levels: Exploding,
    init_noise_sigma: f64,
    /// The step that is made first.
    begin: usize,
}

impl TwoLevels {
    /// Computes the steps; `between` gives the level in between from a step's level and the next.
    pub(super) fn new(
        fields: &Fields,
        request: &ScheduleRequest,
        class: Class,
        between: impl Fn(f64, f64) -> f64,
    ) -> Result<Self> {
        let spacing = SigmaSpacing::read(fields)?;
        let (levels, numbers) = Exploding::with_timesteps(fields, spacing, FinalSigmas::Zero, request, class.kept())?;
        let training = sigmas::TrainingSigmas::new(&betas::positive_alphas_cumprod(fields)?)?;
        // As f32, as diffusers has them: the steps from the highest level enlarge what a last bit does.
        let sigmas: Vec<f64> = levels.sigmas.iter().map(|sigma| f64::from(*sigma as f32)).collect();
        let inner = &sigmas[..sigmas.len() - 1];
        let between: Vec<f64> = inner.windows(2).map(|pair| between(pair[0], pair[1])).collect();
        let timesteps_between = between.iter().map(|sigma| training.timestep_of(*sigma)).collect();
        let mut timesteps = numbers.timesteps;
        if class == Class::KDpm2 && spacing == SigmaSpacing::Karras {
            timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        }
        let timesteps = (timesteps, timesteps_between);
        Ok(TwoLevels {
            sigmas,
            between,
            timesteps,
            levels,
            init_noise_sigma: numbers.init_noise_sigma,
            begin: numbers.begin,
        })
    }

    /// Returns the levels of the evaluations, in order, with a final 0, and the schedule's numbers, which tell `sigmas`.
    pub(super) fn interleave(self, sigmas: Vec<f64>) -> (Exploding, Numbers) {
        let order = |own: &[f64], between: &[f64]| -> Vec<f64> {
            let rest = between.iter().zip(&own[1..]).flat_map(|(between, own)| [*between, *own]);
            std::iter::once(own[0]).chain(rest).collect()
        };
        let mut evaluated = order(&self.sigmas[..self.sigmas.len() - 1], &self.between);
        evaluated.push(0.0);
        let timesteps = order(&self.timesteps.0, &self.timesteps.1);
        // Of what is told, not of what is evaluated: a sample between two levels counts as of the lower one.
        let noising = noising::of_levels(&sigmas[..=timesteps.len()], noising::exploding);
        let (init_noise_sigma, begin) = (self.init_noise_sigma, 2 * self.begin);
        let numbers = Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma, noising, begin };
        (Exploding { sigmas: evaluated, ..self.levels }, numbers)
    }
}

#[derive(Debug)]
struct KDpm2Discrete {
    levels: Exploding,
}

impl Solver for KDpm2Discrete {
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
        let derivative = self.levels.derivative(i, model_output, sample, Clipping::Off);
        let sigma = |i: usize| self.levels.sigmas[i] as f32;
        match memory.pop() {
            None => {
                memory.push(sample.clone());
                along(sample, &derivative, sigma(i + 1) - sigma(i))
            }
            // From the start of the step, over all of it, in the direction found in between.
            Some(start) => along(&start, &derivative, sigma(i + 1) - sigma(i - 1)),
        }
    }
}
