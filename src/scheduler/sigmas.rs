//! Noise levels between evaluations: sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod).

use super::beta_distribution;
use super::fields::{Choice, Fields, wrong};
use crate::error::{Error, ErrorKind, Result};

/// The fields of the classes that can spread their levels. `sigma_min` and `sigma_max` count even where the class does not
/// have them: diffusers finds them in the config all the same.
pub(super) const SPACING: &[&str] =
    &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "sigma_min", "sigma_max"];

/// The field of the classes that can end above zero.
pub(super) const FINAL: &[&str] = &["final_sigmas_type"];

/// How the noise levels are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SigmaSpacing {
    /// Those of the timesteps.
    Timesteps,
    /// Karras et al. 2022 (arXiv 2206.00364, eq. 5), rho = 7.
    Karras,
    /// Even in log sigma.
    Exponential,
    /// Even in lambda = -log sigma, between the ends of training whatever the config says of others (Lu et al. 2022, arXiv
    /// 2206.00927, section 3.4).
    Lu,
    /// Quantiles of the beta distribution with both parameters 0.6 (Lee et al. 2024, arXiv 2407.12173).
    Beta,
}

/// What the last noise level is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinalSigmas {
    Zero,
    SigmaMin,
}

impl Choice for FinalSigmas {
    const WORDS: &'static [(&'static str, Self)] = &[("zero", FinalSigmas::Zero), ("sigma_min", FinalSigmas::SigmaMin)];
}

impl SigmaSpacing {
    /// Reads `use_karras_sigmas`, `use_exponential_sigmas` and `use_beta_sigmas`.
    pub(super) fn read(fields: &Fields) -> Result<Self> {
        let mut chosen = Vec::new();
        for (key, spacing) in [
            ("use_karras_sigmas", SigmaSpacing::Karras),
            ("use_exponential_sigmas", SigmaSpacing::Exponential),
            ("use_beta_sigmas", SigmaSpacing::Beta),
        ] {
            if fields.flag(key, false)? {
                chosen.push((key, spacing));
            }
        }
        match chosen[..] {
            [] => Ok(SigmaSpacing::Timesteps),
            [(_, spacing)] => Ok(spacing),
            [(one, _), (other, _), ..] => {
                Err(wrong(format!("both `{one}` and `{other}` are set")).hint("set one of them only"))
            }
        }
    }

    /// Returns `n` levels of this spacing from the config's `sigma_max` down to its `sigma_min`, or where it has none,
    /// from `ends.0` to `ends.1`; `None` for [`SigmaSpacing::Timesteps`], which has no formula of its own.
    pub(super) fn levels(self, fields: &Fields, ends: (f64, f64), n: usize) -> Result<Option<Vec<f64>>> {
        let (sigma_max, sigma_min) = match self {
            SigmaSpacing::Lu => ends,
            _ => (fields.number("sigma_max", ends.0)?, fields.number("sigma_min", ends.1)?),
        };
        if self == SigmaSpacing::Timesteps {
            return Ok(None);
        }
        let possible = sigma_min > 0.0 && sigma_min <= sigma_max && sigma_max.is_finite();
        if !possible {
            return Err(wrong(format!(
                "noise levels cannot fall from `sigma_max` {sigma_max} to `sigma_min` {sigma_min}"
            )));
        }
        Ok(Some(self.between(sigma_max, sigma_min, n)))
    }

    /// Refuses timesteps that are given where the levels have a spacing, from which timesteps follow.
    ///
    /// # Errors
    /// `timesteps` (usage).
    pub(super) fn refuse_timesteps(self) -> Result<()> {
        if self == SigmaSpacing::Timesteps {
            return Ok(());
        }
        let message = "`timesteps` cannot be given where the config spaces the noise levels";
        Err(Error::new(ErrorKind::Usage, "timesteps", message)
            .hint("use a scheduler without `karras` in its name and without `use_exponential_sigmas` and its like"))
    }

    fn between(self, sigma_max: f64, sigma_min: f64, n: usize) -> Vec<f64> {
        // One level is the largest: no division by n - 1 = 0.
        let ramp = (0..n).map(|i| if n == 1 { 0.0 } else { i as f64 / (n - 1) as f64 });
        match self {
            SigmaSpacing::Karras => {
                let rho = 7.0f64;
                let (from, to) = (sigma_max.powf(1.0 / rho), sigma_min.powf(1.0 / rho));
                ramp.map(|r| (from + r * (to - from)).powf(rho)).collect()
            }
            SigmaSpacing::Beta => {
                let quantile = |r: f64| beta_distribution::quantile(1.0 - r);
                ramp.map(|r| sigma_min + quantile(r) * (sigma_max - sigma_min)).collect()
            }
            SigmaSpacing::Timesteps | SigmaSpacing::Exponential | SigmaSpacing::Lu => {
                // Lu's logarithms are those of diffusers' f32 table, so that the ends have its first and last timestep.
                let log = |sigma: f64| if self == SigmaSpacing::Lu { f64::from(sigma.ln() as f32) } else { sigma.ln() };
                let (from, to) = (log(sigma_max), log(sigma_min));
                ramp.map(|r| (from + r * (to - from)).exp()).collect()
            }
        }
    }
}

/// The noise level at every timestep of training, rising.
#[derive(Debug)]
pub(super) struct TrainingSigmas(Vec<f64>);

impl TrainingSigmas {
    /// Returns the levels of `alphas_cumprod`.
    ///
    /// # Errors
    /// The betas leave nothing of the picture at the end, so that the last level is not finite.
    pub(super) fn new(alphas_cumprod: &[f64]) -> Result<Self> {
        // In f32, as diffusers computes them: large steps enlarge what a last bit does.
        let sigma = |alpha: &f64| {
            let alpha = *alpha as f32;
            f64::from(((1.0 - alpha) / alpha).sqrt())
        };
        let sigmas: Vec<f64> = alphas_cumprod.iter().map(sigma).collect();
        if sigmas.iter().all(|sigma| sigma.is_finite() && *sigma > 0.0) {
            return Ok(TrainingSigmas(sigmas));
        }
        Err(wrong("the betas of training give noise levels that are zero or not finite"))
    }

    /// Returns the level of the first timestep, the smallest.
    pub(super) fn smallest(&self) -> f64 {
        self.0[0]
    }

    /// Returns the level of the last timestep, the largest.
    pub(super) fn largest(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// Returns the level at `timestep`, interpolated between whole ones (`np.interp`).
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let low = (timestep.max(0.0) as usize).min(self.0.len() - 1);
        let high = (low + 1).min(self.0.len() - 1);
        self.0[low] + (self.0[high] - self.0[low]) * (timestep - low as f64)
    }

    /// Returns the timestep at which the level is `sigma`, interpolated in log sigma; the nearest end for a level outside
    /// (diffusers: `_sigma_to_t`).
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        let wanted = sigma.max(1e-10).ln();
        // As f32, since diffusers' table of logarithms is one.
        let log = |i: usize| f64::from(self.0[i].ln() as f32);
        let above = self.0.partition_point(|level| f64::from(level.ln() as f32) <= wanted);
        let low = above.saturating_sub(1).min(self.0.len().saturating_sub(2));
        let high = (low + 1).min(self.0.len() - 1);
        if low == high {
            return low as f64;
        }
        let weight = ((log(low) - wanted) / (log(low) - log(high))).clamp(0.0, 1.0);
        low as f64 + weight
    }

    /// Returns `sigmas` with the final level appended: 0, or the smallest of training (`final_sigmas_type`).
    ///
    /// # Errors
    /// The levels do not fall.
    pub(super) fn finish(&self, mut sigmas: Vec<f64>, kind: FinalSigmas) -> Result<Vec<f64>> {
        let least = sigmas.last().copied().unwrap_or_default();
        if !sigmas.windows(2).all(|pair| pair[1] < pair[0]) {
            return Err(wrong("the noise levels do not fall from step to step"));
        }
        sigmas.push(match kind {
            FinalSigmas::Zero => 0.0,
            // Karras levels come back from powers and may end a rounding error below.
            FinalSigmas::SigmaMin => self.smallest().min(least),
        });
        Ok(sigmas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training() -> TrainingSigmas {
        TrainingSigmas::new(&[0.9, 0.5, 0.1, 0.01]).expect("all between 0 and 1")
    }

    #[test]
    fn levels_and_timesteps_are_each_others_inverse() {
        let training = training();
        for timestep in [0.0, 1.0, 2.0, 3.0] {
            assert!((training.timestep_of(training.at(timestep)) - timestep).abs() < 1e-6);
        }
        assert_eq!((training.timestep_of(0.0), training.timestep_of(1e6)), (0.0, 3.0));
        let halfway = (training.at(1.0) + training.at(2.0)) / 2.0;
        assert!((training.at(1.5) - halfway).abs() < 1e-12);
    }

    #[test]
    fn spacings_start_and_end_where_asked_even_for_one_level() {
        for spacing in [SigmaSpacing::Karras, SigmaSpacing::Exponential, SigmaSpacing::Beta] {
            assert!((spacing.between(14.6, 0.03, 1)[0] - 14.6).abs() < 1e-9);
            let levels = spacing.between(14.6, 0.03, 7);
            assert!((levels[0] - 14.6).abs() < 1e-9 && (levels[6] - 0.03).abs() < 1e-9);
            assert!(levels.windows(2).all(|pair| pair[1] < pair[0]));
        }
    }

    #[test]
    fn levels_that_are_not_finite_are_refused() {
        assert!(TrainingSigmas::new(&[0.9, 0.0]).is_err());
    }
}
