//! Classifier-free guidance: joins the conditional and the unconditional prediction of one image. Pure.

use ndarray::{Array3, ArrayView3, Zip};

/// Returns the guided prediction `uncond + scale · (text − uncond)` of one image, both inputs `[channels, h, w]` f32
/// (Ho & Salimans 2022, eq. 6; diffusers 0.42.1, `pipeline_stable_diffusion.py`).
///
/// `rescale` > 0 then mixes in the prediction scaled back to the standard deviation of `text`
/// (Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16; diffusers `rescale_noise_cfg`).
pub fn guide(uncond: ArrayView3<'_, f32>, text: ArrayView3<'_, f32>, scale: f64, rescale: f64) -> Array3<f32> {
    // A Python float times an f32 tensor is an f32 product: cast once, as torch does.
    let scale = scale as f32;
    let guided = Zip::from(uncond).and(text).map_collect(|&u, &t| u + scale * (t - u));
    if rescale > 0.0 { rescale_to_text(guided, text, rescale) } else { guided }
}

fn rescale_to_text(guided: Array3<f32>, text: ArrayView3<'_, f32>, rescale: f64) -> Array3<f32> {
    let ratio = (standard_deviation(text) / standard_deviation(guided.view())) as f32;
    let (mix, rest) = (rescale as f32, (1.0 - rescale) as f32);
    guided.mapv(|g| mix * (g * ratio) + rest * g)
}

/// Returns the unbiased standard deviation, as `torch.std` has it.
fn standard_deviation(values: ArrayView3<'_, f32>) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
    (squares / (count - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(scale: f32, offset: f32) -> Array3<f32> {
        Array3::from_shape_fn((2, 3, 4), |(c, y, x)| scale * (c * 12 + y * 4 + x) as f32 + offset)
    }

    #[test]
    fn scale_one_is_the_conditional_prediction() {
        let (uncond, text) = (ramp(1.0, 0.0), ramp(2.0, 1.0));
        assert_eq!(guide(uncond.view(), text.view(), 1.0, 0.0), text);
    }

    #[test]
    fn guidance_extrapolates() {
        let (uncond, text) = (ramp(1.0, 0.0), ramp(1.0, 1.0));
        assert_eq!(guide(uncond.view(), text.view(), 7.5, 0.0), ramp(1.0, 7.5));
    }

    #[test]
    fn full_rescale_has_the_deviation_of_the_text_prediction() {
        let (uncond, text) = (ramp(0.1, 0.0), ramp(0.5, 1.0));
        let guided = guide(uncond.view(), text.view(), 7.5, 1.0);
        let difference = standard_deviation(guided.view()) - standard_deviation(text.view());
        assert!(difference.abs() < 1e-5, "{difference}");
    }
}
