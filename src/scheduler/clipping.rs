//! Keeping the predicted picture in range.

use ndarray::Array3;

use super::fields::{Fields, bad};
use crate::error::Result;

/// The fields that every class with clipping has.
pub(super) const FIELDS: &[&str] = &["thresholding", "dynamic_thresholding_ratio", "sample_max_value"];

/// What is done to `pred_original_sample`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Clipping {
    Off,
    /// Values are cut off at ± this.
    Range(f64),
    /// Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3): cut off at the `ratio` quantile of the
    /// magnitudes, held in [1, `most`], and divided by it.
    Dynamic {
        ratio: f64,
        most: f64,
    },
}

impl Clipping {
    /// Reads `thresholding`, `dynamic_thresholding_ratio` and `sample_max_value`, and `clip_sample` with
    /// `clip_sample_range` where the class has them (`clips` is then the default of `clip_sample`).
    pub(super) fn read(fields: &Fields, clips: Option<bool>) -> Result<Self> {
        let (ratio, most) =
            (fields.number("dynamic_thresholding_ratio", 0.995)?, fields.number("sample_max_value", 1.0)?);
        if fields.flag("thresholding", false)? {
            if !(0.0..=1.0).contains(&ratio) {
                return Err(bad("dynamic_thresholding_ratio", &ratio.into(), "a number from 0 to 1"));
            }
            return Ok(Clipping::Dynamic { ratio, most });
        }
        clips.map_or(Ok(Clipping::Off), |default| Self::range(fields, default))
    }

    /// Reads `clip_sample` (whose default is `clips`) and `clip_sample_range` alone, for classes without thresholding.
    pub(super) fn range(fields: &Fields, clips: bool) -> Result<Self> {
        let range = fields.number("clip_sample_range", 1.0)?;
        Ok(if fields.flag("clip_sample", clips)? { Clipping::Range(range) } else { Clipping::Off })
    }

    /// Returns `pred_original_sample` in range.
    pub(super) fn apply(self, mut pred_original_sample: Array3<f32>) -> Array3<f32> {
        match self {
            Clipping::Off => {}
            Clipping::Range(range) => {
                let range = range as f32;
                pred_original_sample.mapv_inplace(|x| x.max(-range).min(range));
            }
            Clipping::Dynamic { ratio, most } => {
                // `max` after `min` and not `clamp`: torch lets the upper limit win where it is below 1.
                let limit = quantile(&pred_original_sample, ratio).max(1.0).min(most as f32);
                pred_original_sample.mapv_inplace(|x| x.max(-limit).min(limit) / limit);
            }
        }
        pred_original_sample
    }
}

/// Returns the `ratio` quantile of the magnitudes, interpolated linearly (`torch.quantile`); 0 of nothing.
fn quantile(values: &Array3<f32>, ratio: f64) -> f32 {
    let mut magnitudes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    magnitudes.sort_by(f32::total_cmp);
    let Some(last) = magnitudes.len().checked_sub(1) else { return 0.0 };
    let rank = ratio * last as f64;
    let (low, high) = (magnitudes[rank.floor() as usize], magnitudes[rank.ceil() as usize]);
    low + (high - low) * rank.fract() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cut_and_dynamic_limits_scale() {
        let sample = Array3::from_shape_vec((1, 1, 5), vec![-4.0, -1.0, 0.0, 0.5, 2.0]).expect("five values");
        let cut = Clipping::Range(1.5).apply(sample.clone());
        assert_eq!(cut.as_slice().expect("in order"), [-1.5, -1.0, 0.0, 0.5, 1.5]);
        // Magnitudes 0, 0.5, 1, 2, 4: the 0.75 quantile is 2.
        let dynamic = Clipping::Dynamic { ratio: 0.75, most: 10.0 }.apply(sample.clone());
        assert_eq!(dynamic.as_slice().expect("in order"), [-1.0, -0.5, 0.0, 0.25, 1.0]);
        let limited = Clipping::Dynamic { ratio: 0.75, most: 1.0 }.apply(sample.clone());
        assert_eq!(limited.as_slice().expect("in order"), [-1.0, -1.0, 0.0, 0.5, 1.0]);
        assert_eq!(Clipping::Off.apply(sample.clone()), sample);
    }
}
