//! Euler's method with the preconditioning of Karras et al. 2022 (arXiv 2206.00364), table 1, algorithm 2 without churn;
//! diffusers 0.42.1 `scheduling_edm_euler.py`.

use ndarray::{Array3, ArrayView3, Zip};

use super::exploding::along;
use super::fields::{Choice, Fields, bad};
use super::noising;
use super::prediction::Mix;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::sigmas::FinalSigmas;
use crate::error::{Error, ErrorKind, Result};
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "EDMEulerScheduler",
    variants: &[Variant { canonical: "edm_euler", a1111: "EDM Euler", aliases: &[], overrides: &[] }],
    honoured: &[FIELDS],
    defaults: &[],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

/// The fields of both EDM classes.
pub(super) const FIELDS: &[&str] = &[
    "num_train_timesteps",
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "sigma_schedule",
    "prediction_type",
    "rho",
    "final_sigmas_type",
];

/// How the levels are spread.
#[derive(Debug, Clone, Copy)]
enum SigmaSchedule {
    Karras,
    Exponential,
}

impl Choice for SigmaSchedule {
    const WORDS: &'static [(&'static str, Self)] =
        &[("karras", SigmaSchedule::Karras), ("exponential", SigmaSchedule::Exponential)];
}

/// The sign of the network's output in the picture: what the class calls `epsilon` and `v_prediction`.
#[derive(Debug, Clone, Copy)]
struct Sign(f64);

impl Choice for Sign {
    const WORDS: &'static [(&'static str, Self)] = &[("epsilon", Sign(1.0)), ("v_prediction", Sign(-1.0))];
}

/// The preconditioning: how samples and outputs are scaled at a level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preconditioning {
    sigma_data: f64,
    sign: Sign,
}

impl Preconditioning {
    /// Reads `sigma_data` and `prediction_type`.
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        Ok(Preconditioning {
            sigma_data: fields.number("sigma_data", 0.5)?,
            sign: fields.choice("prediction_type", Sign(1.0))?,
        })
    }

    /// Returns c_in, by which the network's input is scaled.
    pub(super) fn input(self, sigma: f64) -> f64 {
        1.0 / sigma.hypot(self.sigma_data)
    }

    /// Returns c_skip and c_out, which give the picture.
    pub(super) fn picture(self, sigma: f64) -> Mix {
        let power = sigma * sigma + self.sigma_data * self.sigma_data;
        Mix {
            sample: self.sigma_data * self.sigma_data / power,
            model_output: self.sign.0 * sigma * self.sigma_data / power.sqrt(),
        }
    }
}

/// Returns timesteps (a quarter of ln sigma, falling), levels with the final one, and `init_noise_sigma`. A final level
/// above zero is the last one again, or `sigma_min` where the class `ends_at_sigma_min`.
pub(super) fn levels(fields: &Fields, request: &ScheduleRequest, ends_at_sigma_min: bool) -> Result<Numbers> {
    let n = request.num_inference_steps;
    let (low, high) = (fields.number("sigma_min", 0.002)?, fields.number("sigma_max", 80.0)?);
    if !(low > 0.0 && low < high && high.is_finite()) {
        return Err(bad("sigma_min", &low.into(), "a number above 0 and below `sigma_max`"));
    }
    let train = fields.count("num_train_timesteps", 1000)?;
    if n == 0 || n > train {
        return Err(Error::new(ErrorKind::Usage, "num_inference_steps", format!("cannot make `{n}` steps"))
            .hint(format!("this scheduler makes 1 to {train} steps")));
    }
    let ramp = |i: u32| if n == 1 { 0.0 } else { f64::from(i) / f64::from(n - 1) };
    let sigma = |r: f64, schedule| match schedule {
        SigmaSchedule::Karras => {
            let rho = fields.number("rho", 7.0)?;
            let (from, to) = (high.powf(1.0 / rho), low.powf(1.0 / rho));
            Ok((from + r * (to - from)).powf(rho))
        }
        // torch.linspace from the lowest, turned round: a single level is the lowest.
        SigmaSchedule::Exponential if n == 1 => Ok(low),
        SigmaSchedule::Exponential => Ok((high.ln() + r * (low.ln() - high.ln())).exp()),
    };
    let schedule = fields.choice("sigma_schedule", SigmaSchedule::Karras)?;
    let mut sigmas = (0..n).map(|i| sigma(ramp(i), schedule)).collect::<Result<Vec<f64>>>()?;
    sigmas.iter_mut().for_each(|sigma| *sigma = f64::from(*sigma as f32));
    let timesteps = sigmas.iter().map(|sigma| 0.25 * sigma.ln()).collect();
    let last = sigmas[sigmas.len() - 1];
    sigmas.push(match fields.choice("final_sigmas_type", FinalSigmas::Zero)? {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin => {
            if ends_at_sigma_min {
                f64::from(low as f32)
            } else {
                last
            }
        }
    });
    let (noising, begin) = (noising::of_levels(&sigmas, noising::exploding), request.begin(n as usize)?);
    Ok(Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma: high.hypot(1.0), noising, begin })
}

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let numbers = levels(fields, request, false)?;
    let sigmas = numbers.sigmas.clone().unwrap_or_default();
    let solver = EdmEuler { sigmas, preconditioning: Preconditioning::read(fields)? };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

#[derive(Debug)]
struct EdmEuler {
    sigmas: Vec<f64>,
    preconditioning: Preconditioning,
}

impl Solver for EdmEuler {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        sample * self.preconditioning.input(self.sigmas[i]) as f32
    }

    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        _memory: &mut Vec<Array3<f32>>,
        _noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let (sigma, next) = (self.sigmas[i] as f32, self.sigmas[i + 1] as f32);
        let picture = self.preconditioning.picture(self.sigmas[i]).of(sample, model_output);
        let derivative = Zip::from(sample).and(&picture).map_collect(|x, picture| (x - picture) / sigma);
        along(sample, &derivative, next - sigma)
    }
}
