//! Diffusion exponential integrator sampler, tAB-DEIS in log rho: Zhang and Chen 2023 (arXiv 2204.13902), section 3;
//! diffusers 0.42.1 `scheduling_deis_multistep.py`.

use super::clipping::{self, Clipping};
use super::dpmsolver::{self, AlgorithmType, Integral};
use super::fields::{Choice, Fields};
use super::lambda_levels::{self, Levels, Rules};
use super::multistep::{Multistep, Weights};
use super::noising::Mixing;
use super::prediction::PredictionType;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::Schedule;
use super::sigmas::{self, FinalSigmas};
use super::unit_power::Reading;
use super::{betas, flow_shift, timesteps};
use crate::error::Result;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "DEISMultistepScheduler",
    variants: &[
        Variant { canonical: "deis", a1111: "DEIS", aliases: &[], overrides: &[] },
        Variant {
            canonical: "deis_karras",
            a1111: "DEIS Karras",
            aliases: &[],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[
        betas::FIELDS,
        timesteps::FIELDS,
        sigmas::SPACING,
        clipping::FIELDS,
        lambda_levels::FLOW,
        flow_shift::DYNAMIC,
        &["prediction_type", "algorithm_type", "solver_type", "solver_order", "lower_order_final"],
    ],
    defaults: &[],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

/// The only algorithm and the only solver that the class has; diffusers takes those of its relatives for them too.
#[derive(Debug, Clone, Copy)]
struct LogRho;

impl Choice for LogRho {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("deis", LogRho),
        ("dpmsolver", LogRho),
        ("dpmsolver++", LogRho),
        ("logrho", LogRho),
        ("midpoint", LogRho),
        ("heun", LogRho),
        ("bh1", LogRho),
        ("bh2", LogRho),
    ];
}

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    fields.choice("algorithm_type", LogRho)?;
    fields.choice("solver_type", LogRho)?;
    let order = dpmsolver::order(fields)?;
    let lower_order_final = fields.flag("lower_order_final", true)?;
    let rules = Rules { last: FinalSigmas::SigmaMin, ends_at_own_least: true, rounds_karras: true, is_unipc: false };
    let prediction_type = PredictionType::read_with_flow(fields)?;
    let levels = Levels::read(fields, rules, request)?;
    let n = levels.timesteps.len();
    let order_of = |i: usize| {
        let left = if lower_order_final && n < 15 { n - i } else { 3 };
        order.min(i.saturating_sub(levels.begin) + 1).min(left)
    };
    let reading = |sigma: &f64| Reading::noise(prediction_type, levels.mixing, *sigma);
    let solver = Multistep {
        readings: levels.sigmas[..n].iter().map(reading).collect(),
        weights: (0..n).map(|i| weights(&levels.sigmas, levels.mixing, i, order_of(i))).collect(),
        remembered: order - 1,
        draws: false,
        input_scales: None,
        clipping: Clipping::read(fields, None)?,
    };
    Ok(Schedule::new(ALGORITHM.class_name, levels.numbers(), solver))
}

/// Returns the weights of step `i` with the noises of the last `order` levels.
fn weights(sigmas: &[f64], mixing: Mixing, i: usize, order: usize) -> Weights {
    let algorithm = AlgorithmType { of_noise: true, sde: false };
    let (from, to) = (mixing(sigmas[i]), mixing(sigmas[i + 1]));
    let Some(step) = Integral::between(algorithm, from, to) else { return Weights::STAY };
    let ratio = |(alpha, sigma): (f64, f64)| sigma / alpha;
    let rho = |back: usize| ratio(mixing(sigmas[i - back])).ln();
    let ((alpha_t, _), from, to) = (to, ratio(from), ratio(to));
    let mut outputs = [step.output, 0.0, 0.0];
    match order {
        1 => {}
        2 => {
            for (own, other) in [(0, 1), (1, 0)] {
                let integral = |t: f64| second_order(t, rho(own), rho(other));
                outputs[own] = alpha_t * (integral(to) - integral(from));
            }
        }
        _ => {
            for (own, others) in [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))] {
                let integral = |t: f64| third_order(t, rho(own), rho(others.0), rho(others.1));
                outputs[own] = alpha_t * (integral(to) - integral(from));
            }
        }
    }
    Weights { sample: step.sample, outputs, noise: 0.0 }
}

/// Returns the antiderivative at `t` of the line in ln t that is 1 at `own` and 0 at `other` (diffusers: `ind_fn`).
fn second_order(t: f64, own: f64, other: f64) -> f64 {
    t * (-other + t.ln() - 1.0) / (own - other)
}

/// Returns the antiderivative at `t` of the parabola in ln t that is 1 at `own` and 0 at `c` and `d`.
fn third_order(t: f64, own: f64, c: f64, d: f64) -> f64 {
    let log = t.ln();
    let numerator = t * (c * (d - log + 1.0) - d * log + d + log * log - 2.0 * log + 2.0);
    numerator / ((own - c) * (own - d))
}

#[cfg(test)]
mod tests {
    use super::super::unit_power::alpha_sigma;
    use super::*;

    #[test]
    fn equal_noises_count_the_same_whatever_the_order() {
        let sigmas = [9.0, 5.0, 2.0, 0.7];
        let first: f64 = weights(&sigmas, alpha_sigma, 2, 1).outputs.iter().sum();
        for order in [2, 3] {
            let sum: f64 = weights(&sigmas, alpha_sigma, 2, order).outputs.iter().sum();
            assert!((sum - first).abs() < 1e-12, "order {order}: {sum} is not {first}");
        }
    }
}
