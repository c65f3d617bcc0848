//! UniPC, a predictor and a corrector that costs no evaluation: Zhao et al. 2023 (arXiv 2302.04867), algorithms 1 to 4;
//! diffusers 0.42.1 `scheduling_unipc_multistep.py`.

use ndarray::{Array3, ArrayView3};

use super::clipping::{self, Clipping};
use super::dpmsolver::order;
use super::fields::{Choice, Fields, Neutral, wrong};
use super::lambda_levels::{self, Levels, Rules};
use super::noising::lambda_step;
use super::prediction::{PredictionType, weighted_sum};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Schedule, Solver};
use super::sigmas::{self, FinalSigmas};
use super::unit_power::Reading;
use super::{betas, flow_shift, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "UniPCMultistepScheduler",
    variants: &[
        Variant { canonical: "unipc", a1111: "UniPC", aliases: &["uni_pc"], overrides: &[] },
        Variant {
            canonical: "unipc_karras",
            a1111: "UniPC Karras",
            aliases: &["uni_pc_karras"],
            overrides: &[("use_karras_sigmas", "true")],
        },
    ],
    honoured: &[
        betas::FIELDS,
        betas::ZERO_SNR,
        timesteps::FIELDS,
        sigmas::SPACING,
        sigmas::FINAL,
        clipping::FIELDS,
        lambda_levels::FLOW,
        flow_shift::DYNAMIC,
        &[
            "shift_terminal",
            "prediction_type",
            "solver_order",
            "solver_type",
            "lower_order_final",
            "predict_x0",
            "disable_corrector",
        ],
    ],
    defaults: &[],
    neutral: &[("solver_p", Neutral::Object("the scheduler that predicts in place of UniP"))],
    takes: Takes::SIGMAS,
    build,
};

/// The function B(h) of the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
enum SolverType {
    Bh1,
    Bh2,
}

impl Choice for SolverType {
    // The last three are those of DPM-Solver's and DEIS' configs; diffusers takes them for `bh2`.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("bh1", SolverType::Bh1),
        ("bh2", SolverType::Bh2),
        ("midpoint", SolverType::Bh2),
        ("heun", SolverType::Bh2),
        ("logrho", SolverType::Bh2),
    ];
}

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let (order, last) = (order(fields)?, fields.choice("final_sigmas_type", FinalSigmas::Zero)?);
    let form =
        Form { solver: fields.choice("solver_type", SolverType::Bh2)?, predict_x0: fields.flag("predict_x0", true)? };
    if !form.predict_x0 && last == FinalSigmas::Zero {
        return Err(wrong("`predict_x0` `false` cannot step to `final_sigmas_type` `zero`").hint("use `sigma_min`"));
    }
    let lower_order_final = fields.flag("lower_order_final", true)?;
    let uncorrected = fields.numbers("disable_corrector")?.unwrap_or_default();
    let prediction_type = PredictionType::read_with_flow(fields)?;
    if !form.predict_x0 && prediction_type == PredictionType::Flow {
        // diffusers does not have it either.
        return Err(wrong("`predict_x0` `false` cannot have `prediction_type` `flow_prediction`").hint("leave it out"));
    }
    let rules = Rules { last, ends_at_own_least: true, rounds_karras: true, is_unipc: true };
    let levels = Levels::read(fields, rules, request)?;
    let (n, begin) = (levels.timesteps.len(), levels.begin);
    let order_of = |i: usize| {
        // A step to zero is infinitely long in lambda: only the first order has a limit there.
        let left = if levels.sigmas[i + 1] == 0.0 {
            1
        } else if lower_order_final {
            n - i
        } else {
            order
        };
        order.min(left).min(i.saturating_sub(begin) + 1)
    };
    let read = if form.predict_x0 { Reading::picture } else { Reading::noise };
    let corrects = |i: usize| i > begin && !uncorrected.contains(&(i as f64 - 1.0));
    let solver = UniPcMultistep {
        readings: levels.sigmas[..n].iter().map(|sigma| read(prediction_type, levels.mixing, *sigma)).collect(),
        predictors: (0..n).map(|i| form.predictor(&levels, i, order_of(i))).collect(),
        correctors: (0..n).map(|i| corrects(i).then(|| form.corrector(&levels, i, order_of(i - 1)))).collect(),
        remembered: order,
        clipping: Clipping::read(fields, None)?,
    };
    Ok(Schedule::new(ALGORITHM.class_name, levels.numbers(), solver))
}

/// Weights of the sample at the start of a step and of the outputs, newest first.
#[derive(Debug)]
struct Weights {
    sample: f64,
    outputs: Vec<f64>,
}

/// The fields that choose between forms of the algorithm.
#[derive(Debug, Clone, Copy)]
struct Form {
    solver: SolverType,
    predict_x0: bool,
}

impl Form {
    /// The step from level `i` to level `i + 1`, from the outputs at the last `order` levels (algorithm 2).
    fn predictor(self, levels: &Levels, i: usize, order: usize) -> Weights {
        let Some(step) = Stretch::new(self, levels, i, order) else {
            return Weights { sample: 1.0, outputs: vec![0.0; order] };
        };
        let rhos = match order {
            1 => Vec::new(),
            // The paper's and the reference's choice, not the solution of the equations.
            2 => vec![0.5],
            _ => step.solve(order - 1),
        };
        step.weights(&rhos)
    }

    /// The step from level `i - 1` to level `i` once more, now that the output at its end is known, which is the
    /// newest (algorithm 1).
    fn corrector(self, levels: &Levels, i: usize, order: usize) -> Weights {
        let Some(step) = Stretch::new(self, levels, i - 1, order) else {
            return Weights { sample: 1.0, outputs: vec![0.0; order + 1] };
        };
        let mut rhos = if order == 1 { vec![0.5] } else { step.solve(order) };
        let newest = step.scale * rhos.pop().expect("as many as the order, which is at least 1");
        let mut weights = step.weights(&rhos);
        weights.outputs[0] -= newest;
        weights.outputs.insert(0, newest);
        weights
    }
}

/// The scalars of a step between two levels.
struct Stretch {
    sample: f64,
    output: f64,
    /// Weight of the sum of the differences: -alpha B(h), or -sigma B(h) where the noise is integrated.
    scale: f64,
    /// Where the earlier levels lie, in lengths of the step from its start; then 1, its end.
    ratios: Vec<f64>,
    /// Right-hand sides of the equations for the rhos.
    moments: Vec<f64>,
}

impl Stretch {
    /// The step from level `i` to the next level; `None` where it has no length.
    fn new(form: Form, levels: &Levels, i: usize, order: usize) -> Option<Self> {
        let between = |from: usize, to: usize| lambda_step(levels.mixing, levels.sigmas[from], levels.sigmas[to]);
        let h = between(i, i + 1);
        if h <= 0.0 {
            return None;
        }
        let at = |level: usize| (levels.mixing)(levels.sigmas[level]);
        let ((alpha_s, sigma_s), (alpha_t, sigma_t)) = (at(i), at(i + 1));
        let (sample, factor, hh) =
            if form.predict_x0 { (sigma_t / sigma_s, -alpha_t, -h) } else { (alpha_t / alpha_s, -sigma_t, h) };
        let h_phi_1 = hh.exp_m1();
        let b_h = if form.solver == SolverType::Bh1 { hh } else { h_phi_1 };
        let mut h_phi_k = h_phi_1 / hh - 1.0;
        let mut factorial = 1.0;
        let mut moments = Vec::new();
        for k in 1..=order {
            moments.push(h_phi_k * factorial / b_h);
            factorial *= (k + 1) as f64;
            h_phi_k = h_phi_k / hh - 1.0 / factorial;
        }
        let earlier = (1..order).map(|back| between(i, i - back) / h);
        let ratios = earlier.chain([1.0]).collect();
        Some(Stretch { sample, output: factor * h_phi_1, scale: factor * b_h, ratios, moments })
    }

    /// Returns the weights of the sample and of the outputs at the start and before, given the `rhos` of the differences.
    fn weights(&self, rhos: &[f64]) -> Weights {
        let mut outputs = vec![self.output];
        for (rho, ratio) in rhos.iter().zip(&self.ratios) {
            // (earlier - newest) / ratio
            let weight = self.scale * rho / ratio;
            outputs[0] -= weight;
            outputs.push(weight);
        }
        Weights { sample: self.sample, outputs }
    }

    /// Solves sum over k of ratio_k^i rho_k = moment_i for i = 0 to `count` - 1, by elimination.
    fn solve(&self, count: usize) -> Vec<f64> {
        let row = |i: usize| -> Vec<f64> {
            let powers = self.ratios[..count].iter().map(|ratio| ratio.powi(i as i32));
            powers.chain([self.moments[i]]).collect()
        };
        let mut rows: Vec<Vec<f64>> = (0..count).map(row).collect();
        for k in 0..count {
            let pivot = (k..count).max_by(|a, b| rows[*a][k].abs().total_cmp(&rows[*b][k].abs())).unwrap_or(k);
            rows.swap(k, pivot);
            let head = rows[k].clone();
            for (_, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != k) {
                let factor = row[k] / head[k];
                row.iter_mut().zip(&head).for_each(|(x, h)| *x -= factor * h);
            }
        }
        (0..count).map(|k| rows[k][count] / rows[k][k]).collect()
    }
}

#[derive(Debug)]
struct UniPcMultistep {
    readings: Vec<Reading>,
    predictors: Vec<Weights>,
    correctors: Vec<Option<Weights>>,
    /// How many outputs an image keeps.
    remembered: usize,
    clipping: Clipping,
}

impl Solver for UniPcMultistep {
    /// `memory` is the sample at the start of the last step, then the outputs, newest first.
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        _noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let output = self.readings[i].of(sample, model_output, self.clipping);
        let mut outputs = memory.split_off(memory.len().min(1));
        outputs.insert(0, output);
        let sum = |weights: &Weights, start: &Array3<f32>| {
            let terms = weights.outputs.iter().copied().zip(outputs.iter().map(|output| output.view()));
            weighted_sum(&std::iter::once((weights.sample, start.view())).chain(terms).collect::<Vec<_>>())
        };
        let corrected = self.correctors[i].as_ref().map(|weights| sum(weights, &memory[0]));
        let start = corrected.unwrap_or_else(|| sample.clone());
        let prev_sample = sum(&self.predictors[i], &start);
        outputs.truncate(self.remembered);
        *memory = std::iter::once(start).chain(outputs).collect();
        prev_sample
    }
}

#[cfg(test)]
mod tests {
    use super::super::noising::{self, Mixing};
    use super::super::unit_power::alpha_sigma;
    use super::*;

    #[test]
    fn a_constant_picture_is_reached_whatever_the_order() {
        let forms = [(SolverType::Bh1, 3), (SolverType::Bh2, 1), (SolverType::Bh2, 2), (SolverType::Bh2, 3)];
        let flow: (Mixing, _) = (noising::flow, vec![0.99, 0.8, 0.6, 0.3, 0.1]);
        for (mixing, sigmas) in [(alpha_sigma as Mixing, vec![14.6, 6.0, 2.0, 0.7, 0.2]), flow] {
            let levels = Levels { timesteps: vec![0.0; 4], sigmas, mixing, begin: 0 };
            let (from, to) = (mixing(levels.sigmas[2]), mixing(levels.sigmas[3]));
            for (solver, order) in forms {
                let form = Form { solver, predict_x0: true };
                for weights in [form.predictor(&levels, 2, order), form.corrector(&levels, 3, order)] {
                    let picture = weights.sample * from.0 + weights.outputs.iter().sum::<f64>();
                    assert!((picture - to.0).abs() < 1e-12, "{solver:?} {order}");
                    assert!((weights.sample * from.1 - to.1).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn equations_are_solved() {
        let step = Stretch {
            sample: 0.0,
            output: 0.0,
            scale: 1.0,
            ratios: vec![-0.5, -2.0, 1.0],
            moments: vec![1.0, 2.0, 3.0],
        };
        let rhos = step.solve(3);
        for (i, moment) in step.moments.iter().enumerate() {
            let sum: f64 = rhos.iter().zip(&step.ratios).map(|(rho, ratio)| rho * ratio.powi(i as i32)).sum();
            assert!((sum - moment).abs() < 1e-12);
        }
    }
}
