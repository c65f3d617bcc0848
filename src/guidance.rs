//! Guidance: joins the predictions of one image's lanes. Pure.

use ndarray::{Array3, ArrayView3, Zip};

/// How the predictions of an image's lanes become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guidance {
    /// One lane: its prediction.
    Off,
    /// Two lanes, without and with the prompt: `uncond + scale · (text − uncond)` (Ho & Salimans 2022, eq. 6; diffusers
    /// 0.42.1, `pipeline_stable_diffusion.py`).
    ///
    /// `rescale` > 0 then mixes in the prediction scaled back to the standard deviation of `text` (Lin et al. 2023, arXiv
    /// 2305.08891, eq. 15 and 16; diffusers `rescale_noise_cfg`).
    ClassifierFree {
        /// Weight of the prompt.
        scale: f64,
        /// Share of the rescaled prediction, 0 = off.
        rescale: f64,
    },
    /// Three lanes, with neither, with the image, with image and prompt: `uncond + scale · (text − image) + image_scale ·
    /// (image − uncond)` (Brooks et al. 2023, arXiv 2211.09800, eq. 3; diffusers `pipeline_stable_diffusion_instruct_pix2pix.py`).
    TextAndImage {
        /// Weight of the prompt.
        scale: f64,
        /// Weight of the image.
        image_scale: f64,
    },
}

impl Guidance {
    /// Returns how many lanes each evaluation takes.
    pub fn lanes(self) -> usize {
        match self {
            Guidance::Off => 1,
            Guidance::ClassifierFree { .. } => 2,
            Guidance::TextAndImage { .. } => 3,
        }
    }

    /// Returns the guided prediction of `predictions`, one a lane in the order above, each `[channels, h, w]` f32.
    ///
    /// A Python float times an f32 tensor is an f32 product: scales are cast once, as torch does.
    pub fn join(self, predictions: &[Array3<f32>]) -> Array3<f32> {
        match (self, predictions) {
            (Guidance::ClassifierFree { scale, rescale }, [uncond, text]) => {
                let weight = scale as f32;
                let guided = Zip::from(uncond).and(text).map_collect(|&u, &t| u + weight * (t - u));
                if rescale > 0.0 { rescale_to_text(guided, text.view(), rescale) } else { guided }
            }
            (Guidance::TextAndImage { scale, image_scale }, [uncond, image, text]) => {
                let (weight, image_weight) = (scale as f32, image_scale as f32);
                let join = |&u: &f32, &i: &f32, &t: &f32| u + weight * (t - i) + image_weight * (i - u);
                Zip::from(uncond).and(image).and(text).map_collect(join)
            }
            // Without guidance there is one lane.
            (_, predictions) => predictions.last().cloned().unwrap_or_default(),
        }
    }
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

    fn guide(uncond: Array3<f32>, text: Array3<f32>, scale: f64, rescale: f64) -> Array3<f32> {
        Guidance::ClassifierFree { scale, rescale }.join(&[uncond, text])
    }

    #[test]
    fn scale_one_is_the_conditional_prediction() {
        assert_eq!(guide(ramp(1.0, 0.0), ramp(2.0, 1.0), 1.0, 0.0), ramp(2.0, 1.0));
        assert_eq!(Guidance::Off.join(&[ramp(2.0, 1.0)]), ramp(2.0, 1.0));
    }

    #[test]
    fn guidance_extrapolates() {
        assert_eq!(guide(ramp(1.0, 0.0), ramp(1.0, 1.0), 7.5, 0.0), ramp(1.0, 7.5));
    }

    #[test]
    fn text_and_image_have_weights_of_their_own() {
        let guidance = Guidance::TextAndImage { scale: 7.0, image_scale: 2.0 };
        assert_eq!(guidance.join(&[ramp(1.0, 0.0), ramp(1.0, 1.0), ramp(1.0, 3.0)]), ramp(1.0, 7.0 * 2.0 + 2.0));
    }

    #[test]
    fn full_rescale_has_the_deviation_of_the_text_prediction() {
        let (uncond, text) = (ramp(0.1, 0.0), ramp(0.5, 1.0));
        let guided = guide(uncond, text.clone(), 7.5, 1.0);
        let difference = standard_deviation(guided.view()) - standard_deviation(text.view());
        assert!(difference.abs() < 1e-5, "{difference}");
    }
}
