//! The exponential integrators of DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095), and
//! the fields that their multistep and single-step forms share.

use super::fields::{Choice, Fields, bad, wrong};
use super::lambda_levels::Levels;
use super::prediction::PredictionType;
use super::sigmas::FinalSigmas;
use super::unit_power::Reading;
use crate::error::Result;

/// Which equation is solved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AlgorithmType {
    /// Whether the noise is integrated (DPM-Solver), not the picture (DPM-Solver++).
    pub(super) of_noise: bool,
    /// Whether fresh noise is added on the way.
    pub(super) sde: bool,
}

impl AlgorithmType {
    /// `dpmsolver++`, the default of every class.
    pub(super) const DEFAULT: AlgorithmType = AlgorithmType { of_noise: false, sde: false };
}

impl Choice for AlgorithmType {
    // `deis` is what a config of DEISMultistepScheduler says; diffusers takes it for `dpmsolver++` too.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("dpmsolver++", AlgorithmType::DEFAULT),
        ("sde-dpmsolver++", AlgorithmType { of_noise: false, sde: true }),
        ("dpmsolver", AlgorithmType { of_noise: true, sde: false }),
        ("sde-dpmsolver", AlgorithmType { of_noise: true, sde: true }),
        ("deis", AlgorithmType::DEFAULT),
    ];
}

/// How the derivatives are approximated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SolverType {
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

/// The fields that both forms read.
pub(super) const FIELDS: &[&str] = &[
    "prediction_type",
    "algorithm_type",
    "solver_type",
    "solver_order",
    "lower_order_final",
    "lambda_min_clipped",
    "variance_type",
];

/// What both forms read from [`FIELDS`] and `final_sigmas_type`.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) algorithm: AlgorithmType,
    pub(super) solver: SolverType,
    pub(super) order: usize,
    pub(super) final_sigmas: FinalSigmas,
    pub(super) prediction_type: PredictionType,
}

impl Settings {
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let settings = Settings {
            algorithm: fields.choice("algorithm_type", AlgorithmType::DEFAULT)?,
            solver: fields.choice("solver_type", SolverType::Midpoint)?,
            order: order(fields)?,
            final_sigmas: fields.choice("final_sigmas_type", FinalSigmas::Zero)?,
            prediction_type: PredictionType::read_with_flow(fields)?,
        };
        if settings.algorithm.of_noise && settings.final_sigmas == FinalSigmas::Zero {
            return Err(wrong("`algorithm_type` `dpmsolver` cannot step to `final_sigmas_type` `zero`")
                .hint("use `dpmsolver++`, or `final_sigmas_type` `sigma_min`"));
        }
        if settings.algorithm.of_noise && settings.prediction_type == PredictionType::Flow {
            // diffusers does not have it either.
            return Err(wrong("`algorithm_type` `dpmsolver` cannot have `prediction_type` `flow_prediction`")
                .hint("use `dpmsolver++`"));
        }
        refuse_learned_variance(fields)?;
        Ok(settings)
    }

    /// Returns how the output at every level but the final one is read.
    pub(super) fn readings(&self, levels: &Levels) -> Vec<Reading> {
        let read = if self.algorithm.of_noise { Reading::noise } else { Reading::picture };
        levels.sigmas[..levels.timesteps.len()]
            .iter()
            .map(|sigma| read(self.prediction_type, levels.mixing, *sigma))
            .collect()
    }
}

/// Reads `solver_order`, 2 where it is missing.
pub(super) fn order(fields: &Fields) -> Result<usize> {
    match fields.count("solver_order", 2)? {
        order @ 1..=3 => Ok(order as usize),
        order => Err(bad("solver_order", &order.into(), "1, 2 or 3")),
    }
}

/// Refuses networks that predict a variance too.
///
/// # Errors
/// `scheduler_config` for a `variance_type` that is learned.
pub(super) fn refuse_learned_variance(fields: &Fields) -> Result<()> {
    let learned = |value: &&serde_json::Value| matches!(value.as_str(), Some("learned" | "learned_range"));
    match fields.0.get("variance_type").filter(learned) {
        Some(value) => {
            Err(bad("variance_type", value, "`null`: networks that also predict a variance are not supported"))
        }
        None => Ok(()),
    }
}

/// The scalars of a step from one level to another: eq. 3.4 and appendix B of the papers.
#[derive(Debug)]
pub(super) struct Integral {
    /// Weight of the sample.
    pub(super) sample: f64,
    /// Weight of the output, of its first derivative as `midpoint` and as `heun` has it, and of its second.
    pub(super) output: f64,
    pub(super) midpoint: f64,
    pub(super) first: f64,
    pub(super) second: f64,
    /// Weight of fresh noise.
    pub(super) noise: f64,
    /// The step's length in lambda.
    pub(super) h: f64,
}

impl Integral {
    /// Returns the scalars of a step between two samples that are alpha picture + sigma noise, to the lower level; `None`
    /// where it has no length.
    pub(super) fn between(
        algorithm: AlgorithmType,
        (alpha_s, sigma_s): (f64, f64),
        (alpha_t, sigma_t): (f64, f64),
    ) -> Option<Self> {
        let h = (sigma_s / alpha_s).ln() - (sigma_t / alpha_t).ln();
        if h <= 0.0 {
            return None;
        }
        let sde = algorithm.sde;
        Some(if algorithm.of_noise {
            let growth = h.exp_m1();
            let times = if sde { -2.0 * sigma_t } else { -sigma_t };
            Integral {
                sample: alpha_t / alpha_s,
                output: times * growth,
                midpoint: 0.5 * times * growth,
                first: times * (growth / h - 1.0),
                second: times * ((growth - h) / (h * h) - 0.5),
                noise: if sde { sigma_t * (2.0 * h).exp_m1().sqrt() } else { 0.0 },
                h,
            }
        } else {
            let k = if sde { 2.0 * h } else { h };
            let decay = (-k).exp_m1();
            Integral {
                sample: sigma_t / sigma_s * if sde { (-h).exp() } else { 1.0 },
                output: -alpha_t * decay,
                midpoint: -0.5 * alpha_t * decay,
                first: alpha_t * (decay / k + 1.0),
                second: -alpha_t * ((decay + k) / (k * k) - 0.5),
                noise: if sde { sigma_t * (-decay).sqrt() } else { 0.0 },
                h,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::unit_power::alpha_sigma;
    use super::*;

    #[test]
    fn constant_outputs_are_integrated_exactly() {
        for (_, algorithm) in AlgorithmType::WORDS {
            let (from, to) = (3.0, 0.8);
            let ((alpha_s, sigma_s), (alpha_t, sigma_t)) = (alpha_sigma(from), alpha_sigma(to));
            let step = Integral::between(*algorithm, alpha_sigma(from), alpha_sigma(to)).expect("a step");
            // A sample of picture 1 and noise 0 (or the other way round, where the noise is integrated) stays one.
            let (picture, noise) = if algorithm.of_noise { (0.0, step.output) } else { (step.output, 0.0) };
            assert!((step.sample * alpha_s + picture - alpha_t).abs() < 1e-12, "{algorithm:?}");
            if !algorithm.sde {
                assert!((step.sample * sigma_s + noise - sigma_t).abs() < 1e-12, "{algorithm:?}");
            }
        }
    }

    #[test]
    fn a_step_of_no_length_is_none() {
        assert!(Integral::between(AlgorithmType::DEFAULT, alpha_sigma(1.0), alpha_sigma(1.0)).is_none());
    }
}
