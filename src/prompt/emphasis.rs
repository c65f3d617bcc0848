//! Weights of words → hidden states (stable-diffusion-webui 1.10, `modules/sd_emphasis.py`, "Original", its default).

use ndarray::{Array2, ArrayView2, Axis};

/// Multiplies the hidden states of one chunk `[sequence, width]` f32 by the weight of each token, then all of them by one
/// number that restores their mean. Where every weight is 1 nothing changes.
///
/// The sums are made in f64, torch's in f32: the factor agrees to about 1e-6.
///
/// # Panics
/// There is not one weight for each token.
pub fn emphasize(hidden_states: &mut Array2<f32>, weights: &[f32]) {
    assert_eq!(hidden_states.nrows(), weights.len(), "one weight for each token");
    if weights.iter().all(|weight| *weight == 1.0) {
        return;
    }
    let original_mean = mean(hidden_states.view());
    for (mut row, weight) in hidden_states.axis_iter_mut(Axis(0)).zip(weights) {
        row *= *weight;
    }
    let factor = (original_mean / mean(hidden_states.view())) as f32;
    *hidden_states *= factor;
}

fn mean(values: ArrayView2<'_, f32>) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_mean_is_restored() {
        let mut states = array![[1.0, 3.0], [2.0, 2.0]];
        emphasize(&mut states, &[1.0, 2.0]);
        assert_eq!(states, array![[1.0, 3.0], [4.0, 4.0]] * (2.0f32 / 3.0));
    }

    #[test]
    fn weights_of_one_change_no_bit() {
        let before = array![[0.1, -0.7], [1e-20, 3e8]];
        let mut after = before.clone();
        emphasize(&mut after, &[1.0, 1.0]);
        assert_eq!(after, before);
    }
}
