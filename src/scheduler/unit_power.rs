//! How the algorithms that step in lambda = ln(alpha / sigma) read the network's output, and the unit-power samples (alpha
//! picture + sigma noise, alpha² + sigma² = 1) that most of them keep.

use ndarray::{Array3, ArrayView3};

use super::clipping::Clipping;
use super::noising::Mixing;
use super::prediction::{Mix, PredictionType, weighted_sum};

/// Returns alpha and sigma of a unit-power sample at noise level `sigma`.
pub(super) fn alpha_sigma(sigma: f64) -> (f64, f64) {
    let alpha = 1.0 / sigma.hypot(1.0);
    (alpha, sigma * alpha)
}

/// How the network's output is read at one level: as the picture, in range, and from that as the noise where the
/// algorithm sums noise.
#[derive(Debug)]
pub(super) struct Reading {
    original: Mix,
    /// Weights of sample and picture in the noise.
    noise: Option<(f64, f64)>,
}

impl Reading {
    /// The reading as picture, of a sample of a level that is made as `mixing` says.
    pub(super) fn picture(prediction_type: PredictionType, mixing: Mixing, level: f64) -> Self {
        let (alpha, sigma) = mixing(level);
        Reading { original: prediction_type.original(alpha, sigma), noise: None }
    }

    /// The reading as picture by weights of sample and output.
    pub(super) fn of_weights(original: Mix) -> Self {
        Reading { original, noise: None }
    }

    /// The reading as noise.
    pub(super) fn noise(prediction_type: PredictionType, mixing: Mixing, level: f64) -> Self {
        let (alpha, sigma) = mixing(level);
        Reading { noise: Some((1.0 / sigma, -alpha / sigma)), ..Self::picture(prediction_type, mixing, level) }
    }

    /// Returns the weights of sample and output where nothing but a sum is done with them.
    pub(super) fn linear(&self, clipping: Clipping) -> Option<Mix> {
        let original = self.original;
        let Some((of_sample, of_picture)) = self.noise else { return (clipping == Clipping::Off).then_some(original) };
        (clipping == Clipping::Off).then_some(Mix {
            sample: of_sample + of_picture * original.sample,
            model_output: of_picture * original.model_output,
        })
    }

    /// Returns the picture or the noise in `sample`.
    pub(super) fn of(
        &self,
        sample: &Array3<f32>,
        model_output: ArrayView3<'_, f32>,
        clipping: Clipping,
    ) -> Array3<f32> {
        if let Some(mix) = self.linear(clipping) {
            return mix.of(sample, model_output);
        }
        let picture = clipping.apply(self.original.of(sample, model_output));
        match self.noise {
            None => picture,
            Some((of_sample, of_picture)) => weighted_sum(&[(of_sample, sample.view()), (of_picture, picture.view())]),
        }
    }
}
