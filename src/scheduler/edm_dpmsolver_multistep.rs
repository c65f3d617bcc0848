//! DPM-Solver++ with several steps of memory on samples that are picture + sigma noise, with the preconditioning of Karras
//! et al. 2022; diffusers 0.42.1 `scheduling_edm_dpmsolver_multistep.py`.

use super::clipping::{self, Clipping};
use super::dpmsolver_multistep::Solution;
use super::edm_euler::{self, Preconditioning};
use super::fields::{Fields, Neutral};
use super::multistep::Multistep;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::Schedule;
use super::unit_power::Reading;
use crate::error::Result;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "EDMDPMSolverMultistepScheduler",
    variants: &[Variant { canonical: "edm_dpmpp_2m", a1111: "EDM DPM++ 2M", aliases: &[], overrides: &[] }],
    honoured: &[
        edm_euler::FIELDS,
        clipping::FIELDS,
        &["algorithm_type", "solver_type", "solver_order", "lower_order_final", "euler_at_final"],
    ],
    defaults: &[],
    neutral: &[("use_lu_lambdas", Neutral::Off)],
    takes: Takes::NEITHER,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let solution = Solution::read(fields)?;
    let numbers = edm_euler::levels(fields, request, true)?;
    let sigmas = numbers.sigmas.clone().unwrap_or_default();
    let preconditioning = Preconditioning::read(fields)?;
    let evaluated = &sigmas[..sigmas.len() - 1];
    let solver = Multistep {
        readings: evaluated.iter().map(|sigma| Reading::of_weights(preconditioning.picture(*sigma))).collect(),
        weights: (0..evaluated.len())
            .map(|i| solution.weights(&sigmas, i, numbers.begin, |sigma| (1.0, sigma)))
            .collect(),
        remembered: solution.settings.order - 1,
        draws: solution.settings.algorithm.sde,
        input_scales: Some(evaluated.iter().map(|sigma| preconditioning.input(*sigma)).collect()),
        clipping: Clipping::read(fields, None)?,
    };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}
