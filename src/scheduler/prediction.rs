//! What the network predicts, and the picture without noise that follows from it.

use ndarray::{Array3, ArrayView3};

use super::fields::{Choice, Fields, wrong};
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
    /// The flow: noise - picture, of a sample that is (1 - sigma) picture + sigma noise. Only classes with
    /// `use_flow_sigmas` have it; see [`PredictionType::read_with_flow`].
    Flow,
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

/// What a class with `use_flow_sigmas` can take.
#[derive(Debug, Clone, Copy)]
struct WithFlow(PredictionType);

impl Choice for WithFlow {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("epsilon", WithFlow(PredictionType::Epsilon)),
        ("v_prediction", WithFlow(PredictionType::VPrediction)),
        ("sample", WithFlow(PredictionType::Sample)),
        ("flow_prediction", WithFlow(PredictionType::Flow)),
    ];
}

impl PredictionType {
    /// Reads `prediction_type` with `use_flow_sigmas`, of a class that has both.
    ///
    /// # Errors
    /// One of the two is about flow matching and the other is not: diffusers would read a sample of one kind as one of the
    /// other.
    pub(super) fn read_with_flow(fields: &Fields) -> Result<Self> {
        let WithFlow(kind) = fields.choice("prediction_type", WithFlow(PredictionType::Epsilon))?;
        match (fields.flag("use_flow_sigmas", false)?, kind == PredictionType::Flow) {
            (true, false) => Err(wrong("`use_flow_sigmas` needs `prediction_type` `flow_prediction`")
                .hint("set both for a model of flow matching, and neither for another")),
            (false, true) => Err(wrong("`prediction_type` `flow_prediction` needs `use_flow_sigmas`")
                .hint("set both for a model of flow matching, or use `flow_euler`")),
            _ => Ok(kind),
        }
    }

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
            PredictionType::Flow => Mix { sample: 1.0, model_output: -sigma },
        }
    }

    /// Returns what gives the noise in a sample that is `alpha` picture + `sigma` noise, alpha² + sigma² = 1.
    pub(super) fn epsilon(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            PredictionType::Epsilon => Mix { sample: 0.0, model_output: 1.0 },
            PredictionType::VPrediction => Mix { sample: sigma, model_output: alpha },
            PredictionType::Sample => Mix { sample: 1.0 / sigma, model_output: -alpha / sigma },
            PredictionType::Flow => Mix { sample: 1.0, model_output: alpha },
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
            PredictionType::Flow => noise - picture,
        };
        ((alpha * picture + sigma * noise) as f32, output as f32)
    }

    #[test]
    fn flow_finds_the_picture_and_the_noise() {
        let (picture, noise, sigma) = (0.7, -1.3, 0.4);
        let (sample, output) = (0.6 * picture + sigma * noise, noise - picture);
        let read = |mix: Mix| mix.sample * sample + mix.model_output * output;
        assert!((read(PredictionType::Flow.original(0.6, sigma)) - picture).abs() < 1e-12);
        assert!((read(PredictionType::Flow.epsilon(0.6, sigma)) - noise).abs() < 1e-12);
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
