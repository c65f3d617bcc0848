//! What is asked of a scheduler: how many steps, from where on, with which noise.

use crate::error::{Error, ErrorKind, Result};

/// The settings of one schedule, as diffusers' pipelines take them.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRequest {
    /// Number of denoising steps from pure noise; 50 by default, as in diffusers.
    pub num_inference_steps: u32,
    /// Share of fresh noise of DDIM and TCD, in [0, 1]; other algorithms ignore it, as diffusers does. 0 by default.
    pub eta: f64,
    /// How much of a given picture is made anew, in [0, 1]: only the last steps are made, about this share of them.
    /// `None` makes all of them, as 1 does.
    pub strength: Option<f64>,
    /// Whether `strength` takes the upper part of a distillation's timesteps away and leaves the number of steps (diffusers:
    /// `LatentConsistencyModelImg2ImgPipeline`) rather than leaving out steps. Only LCM's and TCD's schedules know it.
    pub strength_keeps_steps: bool,
    /// Timesteps instead of those that the number of steps gives, which is then ignored.
    pub timesteps: Option<Vec<f64>>,
    /// Noise levels instead of those that the number of steps gives, which is then ignored.
    pub sigmas: Option<Vec<f64>>,
    /// How many tokens the picture is to the network, for models whose levels depend on the picture's size.
    pub image_seq_len: Option<u32>,
}

impl Default for ScheduleRequest {
    fn default() -> Self {
        ScheduleRequest {
            num_inference_steps: 50,
            eta: 0.0,
            strength: None,
            strength_keeps_steps: false,
            timesteps: None,
            sigmas: None,
            image_seq_len: None,
        }
    }
}

impl ScheduleRequest {
    /// Returns a request for `num_inference_steps` steps, everything else by default.
    pub fn steps(num_inference_steps: u32) -> Self {
        ScheduleRequest { num_inference_steps, ..Self::default() }
    }

    /// Returns the request's own timesteps, which fall in [0, `num_train_timesteps`).
    ///
    /// # Errors
    /// `timesteps` (usage) when they do not.
    pub(super) fn own_timesteps(&self, num_train_timesteps: usize) -> Result<Option<Vec<f64>>> {
        let inside = |timestep: &f64| (0.0..num_train_timesteps as f64).contains(timestep);
        let hint = format!("they are 0 or more, below {num_train_timesteps}, and fall");
        self.checked(
            "timesteps",
            &self.timesteps,
            |timesteps| !timesteps.is_empty() && timesteps.iter().all(inside),
            hint,
        )
    }

    /// As [`ScheduleRequest::own_timesteps`], for classes that look them up in a table: whole numbers.
    ///
    /// # Errors
    /// `timesteps` (usage), also for fractions (which diffusers cuts off).
    pub(super) fn own_whole_timesteps(&self, num_train_timesteps: usize) -> Result<Option<Vec<f64>>> {
        let timesteps = self.own_timesteps(num_train_timesteps)?;
        match timesteps.iter().flatten().find(|timestep| timestep.fract() != 0.0) {
            None => Ok(timesteps),
            Some(timestep) => {
                Err(Error::new(ErrorKind::Usage, "timesteps", format!("`timesteps` cannot have `{timestep}`"))
                    .hint("those of this scheduler are whole numbers"))
            }
        }
    }

    /// Returns the request's own noise levels, which fall from a finite one to at least 0, the final one included.
    ///
    /// # Errors
    /// `sigmas` (usage) when they do not.
    pub(super) fn own_sigmas(&self) -> Result<Option<Vec<f64>>> {
        let inside = |sigmas: &[f64]| sigmas.len() > 1 && sigmas.iter().all(|sigma| *sigma >= 0.0 && sigma.is_finite());
        let hint = "two or more, the last of which is the final level, such as 0; they fall".to_string();
        self.checked("sigmas", &self.sigmas, inside, hint)
    }

    /// Returns `values` if they fall and are `inside` their range.
    pub(super) fn checked(
        &self,
        what: &'static str,
        values: &Option<Vec<f64>>,
        inside: impl Fn(&[f64]) -> bool,
        hint: String,
    ) -> Result<Option<Vec<f64>>> {
        let Some(values) = values else { return Ok(None) };
        if inside(values) && values.windows(2).all(|pair| pair[1] < pair[0]) {
            return Ok(Some(values.clone()));
        }
        Err(Error::new(ErrorKind::Usage, what, format!("`{what}` cannot be these {} numbers", values.len())).hint(hint))
    }

    /// Returns how many of `n` steps are left out at the start: `StableDiffusionImg2ImgPipeline.get_timesteps` of
    /// diffusers 0.42.1.
    ///
    /// # Errors
    /// `strength` (usage) outside [0, 1], and when it leaves no step.
    pub(super) fn begin(&self, n: usize) -> Result<usize> {
        let left = |share: f64| n - (share as usize).min(n);
        self.begin_by(n, left)
    }

    /// As [`ScheduleRequest::begin`] for flow matching: `StableDiffusion3Img2ImgPipeline.get_timesteps` and its like, which
    /// round the other way, so that any strength above 0 leaves a step.
    pub(super) fn begin_of_flow(&self, n: usize) -> Result<usize> {
        let left = |share: f64| (n as f64 - share).max(0.0) as usize;
        self.begin_by(n, left)
    }

    fn begin_by(&self, n: usize, left_out: impl Fn(f64) -> usize) -> Result<usize> {
        let Some(strength) = self.strength else { return Ok(0) };
        let wrong = |message| Error::new(ErrorKind::Usage, "strength", message);
        if !(0.0..=1.0).contains(&strength) {
            return Err(wrong(format!("`strength` cannot be `{strength}`")).hint("it can be 0 to 1"));
        }
        let begin = left_out(n as f64 * strength);
        if begin < n {
            return Ok(begin);
        }
        Err(wrong(format!("`strength` `{strength}` leaves none of {n} steps"))
            .hint(format!("use more than {:.3}, or more steps", 1.0 / n as f64)))
    }
}

/// Returns `values` as those classes keep them that take them in f32.
pub(super) fn in_f32(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| f64::from(value as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(strength: f64) -> ScheduleRequest {
        ScheduleRequest { strength: Some(strength), ..ScheduleRequest::default() }
    }

    #[test]
    fn both_roundings_are_those_of_the_pipelines() {
        assert_eq!((with(0.55).begin(10).ok(), with(0.55).begin_of_flow(10).ok()), (Some(5), Some(4)));
        assert_eq!((with(0.3).begin(10).ok(), with(0.3).begin_of_flow(10).ok()), (Some(7), Some(7)));
        assert_eq!((with(1.0).begin(3).ok(), ScheduleRequest::steps(3).begin(3).ok()), (Some(0), Some(0)));
    }

    #[test]
    fn a_strength_that_leaves_nothing_is_an_error() {
        let error = with(0.04).begin(20).expect_err("no step");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Usage, "strength"));
        assert_eq!(error.to_string(), "`strength` `0.04` leaves none of 20 steps");
        assert_eq!(with(0.04).begin_of_flow(20).ok(), Some(19));
        for strength in [-0.1, 1.1, f64::NAN] {
            assert_eq!(with(strength).begin(20).expect_err("outside").how_to_fix(), Some("it can be 0 to 1"));
        }
    }
}
