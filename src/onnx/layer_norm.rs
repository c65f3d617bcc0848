//! A text encoder's final layer norm, with the weights of its graph: `clip_skip` applies it to the states of other layers.

use ndarray::{Array3, Axis};

use crate::error::Result;
use crate::model::GraphFile;

/// The norm and its weights.
#[derive(Debug, Clone)]
pub(super) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// CLIP's (`layer_norm_eps`, transformers 5.23).
const EPSILON: f64 = 1e-5;

impl LayerNorm {
    /// Reads the weights from a text encoder's graph.
    ///
    /// # Errors
    /// The graph has no weights of that name.
    pub(super) fn read(graph: &GraphFile) -> Result<Self> {
        let weight = graph.weights("final_layer_norm.weight")?;
        let bias = graph.weights("final_layer_norm.bias")?;
        Ok(LayerNorm { weight, bias })
    }

    /// Returns the norm of `states` `[batch, sequence, width]` over their width.
    pub(super) fn apply(&self, mut states: Array3<f32>) -> Array3<f32> {
        for mut token in states.lanes_mut(Axis(2)) {
            let count = token.len() as f64;
            let mean = token.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let variance = token.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            for ((x, weight), bias) in token.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = ((f64::from(*x) - mean) * scale) as f32 * weight + bias;
            }
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gets_mean_and_deviation_of_the_weights() {
        let norm = LayerNorm { weight: vec![2.0; 4], bias: vec![1.0; 4] };
        let states = Array3::from_shape_fn((1, 1, 4), |(_, _, x)| x as f32 * 10.0);
        let normed = norm.apply(states);
        assert!((normed.mean().expect("not empty") - 1.0).abs() < 1e-6);
        assert!((normed[[0, 0, 3]] - (1.0 + 2.0 * 1.5 / 1.25_f32.sqrt())).abs() < 1e-4);
    }
}
