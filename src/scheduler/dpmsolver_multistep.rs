//! DPM-Solver++ with several steps of memory: Lu et al. 2022 (arXiv 2211.01095), algorithm 2, and its SDE form; diffusers
//! 0.42.1 `scheduling_dpmsolver_multistep.py`. DPM++ 2M is its order 2.
//!
//! Every update is a weighted sum of the sample, the last three predicted pictures and (SDE) fresh noise, with weights
//! that depend on the schedule alone: they are computed once, here in [`Solution::weights`].

use ndarray::{Array3, ArrayView3};

use super::betas;
use super::clipping::{self, Clipping};
use super::fields::{Choice, Fields, Neutral, bad, wrong};
use super::prediction::{Mix, PredictionType, weighted_sum};
use super::registry::{Algorithm, Variant};
use super::schedule::{Numbers, Schedule, Solver};
use super::sigmas::{self, FinalSigmas, SigmaSpacing, TrainingSigmas};
use super::timesteps::{self, Spacing, TimestepSpacing};
use crate::error::Result;
use crate::noise::Noise;

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
        &["prediction_type", "algorithm_type", "solver_type", "solver_order"],
        &["lower_order_final", "euler_at_final", "lambda_min_clipped", "variance_type"],
    ],
    defaults: &[],
    neutral: &[
        ("use_lu_lambdas", Neutral::Off),
        ("use_flow_sigmas", Neutral::Off),
        ("use_dynamic_shifting", Neutral::Off),
        // These two mean something only with flow sigmas and dynamic shifting, which are refused above.
        ("flow_shift", Neutral::Any),
        ("time_shift_type", Neutral::Any),
    ],
    build,
};

/// Which equation is solved.
#[derive(Debug, Clone, Copy, PartialEq)]
enum AlgorithmType {
    Ode,
    Sde,
}

impl Choice for AlgorithmType {
    // `deis` is what a config of DEISMultistepScheduler says; diffusers takes it for `dpmsolver++` too.
    const WORDS: &'static [(&'static str, Self)] =
        &[("dpmsolver++", AlgorithmType::Ode), ("sde-dpmsolver++", AlgorithmType::Sde), ("deis", AlgorithmType::Ode)];
}

/// How the second order is approximated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum SolverType {
    Midpoint,
    Heun,
}

impl Choice for SolverType {
    // The last three are those of DEIS' and UniPC's configs; diffusers takes them for `midpoint`.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("midpoint", SolverType::Midpoint),
        ("heun", SolverType::Heun),
        ("logrho", SolverType::Midpoint),
        ("bh1", SolverType::Midpoint),
        ("bh2", SolverType::Midpoint),
    ];
}

fn build(fields: &Fields, num_inference_steps: u32, _eta: f64) -> Result<Schedule> {
    let solution = Solution::read(fields)?;
    let (timesteps, sigmas) = levels(fields, solution.final_sigmas, num_inference_steps)?;
    let prediction_type = fields.choice("prediction_type", PredictionType::Epsilon)?;
    let original = |sigma: &f64| {
        let (alpha, sigma) = alpha_sigma(*sigma);
        prediction_type.original(alpha, sigma)
    };
    let solver = DpmSolverMultistep {
        originals: sigmas[..timesteps.len()].iter().map(original).collect(),
        weights: (0..timesteps.len()).map(|i| solution.weights(&sigmas, i)).collect(),
        remembered: solution.order - 1,
        draws: solution.algorithm == AlgorithmType::Sde,
        clipping: Clipping::read(fields, None)?,
    };
    let numbers = Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma: 1.0 };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, solver))
}

/// Returns timesteps, whole numbers, and noise levels, the final one included.
///
/// With spaced levels (Karras, exponential) neighbouring timesteps may be equal, as in diffusers: they are then only what
/// the network is told. Here such a schedule still starts at its first step (diffusers starts at the second of two equal
/// timesteps).
fn levels(fields: &Fields, last: FinalSigmas, n: u32) -> Result<(Vec<f64>, Vec<f64>)> {
    let alphas_cumprod = betas::positive_alphas_cumprod(fields)?;
    let training = TrainingSigmas::new(&alphas_cumprod)?;
    let lambda_min = -training.largest().ln();
    let clipped = fields.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    if clipped > lambda_min {
        return Err(bad("lambda_min_clipped", &clipped.into(), &format!("`-Infinity` or less than {lambda_min:.4}")));
    }
    let spacing = Spacing::read(fields, TimestepSpacing::Linspace, alphas_cumprod.len())?;
    let spacing = Spacing { without_lowest: true, ..spacing };
    spacing.check(n)?;
    let ends = (training.largest(), training.smallest());
    let (timesteps, sigmas) = match SigmaSpacing::read(fields)?.levels(fields, ends, n as usize)? {
        Some(sigmas) => {
            let whole = if spaced_timesteps_are_rounded(fields)? { f64::round_ties_even } else { f64::trunc };
            (sigmas.iter().map(|sigma| whole(training.timestep_of(*sigma))).collect(), sigmas)
        }
        None => {
            let timesteps: Vec<f64> = spacing.timesteps(n)?.into_iter().map(f64::round_ties_even).collect();
            let sigmas = timesteps.iter().map(|timestep| training.at(*timestep)).collect();
            (timesteps, sigmas)
        }
    };
    Ok((timesteps, training.finish(sigmas, last)?))
}

/// diffusers rounds the timesteps of Karras levels, but not for cosine betas, and cuts off all others.
fn spaced_timesteps_are_rounded(fields: &Fields) -> Result<bool> {
    Ok(SigmaSpacing::read(fields)? == SigmaSpacing::Karras && !betas::are_squaredcos(fields)?)
}

/// The fields that choose between forms of the algorithm.
#[derive(Debug)]
struct Solution {
    algorithm: AlgorithmType,
    solver: SolverType,
    order: usize,
    lower_order_final: bool,
    euler_at_final: bool,
    final_sigmas: FinalSigmas,
}

impl Solution {
    fn read(fields: &Fields) -> Result<Self> {
        let order = fields.count("solver_order", 2)?;
        let algorithm = fields.choice("algorithm_type", AlgorithmType::Ode)?;
        if !(1..=3).contains(&order) {
            return Err(bad("solver_order", &order.into(), "1, 2 or 3"));
        }
        if order == 3 && algorithm == AlgorithmType::Sde {
            // diffusers has it, but its weight of the second difference goes to -1 for small steps instead of to 0.
            return Err(
                wrong("`solver_order` cannot be `3` with `algorithm_type` `sde-dpmsolver++`").hint("use 1 or 2")
            );
        }
        if let Some(learned) =
            fields.0.get("variance_type").filter(|v| matches!(v.as_str(), Some("learned" | "learned_range")))
        {
            return Err(bad(
                "variance_type",
                learned,
                "`null`: networks that also predict a variance are not supported",
            ));
        }
        Ok(Solution {
            algorithm,
            solver: fields.choice("solver_type", SolverType::Midpoint)?,
            order: order as usize,
            lower_order_final: fields.flag("lower_order_final", true)?,
            euler_at_final: fields.flag("euler_at_final", false)?,
            final_sigmas: fields.choice("final_sigmas_type", FinalSigmas::Zero)?,
        })
    }

    /// Returns the order of step `i` of `n`: what memory allows, and less at the end where that is asked for.
    fn order_of(&self, i: usize, n: usize) -> usize {
        let few_left = self.lower_order_final && n < 15;
        let at_end = if i + 1 == n && (self.euler_at_final || few_left || self.final_sigmas == FinalSigmas::Zero) {
            1
        } else if i + 2 == n && few_left {
            2
        } else {
            3
        };
        self.order.min(i + 1).min(at_end)
    }

    /// Returns the weights of step `i`, from level `sigmas[i]` to `sigmas[i + 1]`.
    fn weights(&self, sigmas: &[f64], i: usize) -> Weights {
        let lambda = |i: usize| -sigmas[i].ln();
        let (alpha_t, sigma_t) = alpha_sigma(sigmas[i + 1]);
        let (_, sigma_s) = alpha_sigma(sigmas[i]);
        let h = lambda(i + 1) - lambda(i);
        if h <= 0.0 {
            // From the smallest level to itself: nothing moves.
            return Weights { sample: 1.0, pictures: [0.0; 3], noise: 0.0 };
        }
        let sde = self.algorithm == AlgorithmType::Sde;
        let k = if sde { 2.0 * h } else { h };
        let decay = (-k).exp_m1();
        let order = self.order_of(i, sigmas.len() - 1);
        let (d1, d2) = differences(order, h, |back| lambda(i + 1 - back) - lambda(i - back));
        let c0 = -alpha_t * decay;
        let c1 = if order == 2 && self.solver == SolverType::Midpoint { 0.5 * c0 } else { alpha_t * (decay / k + 1.0) };
        let c2 = -alpha_t * ((decay + k) / (k * k) - 0.5);
        let mut pictures = [c0, 0.0, 0.0];
        if order > 1 {
            pictures.iter_mut().zip(d1.iter().zip(d2)).for_each(|(p, (d1, d2))| *p += c1 * d1 + c2 * d2);
        }
        Weights {
            sample: sigma_t / sigma_s * if sde { (-h).exp() } else { 1.0 },
            pictures,
            noise: if sde { sigma_t * (-decay).sqrt() } else { 0.0 },
        }
    }
}

/// Returns the first and second difference (D1, D2 of the paper) as weights of the last three pictures, newest first.
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

/// Returns alpha and sigma of a unit-power sample at noise level `sigma`.
fn alpha_sigma(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / sigma.hypot(1.0);
    (alpha, sigma * alpha)
}

/// What `prev_sample` is a sum of.
#[derive(Debug)]
struct Weights {
    sample: f64,
    /// Of the predicted pictures, newest first.
    pictures: [f64; 3],
    noise: f64,
}

#[derive(Debug)]
struct DpmSolverMultistep {
    originals: Vec<Mix>,
    weights: Vec<Weights>,
    /// How many earlier pictures an image keeps.
    remembered: usize,
    draws: bool,
    clipping: Clipping,
}

impl Solver for DpmSolverMultistep {
    fn model_input(&self, _i: usize, sample: &Array3<f32>) -> Array3<f32> {
        sample.clone()
    }

    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let weights = &self.weights[i];
        memory.insert(0, self.clipping.apply(self.originals[i].of(sample, model_output)));
        // Drawn at the last step too, where its weight is zero, as diffusers does.
        let fresh = self.draws.then(|| noise.draw(sample.dim()));
        let pictures = weights.pictures.iter().copied().zip(memory.iter().map(|picture| picture.view()));
        let mut terms: Vec<_> = std::iter::once((weights.sample, sample.view())).chain(pictures).collect();
        terms.extend(fresh.iter().map(|fresh| (weights.noise, fresh.view())));
        let prev_sample = weighted_sum(&terms);
        memory.truncate(self.remembered);
        prev_sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solution(order: usize) -> Solution {
        Solution {
            algorithm: AlgorithmType::Ode,
            solver: SolverType::Midpoint,
            order,
            lower_order_final: true,
            euler_at_final: false,
            final_sigmas: FinalSigmas::Zero,
        }
    }

    #[test]
    fn orders_rise_with_memory_and_fall_at_the_end() {
        let orders = |solution: &Solution, n| (0..n).map(|i| solution.order_of(i, n)).collect::<Vec<_>>();
        assert_eq!(orders(&solution(2), 4), [1, 2, 2, 1]);
        assert_eq!(orders(&solution(3), 5), [1, 2, 3, 2, 1]);
        assert_eq!(orders(&solution(3), 1), [1]);
        let to_the_end = Solution { lower_order_final: false, final_sigmas: FinalSigmas::SigmaMin, ..solution(2) };
        assert_eq!(orders(&to_the_end, 3), [1, 2, 2]);
    }

    #[test]
    fn a_constant_picture_is_reached_whatever_the_order() {
        // When every prediction is the picture itself, the sample goes from picture + noise mix to the same mix.
        let sigmas = [14.6, 6.0, 2.0, 0.7, 0.2, 0.0];
        for order in 1..=3 {
            for solver in [SolverType::Midpoint, SolverType::Heun] {
                let solution = Solution { solver, ..solution(order) };
                for i in 0..5 {
                    let weights = solution.weights(&sigmas, i);
                    let (alpha_s, sigma_s) = alpha_sigma(sigmas[i]);
                    let (alpha_t, sigma_t) = alpha_sigma(sigmas[i + 1]);
                    let picture = weights.sample * alpha_s + weights.pictures.iter().sum::<f64>();
                    assert!((picture - alpha_t).abs() < 1e-12, "order {order}, step {i}");
                    assert!((weights.sample * sigma_s - sigma_t).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_step_of_no_length_moves_nothing() {
        let weights = solution(2).weights(&[2.0, 1.0, 1.0], 1);
        assert_eq!((weights.sample, weights.pictures), (1.0, [0.0; 3]));
    }
}
