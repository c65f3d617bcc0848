//! DPM-Solver++ in blocks of up to three evaluations, each block from its own start: Lu et al. 2022 (arXiv 2211.01095),
//! algorithm 1, with the orders of arXiv 2206.00927, section 3.4; diffusers 0.42.1 `scheduling_dpmsolver_singlestep.py`.

use ndarray::{Array3, ArrayView3};

use super::clipping::{self, Clipping};
use super::dpmsolver::{self, Integral, Settings, SolverType};
use super::fields::{Fields, wrong};
use super::lambda_levels::{self, Levels, Rules};
use super::noising::lambda_step;
use super::prediction::weighted_sum;
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Schedule, Solver};
use super::sigmas::{self, FinalSigmas};
use super::unit_power::Reading;
use super::{betas, flow_shift};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "DPMSolverSinglestepScheduler",
    variants: &[
        Variant { canonical: "dpmpp_2s", a1111: "DPM++ 2S", aliases: &["dpmsolver_singlestep"], overrides: &[] },
        Variant {
            canonical: "dpmpp_2s_karras",
            a1111: "DPM++ 2S Karras",
            aliases: &[],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[
        betas::FIELDS,
        sigmas::SPACING,
        sigmas::FINAL,
        clipping::FIELDS,
        dpmsolver::FIELDS,
        lambda_levels::FLOW,
        flow_shift::DYNAMIC,
    ],
    defaults: &[],
    neutral: &[],
    takes: Takes::TIMESTEPS,
    build,
};

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let settings = Settings::read(fields)?;
    if settings.order == 3 && settings.algorithm.sde {
        // diffusers' weights of the second difference are wrong, as in the multistep form.
        return Err(wrong("`solver_order` cannot be `3` with an `algorithm_type` of the SDE").hint("use 1 or 2"));
    }
    let rules = Rules { last: settings.final_sigmas, ends_at_own_least: false, rounds_karras: true, is_unipc: false };
    let levels = Levels::read(fields, rules, request)?;
    let orders = orders(&settings, fields.flag("lower_order_final", false)?, levels.timesteps.len());
    // A block that was begun part-way is shorter.
    let order = |i: usize| orders[i].min(i.saturating_sub(levels.begin) + 1);
    let solver = DpmSolverSinglestep {
        readings: settings.readings(&levels),
        steps: (0..orders.len()).map(|i| Step::new(&settings, &levels, i, order(i))).collect(),
        draws: settings.algorithm.sde,
        clipping: Clipping::read(fields, None)?,
    };
    Ok(Schedule::new(ALGORITHM.class_name, levels.numbers(), solver))
}

/// Returns the order of every step: 1, 2, …, `solver_order`, again and again; what is left at the end has lower orders
/// where that is asked for, where it must (diffusers turns it on then), and in the step to zero.
fn orders(settings: &Settings, lower_order_final: bool, n: usize) -> Vec<usize> {
    let order = settings.order;
    let to_zero = settings.final_sigmas == FinalSigmas::Zero;
    let lower_at_end = lower_order_final || !n.is_multiple_of(order) || to_zero;
    let mut orders: Vec<usize> = (0..n).map(|i| i % order + 1).collect();
    if lower_at_end && n.is_multiple_of(order) && order > 1 {
        // A whole last block becomes [1, 2, 1] or [1, 1].
        orders[n - 1] = 1;
    }
    if to_zero {
        orders[n - 1] = 1;
    }
    orders
}

/// The weights of one step.
#[derive(Debug)]
struct Step {
    /// Whether a block begins: its start is kept.
    begins: bool,
    /// Of the block's start.
    start: f64,
    /// Of the outputs, newest first.
    outputs: [f64; 3],
    noise: f64,
}

impl Step {
    /// The step to level `i + 1` of `order`, from the start of its block `order - 1` levels before level `i`.
    fn new(settings: &Settings, levels: &Levels, i: usize, order: usize) -> Self {
        let (sigmas, mixing) = (&levels.sigmas, levels.mixing);
        let begin = i + 1 - order;
        let begins = order == 1;
        let Some(step) = Integral::between(settings.algorithm, mixing(sigmas[begin]), mixing(sigmas[i + 1])) else {
            return Step { begins, start: 1.0, outputs: [0.0; 3], noise: 0.0 };
        };
        let ratio = |level: usize| lambda_step(mixing, sigmas[begin], sigmas[level]) / step.h;
        let midpoint = settings.solver == SolverType::Midpoint;
        let outputs = match order {
            1 => [step.output, 0.0, 0.0],
            2 => {
                let c1 = if midpoint { step.midpoint } else { step.first } / ratio(i);
                [c1, step.output - c1, 0.0]
            }
            _ => {
                let (r0, r1) = (ratio(i), ratio(i - 1));
                // D1_0 = (m1 - m2) / r1, D1_1 = (m0 - m2) / r0.
                let (d1_0, d1_1) = if midpoint {
                    (0.0, step.first)
                } else {
                    let apart = r0 - r1;
                    let (first, second) = (step.first / apart, 2.0 * step.second / apart);
                    (r0 * first - second, second - r1 * first)
                };
                [d1_1 / r0, d1_0 / r1, step.output - d1_0 / r1 - d1_1 / r0]
            }
        };
        Step { begins, start: step.sample, outputs, noise: step.noise }
    }
}

#[derive(Debug)]
struct DpmSolverSinglestep {
    readings: Vec<Reading>,
    steps: Vec<Step>,
    draws: bool,
    clipping: Clipping,
}

impl Solver for DpmSolverSinglestep {
    /// `memory` is the start of the block, then the outputs since, newest first.
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let step = &self.steps[i];
        if step.begins {
            *memory = vec![sample.clone()];
        }
        memory.insert(1, self.readings[i].of(sample, model_output, self.clipping));
        let fresh = self.draws.then(|| noise.draw(sample.dim()));
        let outputs = step.outputs.iter().copied().zip(memory[1..].iter().map(|output| output.view()));
        let mut terms: Vec<_> = std::iter::once((step.start, memory[0].view())).chain(outputs).collect();
        terms.extend(fresh.iter().map(|fresh| (step.noise, fresh.view())));
        weighted_sum(&terms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dpmsolver::AlgorithmType;
    use super::super::prediction::PredictionType;
    use super::*;

    #[test]
    fn orders_are_those_of_the_reference() {
        let settings = |order, final_sigmas| Settings {
            algorithm: AlgorithmType::DEFAULT,
            solver: SolverType::Midpoint,
            order,
            final_sigmas,
            prediction_type: PredictionType::Epsilon,
        };
        let zero = |order, n| orders(&settings(order, FinalSigmas::Zero), true, n);
        assert_eq!(zero(2, 4), [1, 2, 1, 1]);
        assert_eq!(zero(2, 5), [1, 2, 1, 2, 1]);
        assert_eq!(zero(3, 6), [1, 2, 3, 1, 2, 1]);
        assert_eq!(zero(3, 7), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(zero(3, 8), [1, 2, 3, 1, 2, 3, 1, 1]);
        assert_eq!(zero(1, 2), [1, 1]);
        assert_eq!(orders(&settings(2, FinalSigmas::SigmaMin), false, 4), [1, 2, 1, 2]);
    }
}
