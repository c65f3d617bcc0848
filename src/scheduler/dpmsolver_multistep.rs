//! DPM-Solver++ with several steps of memory: Lu et al. 2022 (arXiv 2211.01095), algorithm 2, and its SDE form; diffusers
//! 0.42.1 `scheduling_dpmsolver_multistep.py`. DPM++ 2M is its order 2.
//!
//! Every update is a weighted sum of the sample, the last three predicted pictures (or noises) and fresh noise.

use super::clipping::{self, Clipping};
use super::dpmsolver::{self, Integral, Settings, SolverType};
use super::fields::{Fields, wrong};
use super::lambda_levels::{self, Levels, Rules};
use super::multistep::{Multistep, Weights};
use super::noising::{Mixing, lambda_step};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::Schedule;
use super::sigmas::{self, FinalSigmas};
use super::{betas, flow_shift, timesteps};
use crate::error::Result;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "DPMSolverMultistepScheduler",
    variants: &[
        Variant { canonical: "dpmpp_2m", a1111: "DPM++ 2M", aliases: &["k_dpmpp_2m", "dpmsolver++"], overrides: &[] },
        Variant {
            canonical: "dpmpp_2m_karras",
            a1111: "DPM++ 2M Karras",
            aliases: &["k_dpmpp_2m_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
        Variant {
            canonical: "dpmpp_2m_sde",
            a1111: "DPM++ 2M SDE",
            aliases: &["k_dpmpp_2m_sde"],
            overrides: &[("algorithm_type", r#""sde-dpmsolver++""#)],
        },
        Variant {
            canonical: "dpmpp_2m_sde_karras",
            a1111: "DPM++ 2M SDE Karras",
            aliases: &["k_dpmpp_2m_sde_karras"],
            overrides: &[("algorithm_type", r#""sde-dpmsolver++""#), ("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[
        betas::FIELDS,
        betas::ZERO_SNR,
        timesteps::FIELDS,
        sigmas::SPACING,
        sigmas::FINAL,
        clipping::FIELDS,
        dpmsolver::FIELDS,
        lambda_levels::FLOW,
        flow_shift::DYNAMIC,
        &["euler_at_final", "use_lu_lambdas"],
    ],
    defaults: &[],
    neutral: &[],
    takes: Takes::TIMESTEPS,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let solution = Solution::read(fields)?;
    let settings = &solution.settings;
    let rules = Rules {
        last: settings.final_sigmas,
        ends_at_own_least: false,
        rounds_karras: !betas::are_squaredcos(fields)?,
        is_unipc: false,
    };
    let levels = Levels::read(fields, rules, request)?;
    let weights = |i: usize| solution.weights(&levels.sigmas, i, levels.begin, levels.mixing);
    let solver = Multistep {
        readings: settings.readings(&levels),
        weights: (0..levels.timesteps.len()).map(weights).collect(),
        remembered: settings.order - 1,
        draws: settings.algorithm.sde,
        input_scales: None,
        clipping: Clipping::read(fields, None)?,
    };
    Ok(Schedule::new(ALGORITHM.class_name, levels.numbers(), solver))
}

/// The fields that choose between forms of the algorithm.
#[derive(Debug)]
pub(super) struct Solution {
    pub(super) settings: Settings,
    lower_order_final: bool,
    euler_at_final: bool,
}

impl Solution {
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let settings = Settings::read(fields)?;
        if settings.order == 3 && settings.algorithm.sde {
            // diffusers has it for `sde-dpmsolver++`, but its weight of the second difference goes to -1 for small steps
            // instead of to 0; for `sde-dpmsolver` it has none.
            return Err(wrong("`solver_order` cannot be `3` with an `algorithm_type` of the SDE").hint("use 1 or 2"));
        }
        Ok(Solution {
            settings,
            lower_order_final: fields.flag("lower_order_final", true)?,
            euler_at_final: fields.flag("euler_at_final", false)?,
        })
    }

    /// Returns the order of step `i` of `n`, the first being `begin`: what memory allows, and less at the end where that is
    /// asked for.
    fn order_of(&self, i: usize, n: usize, begin: usize) -> usize {
        let few_left = self.lower_order_final && n < 15;
        let to_zero = self.settings.final_sigmas == FinalSigmas::Zero;
        let at_end = if i + 1 == n && (self.euler_at_final || few_left || to_zero) {
            1
        } else if i + 2 == n && few_left {
            2
        } else {
            3
        };
        self.settings.order.min(i.saturating_sub(begin) + 1).min(at_end)
    }

    /// Returns the weights of step `i`, from level `sigmas[i]` to `sigmas[i + 1]`, of samples that are as much picture and
    /// noise as `mixing` says of their level; nothing is known of steps before `begin`.
    pub(super) fn weights(&self, sigmas: &[f64], i: usize, begin: usize, mixing: Mixing) -> Weights {
        let (from, to) = (mixing(sigmas[i]), mixing(sigmas[i + 1]));
        let Some(step) = Integral::between(self.settings.algorithm, from, to) else { return Weights::STAY };
        let order = self.order_of(i, sigmas.len() - 1, begin);
        let (d1, d2) = differences(order, step.h, |back| lambda_step(mixing, sigmas[i - back], sigmas[i + 1 - back]));
        let midpoint = order == 2 && self.settings.solver == SolverType::Midpoint;
        let c1 = if midpoint { step.midpoint } else { step.first };
        let mut outputs = [step.output, 0.0, 0.0];
        if order > 1 {
            outputs.iter_mut().zip(d1.iter().zip(d2)).for_each(|(p, (d1, d2))| *p += c1 * d1 + step.second * d2);
        }
        Weights { sample: step.sample, outputs, noise: step.noise }
    }
}

/// Returns the first and second difference (D1, D2 of the paper) as weights of the last three outputs, newest first.
/// `step(back)` is the length in lambda of the step that many steps ago; `h` is that of the step ahead.
fn differences(order: usize, h: f64, step: impl Fn(usize) -> f64) -> ([f64; 3], [f64; 3]) {
    if order == 1 {
        return ([0.0; 3], [0.0; 3]);
    }
    let r0 = step(1) / h;
    let d1_0 = [1.0 / r0, -1.0 / r0, 0.0];
    if order == 2 {
        return (d1_0, [0.0; 3]);
    }
    let r1 = step(2) / h;
    let d1_1 = [0.0, 1.0 / r1, -1.0 / r1];
    let d2 = std::array::from_fn(|j| (d1_0[j] - d1_1[j]) / (r0 + r1));
    (std::array::from_fn(|j| d1_0[j] + r0 * d2[j]), d2)
}

#[cfg(test)]
mod tests {
    use super::super::dpmsolver::AlgorithmType;
    use super::super::prediction::PredictionType;
    use super::super::unit_power::alpha_sigma;
    use super::*;

    fn solution(order: usize, solver: SolverType, final_sigmas: FinalSigmas) -> Solution {
        let (algorithm, prediction_type) = (AlgorithmType::DEFAULT, PredictionType::Epsilon);
        let settings = Settings { algorithm, solver, order, final_sigmas, prediction_type };
        Solution { settings, lower_order_final: true, euler_at_final: false }
    }

    #[test]
    fn orders_rise_with_memory_and_fall_at_the_end() {
        let solution = |order| solution(order, SolverType::Midpoint, FinalSigmas::Zero);
        let orders = |solution: &Solution, n| (0..n).map(|i| solution.order_of(i, n, 0)).collect::<Vec<_>>();
        assert_eq!(orders(&solution(2), 4), [1, 2, 2, 1]);
        assert_eq!(orders(&solution(3), 5), [1, 2, 3, 2, 1]);
        assert_eq!(orders(&solution(3), 1), [1]);
        let part_way: Vec<_> = (2..6).map(|i| solution(3).order_of(i, 6, 2)).collect();
        assert_eq!(part_way, [1, 2, 2, 1]);
        let mut to_the_end = self::solution(2, SolverType::Midpoint, FinalSigmas::SigmaMin);
        to_the_end.lower_order_final = false;
        assert_eq!(orders(&to_the_end, 3), [1, 2, 2]);
    }

    #[test]
    fn a_constant_picture_is_reached_whatever_the_order() {
        // When every prediction is the picture itself, the sample goes from picture + noise mix to the same mix.
        let sigmas = [14.6, 6.0, 2.0, 0.7, 0.2, 0.0];
        for order in 1..=3 {
            for solver in [SolverType::Midpoint, SolverType::Heun] {
                let solution = solution(order, solver, FinalSigmas::Zero);
                for i in 0..5 {
                    let weights = solution.weights(&sigmas, i, 0, alpha_sigma);
                    let (alpha_s, sigma_s) = alpha_sigma(sigmas[i]);
                    let (alpha_t, sigma_t) = alpha_sigma(sigmas[i + 1]);
                    let picture = weights.sample * alpha_s + weights.outputs.iter().sum::<f64>();
                    assert!((picture - alpha_t).abs() < 1e-12, "order {order}, step {i}");
                    assert!((weights.sample * sigma_s - sigma_t).abs() < 1e-12);
                }
            }
        }
    }
}
