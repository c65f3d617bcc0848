//! What the schedulers of consistency-distilled models share: timesteps chosen among those of the distillation.

use super::fields::Fields;
use super::request::ScheduleRequest;
use crate::error::{Error, ErrorKind, Result};

/// The fields read here; the classes have `timestep_spacing` and `steps_offset` too, which change nothing there.
pub(super) const FIELDS: &[&str] = &["original_inference_steps"];

/// Returns the falling timesteps that are asked for: the request's own, or as many as it has steps, spread over the `original_inference_steps` (50) of the distillation from the highest
/// (Luo et al. 2023, arXiv 2310.04378, section 4.3; diffusers 0.42.1 `LCMScheduler.set_timesteps`).
///
/// # Errors
/// `num_inference_steps` (usage) for 0 and for more than the distillation has; `scheduler_config` when that has more than
/// training; `timesteps` (usage) as [`ScheduleRequest::own_whole_timesteps`].
pub(super) fn timesteps(fields: &Fields, num_train_timesteps: usize, request: &ScheduleRequest) -> Result<Vec<usize>> {
    let original = fields.count("original_inference_steps", 50)? as usize;
    if original == 0 || original > num_train_timesteps {
        return Err(super::fields::wrong(format!("`original_inference_steps` cannot be `{original}`"))
            .hint(format!("it can be 1 to `num_train_timesteps`, here {num_train_timesteps}")));
    }
    if let Some(timesteps) = request.own_whole_timesteps(num_train_timesteps)? {
        return Ok(timesteps.into_iter().map(|timestep| timestep as usize).collect());
    }
    let stride = num_train_timesteps / original;
    let original = match request.strength {
        Some(strength) if request.strength_keeps_steps => (original as f64 * strength) as usize,
        _ => original,
    };
    let n = request.num_inference_steps as usize;
    if n == 0 || n > original {
        return Err(Error::new(ErrorKind::Usage, "num_inference_steps", format!("cannot make `{n}` steps"))
            .hint(format!("this scheduler makes 1 to {original} steps, of which 2 to 8 are usual")));
    }
    // np.linspace(0, original, n, endpoint=False), floored: a product by a step in f64.
    let step = original as f64 / n as f64;
    Ok((0..n).map(|i| (original - (i as f64 * step) as usize) * stride - 1).collect())
}

/// Returns how many steps are left out at the start; see [`ScheduleRequest::strength_keeps_steps`].
///
/// # Errors
/// As [`ScheduleRequest::begin`].
pub(super) fn begin(request: &ScheduleRequest, steps: usize) -> Result<usize> {
    if request.strength_keeps_steps && request.timesteps.is_none() { Ok(0) } else { request.begin(steps) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_start_at_the_end_of_training() {
        let fields = Fields(serde_json::Map::new());
        assert_eq!(timesteps(&fields, 1000, &ScheduleRequest::steps(4)).expect("four"), [999, 759, 499, 259]);
        assert_eq!(timesteps(&fields, 1000, &ScheduleRequest::steps(1)).expect("one"), [999]);
        let half = ScheduleRequest { strength: Some(0.5), ..ScheduleRequest::steps(2) };
        assert_eq!(timesteps(&fields, 1000, &half).expect("two"), [999, 499], "steps are left out later");
        let half = ScheduleRequest { strength_keeps_steps: true, ..half };
        assert_eq!(timesteps(&fields, 1000, &half).expect("two"), [499, 259]);
        assert_eq!(
            timesteps(&fields, 1000, &ScheduleRequest::steps(51)).expect_err("too many").code(),
            "num_inference_steps"
        );
    }
}
