//! Heun's method for flow matching: diffusers 0.42.1 `scheduling_flow_match_heun_discrete.py` (without churn).

use ndarray::{Array3, ArrayView3, Zip};

use super::exploding::along;
use super::fields::{Fields, Neutral};
use super::flow_match_euler_discrete::{even, finish};
use super::flow_shift::{self, Shift};
use super::heun_discrete::first_once_then_twice;
use super::noising;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "FlowMatchHeunDiscreteScheduler",
    variants: &[Variant { canonical: "flow_heun", a1111: "Flow Heun", aliases: &["flow_match_heun"], overrides: &[] }],
    honoured: &[&["num_train_timesteps", "shift"]],
    defaults: &[],
    neutral: &[("prediction_type", Neutral::Word("flow_prediction"))],
    takes: Takes::NEITHER,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let (shift, train) = (Shift::read(fields, "shift", request)?, flow_shift::num_train_timesteps(fields)?);
    let even = even(shift, train, request.num_inference_steps)?;
    let (timesteps, levels) = finish(even.into_iter().map(|sigma| shift.apply(sigma)).collect(), train);
    let mut sigmas = first_once_then_twice(&levels[..timesteps.len()]);
    sigmas.push(0.0);
    let solver = FlowMatchHeunDiscrete { sigmas: sigmas.iter().map(|sigma| *sigma as f32).collect() };
    let begin = 2 * request.begin_of_flow(timesteps.len())?;
    let timesteps = first_once_then_twice(&timesteps);
    let noising = noising::of_levels(&sigmas, noising::flow);
    let numbers = Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma: 1.0, noising, begin };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

#[derive(Debug)]
struct FlowMatchHeunDiscrete {
    sigmas: Vec<f32>,
}

impl Solver for FlowMatchHeunDiscrete {
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        _noise: &mut dyn Noise,
    ) -> Array3<f32> {
        // The derivative is the output itself; taken by way of the picture, with diffusers' rounding.
        let sigma = self.sigmas[i];
        let derivative = Zip::from(sample).and(model_output).map_collect(|x, v| (x - (x - v * sigma)) / sigma);
        let (Some(start), Some(first)) = (memory.pop(), memory.pop()) else {
            let landed = along(sample, &derivative, self.sigmas[i + 1] - self.sigmas[i]);
            memory.extend([derivative, sample.clone()]);
            return landed;
        };
        let mean = Zip::from(&first).and(&derivative).map_collect(|a, b| 0.5 * (a + b));
        along(&start, &mean, self.sigmas[i] - self.sigmas[i - 1])
    }
}
