//! The frames of a trace: what is seen at a noise level, and its numbers.

use image::RgbImage;

use crate::engine::Moment;

/// Whether noise is added or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A picture is noised.
    Forward,
    /// The noise is taken away.
    Backward,
}

/// One frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Whether noise is added or taken away.
    pub phase: Phase,
    /// The timestep; `None` for the finished picture.
    pub timestep: Option<f64>,
    /// Weight of the picture in the sample.
    pub picture: f64,
    /// Weight of the noise in the sample.
    pub noise: f64,
    /// The noise level in the scheduler's own terms; see [`crate::engine::sigma`].
    pub sigma: f64,
    /// The latents, decoded.
    pub sample: RgbImage,
    /// The network's guess of the picture, decoded.
    pub pred_original_sample: Option<RgbImage>,
    /// Root mean square of the noise estimate.
    pub noise_size: Option<f64>,
    /// Root mean square of what guidance changed.
    pub guidance_size: Option<f64>,
}

impl Frame {
    /// Returns a frame of the way forward, with the weights of picture and noise in `mixing`.
    pub fn forward(timestep: f64, mixing: (f64, f64), sigma: f64, sample: RgbImage) -> Frame {
        Frame {
            phase: Phase::Forward,
            timestep: Some(timestep),
            picture: mixing.0,
            noise: mixing.1,
            sigma,
            sample,
            pred_original_sample: None,
            noise_size: None,
            guidance_size: None,
        }
    }

    /// Returns the frame of an evaluation, with its latents and the guess decoded.
    pub fn backward(moment: &Moment, sample: RgbImage, pred_original_sample: RgbImage) -> Frame {
        Frame {
            phase: Phase::Backward,
            pred_original_sample: Some(pred_original_sample),
            noise_size: Some(moment.noise_size),
            guidance_size: Some(moment.guidance_size),
            ..Frame::forward(moment.timestep, (moment.picture, moment.noise), moment.sigma, sample)
        }
    }

    /// Returns the frame of the finished picture, which is its own best guess.
    pub fn last(sample: RgbImage) -> Frame {
        let pred_original_sample = Some(sample.clone());
        let picture = Frame::forward(0.0, (1.0, 0.0), 0.0, sample);
        Frame { timestep: None, pred_original_sample, phase: Phase::Backward, ..picture }
    }

    /// Returns the share of noise in the sample's power, in percent.
    pub fn noise_percent(&self) -> f64 {
        100.0 * self.noise.powi(2) / (self.picture.powi(2) + self.noise.powi(2)).max(f64::MIN_POSITIVE)
    }
}

/// Writes a noise level in about three digits.
pub fn level(sigma: f64) -> String {
    match sigma {
        sigma if sigma.is_infinite() => "∞".to_string(),
        sigma if sigma >= 100.0 => format!("{sigma:.0}"),
        sigma if sigma >= 10.0 => format!("{sigma:.1}"),
        sigma => format!("{sigma:.2}"),
    }
}

/// Writes a timestep without digits that say nothing.
pub fn short(timestep: f64) -> String {
    let text = format!("{timestep:.1}");
    text.strip_suffix(".0").map_or(text.clone(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([999.0, 12.34].map(short), ["999", "12.3"]);
        assert_eq!([f64::INFINITY, 157.4, 14.61, 0.5].map(level), ["∞", "157", "14.6", "0.50"]);
    }

    #[test]
    fn noise_is_told_as_a_share_of_the_power() {
        let frame = |mixing| Frame::forward(0.0, mixing, 0.0, RgbImage::new(1, 1)).noise_percent();
        assert_eq!([(1.0, 0.0), (1.0, 1.0), (0.0, 3.0)].map(frame), [0.0, 50.0, 100.0]);
    }
}
