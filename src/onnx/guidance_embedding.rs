//! The guidance scale as latent consistency models take it.

use ndarray::Array2;

/// Returns `timestep_cond` `[lanes, width]` of guidance scales: sines, then cosines, of the scale less 1 (diffusers 0.42.1,
/// `get_guidance_scale_embedding`; Vaswani et al. 2017, section 3.5), computed in f32 as there.
pub(super) fn guidance_embedding(scales: &[f64], width: usize) -> Array2<f32> {
    let half = width / 2;
    let step = 10000.0_f32.ln() / (half.max(2) - 1) as f32;
    Array2::from_shape_fn((scales.len(), width), |(lane, i)| {
        let frequency = (i % half.max(1)) as f32 * -step;
        let angle = (scales[lane] - 1.0) as f32 * 1000.0 * frequency.exp();
        match i / half.max(1) {
            0 => angle.sin(),
            1 => angle.cos(),
            // An odd width is filled up.
            _ => 0.0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of diffusers 0.42.1: `LatentConsistencyModelPipeline.get_guidance_scale_embedding(None,
    /// torch.tensor([7.5]), 8)`.
    #[test]
    fn sines_and_cosines_of_diffusers() {
        let expected = [[-0.8512359, 0.5626711, -0.435233, 0.6816387, -0.5247833, -0.8266808, -0.9003178, 0.7316889]];
        let embedding = guidance_embedding(&[8.5], 8);
        for (got, want) in embedding.iter().zip(expected.as_flattened()) {
            assert!((got - want).abs() < 1e-4, "{embedding}");
        }
        assert_eq!(guidance_embedding(&[8.5], 9)[[0, 8]], 0.0);
    }
}
