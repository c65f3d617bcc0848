//! The solver of the algorithms whose every step is a weighted sum of the sample, what the network said at the last few
//! steps, and fresh noise, with weights that depend on the schedule alone.

use ndarray::{Array3, ArrayView3};

use super::clipping::Clipping;
use super::prediction::weighted_sum;
use super::schedule::Solver;
use super::unit_power::Reading;
use crate::noise::Noise;

/// What `prev_sample` is a sum of.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) sample: f64,
    /// Of the read outputs (pictures, or noises), newest first.
    pub(super) outputs: [f64; 3],
    pub(super) noise: f64,
}

impl Weights {
    /// A step of no length: nothing moves.
    pub(super) const STAY: Weights = Weights { sample: 1.0, outputs: [0.0; 3], noise: 0.0 };
}

#[derive(Debug)]
pub(super) struct Multistep {
    pub(super) readings: Vec<Reading>,
    pub(super) weights: Vec<Weights>,
    /// How many earlier outputs an image keeps.
    pub(super) remembered: usize,
    pub(super) draws: bool,
    /// What the network's input is multiplied by at every step; `None` is 1.
    pub(super) input_scales: Option<Vec<f64>>,
    pub(super) clipping: Clipping,
}

impl Solver for Multistep {
    fn model_input(&self, i: usize, sample: &Array3<f32>) -> Array3<f32> {
        self.input_scales.as_ref().map_or_else(|| sample.clone(), |scales| sample * scales[i] as f32)
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
        memory.insert(0, self.readings[i].of(sample, model_output, self.clipping));
        // Drawn at the last step too, where its weight is zero, as diffusers does.
        let fresh = self.draws.then(|| noise.draw(sample.dim()));
        let newest = weights.outputs[0];
        let mut terms = match self.readings[i].linear(self.clipping) {
            // Straight from what was read, not from its rounded sum: where noise is integrated from a high level, sample
            // and noise are two large terms of a small result.
            Some(mix) => {
                vec![(weights.sample + newest * mix.sample, sample.view()), (newest * mix.model_output, model_output)]
            }
            None => vec![(weights.sample, sample.view()), (newest, memory[0].view())],
        };
        terms.extend(weights.outputs[1..].iter().copied().zip(memory[1..].iter().map(|output| output.view())));
        terms.extend(fresh.iter().map(|fresh| (weights.noise, fresh.view())));
        let prev_sample = weighted_sum(&terms);
        memory.truncate(self.remembered);
        prev_sample
    }
}
