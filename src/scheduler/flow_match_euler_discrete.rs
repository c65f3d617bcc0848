//! Euler's method for flow matching (rectified flow): Liu et al. 2022 (arXiv 2209.03003), Esser et al. 2024
//! (arXiv 2403.03206); diffusers 0.42.1 `scheduling_flow_match_euler_discrete.py`.
//!
//! The sample is (1 - sigma) picture + sigma noise, the network predicts noise - picture, and sigma falls from 1 to 0.

use ndarray::{Array3, ArrayView3, Zip};

use super::fields::{Fields, Neutral};
use super::flow_shift::{self, Shift};
use super::registry::{Algorithm, Takes, Variant};
use super::request::{ScheduleRequest, in_f32};
use super::schedule::{Numbers, Schedule, Solver};
use super::sigmas::SigmaSpacing;
use super::{noising, sigmas};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "FlowMatchEulerDiscreteScheduler",
    variants: &[Variant {
        canonical: "flow_euler",
        a1111: "Flow Euler",
        aliases: &["flow_match_euler"],
        overrides: &[],
    }],
    honoured: &[
        flow_shift::DYNAMIC,
        sigmas::SPACING,
        &["num_train_timesteps", "shift", "shift_terminal", "invert_sigmas", "stochastic_sampling"],
    ],
    defaults: &[],
    // A model that predicts noise or velocity cannot be stepped by this.
    neutral: &[("prediction_type", Neutral::Word("flow_prediction"))],
    takes: Takes::BOTH,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let (timesteps, sigmas) = levels(fields, request)?;
    let (timesteps, sigmas) = if fields.flag("invert_sigmas", false)? {
        // For a network that counts from the noise (Mochi): the sample is sigma noise all the same, says diffusers.
        let train = flow_shift::num_train_timesteps(fields)?;
        let sigmas: Vec<f64> = sigmas.iter().map(|sigma| f64::from(1.0 - *sigma as f32)).collect();
        (sigmas[..timesteps.len()].iter().map(|sigma| sigma * train).collect(), sigmas)
    } else {
        (timesteps, sigmas)
    };
    let solver = FlowMatchEulerDiscrete {
        sigmas: sigmas.iter().map(|sigma| *sigma as f32).collect(),
        stochastic: fields.flag("stochastic_sampling", false)?,
    };
    let (noising, begin) = (noising::of_levels(&sigmas, noising::flow), request.begin_of_flow(timesteps.len())?);
    let numbers = Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma: 1.0, noising, begin };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// Returns timesteps and levels, the final 0 included. The request's own timesteps are told to the network as they are,
/// whatever becomes of their levels.
fn levels(fields: &Fields, request: &ScheduleRequest) -> Result<(Vec<f64>, Vec<f64>)> {
    let (shift, train) = (Shift::read(fields, "shift", request)?, flow_shift::num_train_timesteps(fields)?);
    let told = own_timesteps(request, train)?.map(in_f32);
    let even = match (&told, flow_shift::own_sigmas(request)?) {
        (Some(timesteps), _) => timesteps.iter().map(|timestep| timestep / train).collect(),
        (None, Some(sigmas)) => in_f32(sigmas),
        (None, None) => even(shift, train, request.num_inference_steps)?,
    };
    let mut sigmas: Vec<f64> = even.into_iter().map(|sigma| shift.apply(sigma)).collect();
    flow_shift::stretch_to_terminal(fields, &mut sigmas)?;
    let ends = (sigmas[0], sigmas[sigmas.len() - 1]);
    let sigmas = SigmaSpacing::read(fields)?.levels(fields, ends, sigmas.len())?.unwrap_or(sigmas);
    let (timesteps, sigmas) = finish(sigmas, train);
    Ok((told.unwrap_or(timesteps), sigmas))
}

/// Returns the request's own timesteps, which fall in (0, `train`].
fn own_timesteps(request: &ScheduleRequest, train: f64) -> Result<Option<Vec<f64>>> {
    let inside = |all: &[f64]| !all.is_empty() && all.iter().all(|timestep| *timestep > 0.0 && *timestep <= train);
    request.checked("timesteps", &request.timesteps, inside, format!("they are above 0, at most {train}, and fall"))
}

/// Returns `n` falling levels, even between those of the ends of training.
///
/// As in diffusers, ends with a fixed shift are shifted already, and will be shifted again; this matters for the last level.
pub(super) fn even(shift: Shift, train: f64, n: u32) -> Result<Vec<f64>> {
    flow_shift::check_steps(n, train)?;
    let end = |sigma: f64| match shift {
        Shift::Static(_) => f64::from(shift.apply(sigma) as f32) * train,
        Shift::Dynamic(_) => sigma * train,
    };
    let (highest, lowest) = (end(1.0), end(f64::from((1.0 / train) as f32)));
    let step = (lowest - highest) / f64::from((n - 1).max(1));
    Ok((0..n).map(|i| (highest + f64::from(i) * step) / train).collect())
}

/// Returns the timesteps of `sigmas`, and those with the final 0, in f32.
pub(super) fn finish(mut sigmas: Vec<f64>, train: f64) -> (Vec<f64>, Vec<f64>) {
    sigmas.iter_mut().for_each(|sigma| *sigma = f64::from(*sigma as f32));
    let timesteps = sigmas.iter().map(|sigma| f64::from(*sigma as f32 * train as f32)).collect();
    sigmas.push(0.0);
    (timesteps, sigmas)
}

#[derive(Debug)]
struct FlowMatchEulerDiscrete {
    sigmas: Vec<f32>,
    stochastic: bool,
}

impl Solver for FlowMatchEulerDiscrete {
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        _memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let (sigma, next) = (self.sigmas[i], self.sigmas[i + 1]);
        if !self.stochastic {
            let dt = next - sigma;
            return Zip::from(sample).and(model_output).map_collect(|x, v| x + dt * v);
        }
        let fresh = noise.draw(sample.dim());
        Zip::from(sample).and(model_output).and(&fresh).map_collect(|x, v, fresh| {
            let picture = x - sigma * v;
            (1.0 - next) * picture + next * fresh
        })
    }
}
