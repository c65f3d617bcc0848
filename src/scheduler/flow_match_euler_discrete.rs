//! Euler's method for flow matching (rectified flow): Liu et al. 2022 (arXiv 2209.03003), Esser et al. 2024
//! (arXiv 2403.03206); diffusers 0.42.1 `scheduling_flow_match_euler_discrete.py`.
//!
//! The sample is (1 - sigma) picture + sigma noise, the network predicts noise - picture, and sigma falls from 1 to 0.

use ndarray::{Array3, ArrayView3, Zip};

use super::fields::{Fields, Neutral, bad};
use super::noising;
use super::registry::{Algorithm, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::sigmas::SigmaSpacing;
use crate::error::{Error, ErrorKind, Result};
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "FlowMatchEulerDiscreteScheduler",
    variants: &[Variant {
        canonical: "flow_euler",
        a1111: "Flow Euler",
        aliases: &["flow_match_euler"],
        overrides: &[],
    }],
    honoured: &[&[
        "num_train_timesteps",
        "shift",
        "shift_terminal",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "stochastic_sampling",
    ]],
    defaults: &[],
    neutral: &[
        // A model that predicts noise or velocity cannot be stepped by this.
        ("prediction_type", Neutral::Word("flow_prediction")),
        ("use_dynamic_shifting", Neutral::Off),
        ("invert_sigmas", Neutral::Off),
        // These mean something only with dynamic shifting, which is refused above.
        ("base_shift", Neutral::Any),
        ("max_shift", Neutral::Any),
        ("base_image_seq_len", Neutral::Any),
        ("max_image_seq_len", Neutral::Any),
        ("time_shift_type", Neutral::Any),
    ],
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let shift = Shift::read(fields)?;
    let mut sigmas = shift.sigmas(request.num_inference_steps)?;
    if let Some(terminal) = fields.optional_number("shift_terminal")?.filter(|terminal| *terminal != 0.0) {
        stretch(&mut sigmas, terminal)?;
    }
    let ends = (sigmas[0], sigmas[sigmas.len() - 1]);
    let sigmas = SigmaSpacing::read(fields)?.levels(fields, ends, sigmas.len())?.unwrap_or(sigmas);
    let (timesteps, sigmas) = shift.finish(sigmas);
    let solver = FlowMatchEulerDiscrete {
        sigmas: sigmas.iter().map(|sigma| *sigma as f32).collect(),
        stochastic: fields.flag("stochastic_sampling", false)?,
    };
    let (noising, begin) = (noising::of_levels(&sigmas, noising::flow), request.begin_of_flow(timesteps.len())?);
    let numbers = Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma: 1.0, noising, begin };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// The fields that place the levels of flow matching.
#[derive(Debug)]
pub(super) struct Shift {
    shift: f64,
    num_train_timesteps: u32,
}

impl Shift {
    /// Reads `shift` and `num_train_timesteps`.
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let (shift, num_train_timesteps) = (fields.number("shift", 1.0)?, fields.count("num_train_timesteps", 1000)?);
        if !(shift > 0.0 && shift.is_finite()) {
            return Err(bad("shift", &shift.into(), "a number above 0"));
        }
        if num_train_timesteps == 0 {
            return Err(bad("num_train_timesteps", &num_train_timesteps.into(), "1 or more"));
        }
        Ok(Shift { shift, num_train_timesteps })
    }

    fn apply(&self, sigma: f64) -> f64 {
        self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma)
    }

    /// Returns `n` falling levels: even between those of the ends of training, and shifted.
    ///
    /// As in diffusers the ends are shifted already and are shifted again, which matters for the last level.
    pub(super) fn sigmas(&self, n: u32) -> Result<Vec<f64>> {
        let train = f64::from(self.num_train_timesteps);
        if n == 0 || n > self.num_train_timesteps {
            return Err(Error::new(ErrorKind::Usage, "num_inference_steps", format!("cannot make `{n}` steps"))
                .hint(format!("this scheduler makes 1 to {} steps", self.num_train_timesteps)));
        }
        let end = |sigma: f64| f64::from(self.apply(sigma) as f32) * train;
        let (highest, lowest) = (end(1.0), end(f64::from((1.0 / train) as f32)));
        let step = (lowest - highest) / f64::from((n - 1).max(1));
        Ok((0..n).map(|i| self.apply((highest + f64::from(i) * step) / train)).collect())
    }

    /// Returns the timesteps of `sigmas`, and those with the final 0.
    pub(super) fn finish(&self, mut sigmas: Vec<f64>) -> (Vec<f64>, Vec<f64>) {
        sigmas.iter_mut().for_each(|sigma| *sigma = f64::from(*sigma as f32));
        let train = self.num_train_timesteps as f32;
        let timesteps = sigmas.iter().map(|sigma| f64::from(*sigma as f32 * train)).collect();
        sigmas.push(0.0);
        (timesteps, sigmas)
    }
}

/// Stretches the levels so that the last one is `terminal` (`shift_terminal`).
fn stretch(sigmas: &mut [f64], terminal: f64) -> Result<()> {
    let last = sigmas[sigmas.len() - 1];
    if !(0.0..1.0).contains(&terminal) || last >= 1.0 {
        return Err(bad("shift_terminal", &terminal.into(), "a number from 0 to below 1, for two steps or more"));
    }
    let scale = (1.0 - last) / (1.0 - terminal);
    sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
    Ok(())
}

#[derive(Debug)]
struct FlowMatchEulerDiscrete {
    sigmas: Vec<f32>,
    stochastic: bool,
}

impl Solver for FlowMatchEulerDiscrete {
    fn model_input(&self, _i: usize, sample: &Array3<f32>) -> Array3<f32> {
        sample.clone()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fall_from_one_and_are_stretched_to_the_terminal() {
        let shift = Shift { shift: 3.0, num_train_timesteps: 1000 };
        let mut sigmas = shift.sigmas(4).expect("four");
        assert!((sigmas[0] - 1.0).abs() < 1e-12 && sigmas.windows(2).all(|pair| pair[1] < pair[0]));
        stretch(&mut sigmas, 0.1).expect("possible");
        assert!((sigmas[3] - 0.1).abs() < 1e-12 && (sigmas[0] - 1.0).abs() < 1e-12);
        assert!(stretch(&mut [1.0], 0.1).is_err(), "a single level is the highest");
    }
}
