//! What the network predicts, and the picture without noise that follows from it.

use ndarray::{Array3, ArrayView3};

use super::fields::{Choice, wrong};
use crate::error::Result;

/// What the output of the network is an estimate of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity of Salimans and Ho 2022 (arXiv 2202.00512): alpha noise - sigma picture.
    VPrediction,
    /// The picture.
    Sample,
}

impl Choice for PredictionType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("epsilon", PredictionType::Epsilon),
        ("v_prediction", PredictionType::VPrediction),
        ("sample", PredictionType::Sample),
    ];
}

/// A weighted sum of the sample and the output of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mix {
    pub(super) sample: f64,
    pub(super) model_output: f64,
}

impl Mix {
    /// Returns the sum.
    pub(super) fn of(self, sample: &Array3<f32>, model_output: ArrayView3<'_, f32>) -> Array3<f32> {
        weighted_sum(&[(self.sample, sample.view()), (self.model_output, model_output)])
    }
}

/// Returns the sum of `terms` (at least one; equal shapes), each element computed in f64 and rounded once.
pub(super) fn weighted_sum(terms: &[(f64, ArrayView3<'_, f32>)]) -> Array3<f32> {
    let mut sum = Array3::<f64>::zeros(terms[0].1.raw_dim());
    for (weight, term) in terms {
        sum.zip_mut_with(term, |sum, x| *sum += weight * f64::from(*x));
    }
    sum.mapv(|x| x as f32)
}

impl PredictionType {
    /// Refuses to predict noise where nothing of the picture is left to subtract it from.
    ///
    /// # Errors
    /// `scheduler_config` (model) when one of the visited `alphas_cumprod` is 0.
    pub(super) fn check_alphas(self, alphas_cumprod: &[f64]) -> Result<()> {
        if self != PredictionType::Epsilon || alphas_cumprod.iter().all(|alpha| *alpha > 0.0) {
            return Ok(());
        }
        Err(wrong("`prediction_type` `epsilon` says nothing of the picture at the last timestep of training")
            .hint("`rescale_betas_zero_snr` needs a model with `v_prediction`, or `timestep_spacing` `leading`"))
    }

    /// Returns what gives `pred_original_sample` for a sample that is `alpha` picture + `sigma` noise.
    pub(super) fn original(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            PredictionType::Epsilon => Mix { sample: 1.0 / alpha, model_output: -sigma / alpha },
            PredictionType::VPrediction => {
                let power = alpha * alpha + sigma * sigma;
                Mix { sample: alpha / power, model_output: -sigma / power.sqrt() }
            }
            PredictionType::Sample => Mix { sample: 0.0, model_output: 1.0 },
        }
    }

    /// Returns what gives the noise in a sample that is `alpha` picture + `sigma` noise, alpha² + sigma² = 1.
    pub(super) fn epsilon(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            PredictionType::Epsilon => Mix { sample: 0.0, model_output: 1.0 },
            PredictionType::VPrediction => Mix { sample: sigma, model_output: alpha },
            PredictionType::Sample => Mix { sample: 1.0 / sigma, model_output: -alpha / sigma },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (sample, output) of a network that knows the truth, for unit-power mixing and for x = picture + sigma noise.
    fn truth(kind: PredictionType, alpha: f64, sigma: f64, picture: f64, noise: f64) -> (f32, f32) {
        let scale = (alpha * alpha + sigma * sigma).sqrt();
        let output = match kind {
            PredictionType::Epsilon => noise,
            PredictionType::VPrediction => (alpha * noise - sigma * picture) / scale,
            PredictionType::Sample => picture,
        };
        ((alpha * picture + sigma * noise) as f32, output as f32)
    }

    #[test]
    fn every_kind_finds_the_picture_and_the_noise() {
        for (_, kind) in PredictionType::WORDS {
            for (alpha, sigma) in [(0.8, 0.6), (0.28, 0.96), (1.0, 14.6), (1.0, 0.03)] {
                let (sample, output) = truth(*kind, alpha, sigma, 0.7, -1.3);
                let (sample, output) = (Array3::from_elem((1, 1, 1), sample), Array3::from_elem((1, 1, 1), output));
                let original = kind.original(alpha, sigma).of(&sample, output.view())[[0, 0, 0]];
                assert!((original - 0.7).abs() < 2e-5, "{kind:?} {alpha} {sigma}: {original}");
                if alpha < 1.0 {
                    let epsilon = kind.epsilon(alpha, sigma).of(&sample, output.view())[[0, 0, 0]];
                    assert!((epsilon + 1.3).abs() < 1e-5, "{kind:?} {alpha} {sigma}: {epsilon}");
                }
            }
        }
    }
}
