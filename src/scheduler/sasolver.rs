//! SA-Solver, a stochastic Adams method of predictor and corrector: Xue et al. 2023 (arXiv 2309.05019), eq. 14 and 17;
//! diffusers 0.42.1 `scheduling_sasolver.py`.
//!
//! Fresh noise is added where the timestep is 200 to 800 (tau = 1), the class' default; the corrector of a step uses that
//! step's noise again.

use ndarray::{Array3, ArrayView3};

use super::clipping::{self, Clipping};
use super::dpmsolver::refuse_learned_variance;
use super::fields::{Choice, Fields, Neutral, bad, wrong};
use super::lambda_levels::{self, Levels, Rules};
use super::noising::lambda_step;
use super::prediction::{PredictionType, weighted_sum};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Schedule, Solver};
use super::sigmas::{self, FinalSigmas};
use super::unit_power::Reading;
use super::{betas, timesteps};
use crate::error::Result;
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "SASolverScheduler",
    variants: &[
        Variant { canonical: "sa_solver", a1111: "SA Solver", aliases: &[], overrides: &[] },
        Variant {
            canonical: "sa_solver_karras",
            a1111: "SA Solver Karras",
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
        &["prediction_type", "algorithm_type", "predictor_order", "corrector_order", "lower_order_final"],
        &["lambda_min_clipped", "variance_type"],
    ],
    defaults: &[],
    // A function of Python, which a config cannot hold.
    neutral: &[("tau_func", Neutral::Object("the function that says how much noise is fresh"))],
    takes: Takes::NEITHER,
    build,
};

/// What is integrated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum AlgorithmType {
    Data,
    Noise,
}

impl Choice for AlgorithmType {
    // The others are those of relatives' configs, which the class itself does not take; they say nothing of it.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("data_prediction", AlgorithmType::Data),
        ("noise_prediction", AlgorithmType::Noise),
        ("dpmsolver++", AlgorithmType::Data),
        ("sde-dpmsolver++", AlgorithmType::Data),
        ("dpmsolver", AlgorithmType::Data),
        ("sde-dpmsolver", AlgorithmType::Data),
        ("deis", AlgorithmType::Data),
    ];
}

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let algorithm = fields.choice("algorithm_type", AlgorithmType::Data)?;
    let prediction_type = PredictionType::read_with_flow(fields)?;
    let clipping = Clipping::read(fields, None)?;
    refuse_learned_variance(fields)?;
    if algorithm == AlgorithmType::Noise && (prediction_type == PredictionType::Flow || clipping != Clipping::Off) {
        // diffusers has neither: the one is refused, the other fails.
        return Err(wrong("`noise_prediction` has neither `flow_prediction` nor `thresholding`")
            .hint("use `algorithm_type` `data_prediction`"));
    }
    let orders = Orders::read(fields)?;
    let rules = Rules { last: FinalSigmas::SigmaMin, ends_at_own_least: true, rounds_karras: true, is_unipc: false };
    let levels = Levels::read(fields, rules, request)?;
    let (n, begin) = (levels.timesteps.len(), levels.begin);
    let tau = |i: usize| (200.0..=800.0).contains(&levels.timesteps[i]);
    let predictor = |i: usize| Weights::new(algorithm, &levels, tau(i), (i, i + 1), i, orders.predictor(i, n, begin));
    let corrector = |i: usize| {
        (i > begin).then(|| {
            let order = orders.corrector(i - 1, n, begin);
            Weights::new(algorithm, &levels, tau(i - 1), (i - 1, i), i, order)
        })
    };
    let read = if algorithm == AlgorithmType::Data { Reading::picture } else { Reading::noise };
    let solver = SaSolver {
        readings: levels.sigmas[..n].iter().map(|sigma| read(prediction_type, levels.mixing, *sigma)).collect(),
        predictors: (0..n).map(predictor).collect(),
        correctors: (0..n).map(corrector).collect(),
        remembered: orders.predictor.max(orders.corrector - 1),
        clipping,
    };
    Ok(Schedule::new(ALGORITHM.class_name, levels.numbers(), solver))
}

/// How many outputs predictor and corrector look at.
#[derive(Debug)]
struct Orders {
    predictor: usize,
    corrector: usize,
    lower_order_final: bool,
}

impl Orders {
    fn read(fields: &Fields) -> Result<Self> {
        let order = |key: &str| match fields.count(key, 2)? {
            order @ 1..=4 => Ok(order as usize),
            order => Err(bad(key, &order.into(), "1 to 4")),
        };
        Ok(Orders {
            predictor: order("predictor_order")?,
            corrector: order("corrector_order")?,
            lower_order_final: fields.flag("lower_order_final", true)?,
        })
    }

    /// The order in which step `i` of `n` is predicted; nothing is known of steps before `begin`.
    fn predictor(&self, i: usize, n: usize, begin: usize) -> usize {
        let left = if self.lower_order_final { n - i } else { self.predictor };
        self.predictor.min(left).min(self.known(i, begin) + 1)
    }

    /// The order in which step `i` of `n` is corrected, when its end is known.
    fn corrector(&self, i: usize, n: usize, begin: usize) -> usize {
        let left = if self.lower_order_final { n - i + 1 } else { self.corrector };
        self.corrector.min(left).min(self.known(i, begin) + 2)
    }

    fn known(&self, i: usize, begin: usize) -> usize {
        i.saturating_sub(begin).min(self.predictor.max(self.corrector - 1))
    }
}

/// Weights of the sample at the start of a step, of the outputs (newest first) and of the step's noise.
#[derive(Debug)]
struct Weights {
    sample: f64,
    outputs: Vec<f64>,
    noise: f64,
}

impl Weights {
    /// Returns the weights of the step between the levels `from` and `to` with the outputs at level `newest` and the
    /// `order` - 1 before: the integrals over the step of the polynomials through them (eq. 14; eq. 17 where `newest` is the
    /// end of the step).
    fn new(
        algorithm: AlgorithmType,
        levels: &Levels,
        noisy: bool,
        (from, to): (usize, usize),
        newest: usize,
        order: usize,
    ) -> Self {
        let sigma = |level: usize| levels.sigmas[level];
        let ((alpha_s, sigma_s), (alpha_t, sigma_t)) = ((levels.mixing)(sigma(from)), (levels.mixing)(sigma(to)));
        let lambda = |from: usize, to: usize| lambda_step(levels.mixing, sigma(from), sigma(to));
        let (h, tau2) = (lambda(from, to), if noisy { 1.0 } else { 0.0 });
        let growth = 1.0 + tau2;
        // In u = lambda of the end - lambda.
        let nodes: Vec<f64> = (0..order).map(|back| lambda(newest - back, to)).collect();
        let is_data = algorithm == AlgorithmType::Data;
        let (rate, scale) = if is_data { (growth, growth * alpha_t) } else { (-1.0, -growth * sigma_t) };
        let moments = moments(rate, h);
        let integral = |own| -> f64 { lagrange(&nodes, own).iter().zip(&moments).map(|(c, moment)| c * moment).sum() };
        let mut outputs: Vec<f64> = (0..order).map(|own| scale * integral(own)).collect();
        if is_data && order == 2 {
            // The reference's addition of third order in h, for few steps.
            let apart = if newest == to { h } else { lambda(newest - 1, newest) };
            let more = scale * (h * h / 2.0 - (h * rate + (-rate * h).exp_m1()) / (rate * rate)) / apart;
            let more = if h > 0.0 { more } else { 0.0 };
            outputs[0] += more;
            outputs[1] -= more;
        }
        if is_data {
            let noise = sigma_t * (-(-2.0 * tau2 * h).exp_m1()).sqrt();
            Weights { sample: (-tau2 * h).exp() * sigma_t / sigma_s, outputs, noise }
        } else {
            Weights { sample: alpha_t / alpha_s, outputs, noise: tau2 * sigma_t * (2.0 * h).exp_m1().sqrt() }
        }
    }

    /// Returns the weighted sum.
    fn of(&self, start: &Array3<f32>, noise: &Array3<f32>, outputs: &[Array3<f32>]) -> Array3<f32> {
        let outputs = self.outputs.iter().copied().zip(outputs.iter().map(|output| output.view()));
        weighted_sum(
            &[(self.sample, start.view()), (self.noise, noise.view())].into_iter().chain(outputs).collect::<Vec<_>>(),
        )
    }
}

/// Returns the integrals of u^p exp(-`rate` u) from 0 to `h`, for p of 0 to 3.
fn moments(rate: f64, h: f64) -> [f64; 4] {
    let mut moments = [-(-rate * h).exp_m1() / rate, 0.0, 0.0, 0.0];
    for p in 1..4 {
        moments[p] = (p as f64 * moments[p - 1] - h.powi(p as i32) * (-rate * h).exp()) / rate;
    }
    moments
}

/// Returns the coefficients, the constant one first, of the polynomial that is 1 at node `own` and 0 at the others.
fn lagrange(nodes: &[f64], own: usize) -> Vec<f64> {
    let mut coefficients = vec![1.0];
    for (_, node) in nodes.iter().enumerate().filter(|(other, _)| *other != own) {
        let scale = 1.0 / (nodes[own] - node);
        // (u - node) / (own - node) times what there is.
        coefficients.push(0.0);
        for p in (0..coefficients.len()).rev() {
            let lower = if p > 0 { coefficients[p - 1] } else { 0.0 };
            coefficients[p] = scale * (lower - node * coefficients[p]);
        }
    }
    coefficients
}

#[derive(Debug)]
struct SaSolver {
    readings: Vec<Reading>,
    predictors: Vec<Weights>,
    correctors: Vec<Option<Weights>>,
    /// How many earlier outputs an image keeps.
    remembered: usize,
    clipping: Clipping,
}

impl Solver for SaSolver {
    /// `memory` is the sample at the start of the last step, that step's noise, then the outputs, newest first.
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let mut outputs = memory.split_off(memory.len().min(2));
        outputs.insert(0, self.readings[i].of(sample, model_output, self.clipping));
        let corrected = self.correctors[i].as_ref().map(|weights| weights.of(&memory[0], &memory[1], &outputs));
        let start = corrected.unwrap_or_else(|| sample.clone());
        // Drawn at every step, also where its weight is zero, as diffusers does.
        let fresh = noise.draw(sample.dim());
        let prev_sample = self.predictors[i].of(&start, &fresh, &outputs);
        outputs.truncate(self.remembered);
        *memory = [start, fresh].into_iter().chain(outputs).collect();
        prev_sample
    }
}

#[cfg(test)]
mod tests {
    use super::super::unit_power::alpha_sigma;
    use super::*;

    #[test]
    fn a_constant_output_is_integrated_whatever_the_order() {
        let sigmas = vec![14.6, 9.0, 6.0, 2.0, 0.7, 0.2];
        let levels = Levels { timesteps: vec![0.0; 5], sigmas, mixing: alpha_sigma, begin: 0 };
        let ((alpha_s, sigma_s), (alpha_t, sigma_t)) = (alpha_sigma(2.0), alpha_sigma(0.7));
        for (newest, orders) in [(3, 1..=4), (4, 1..=4)] {
            for order in orders {
                for noisy in [false, true] {
                    let weights = Weights::new(AlgorithmType::Data, &levels, noisy, (3, 4), newest, order);
                    let picture = weights.sample * alpha_s + weights.outputs.iter().sum::<f64>();
                    assert!((picture - alpha_t).abs() < 1e-12, "{newest} {order}");
                    // The noise that is kept and the fresh noise make as much as there is.
                    let kept = weights.sample * sigma_s;
                    assert!((kept.hypot(weights.noise) - sigma_t).abs() < 1e-12, "{newest} {order}");
                }
                let weights = Weights::new(AlgorithmType::Noise, &levels, false, (3, 4), newest, order);
                let noise = weights.sample * sigma_s + weights.outputs.iter().sum::<f64>();
                assert!((noise - sigma_t).abs() < 1e-12 && weights.noise == 0.0);
            }
        }
    }

    #[test]
    fn polynomials_are_one_at_their_node() {
        let nodes = [0.5, 1.5, -1.0, 3.0];
        for own in 0..4 {
            let coefficients = lagrange(&nodes, own);
            for (other, node) in nodes.iter().enumerate() {
                let value: f64 = coefficients.iter().enumerate().map(|(p, c)| c * node.powi(p as i32)).sum();
                assert!((value - f64::from(u8::from(own == other))).abs() < 1e-12);
            }
        }
    }
}
