//! The levels of flow matching: even from 1 to almost 0, and shifted towards 1, more so for larger pictures (Esser et al.
//! 2024, arXiv 2403.03206, section 5.3.2).

use super::fields::{Choice, Fields, bad, wrong};
use super::request::ScheduleRequest;
use crate::error::{Error, ErrorKind, Result};

/// The fields of a shift that depends on the picture's size. All but the first and the last belong to
/// `FlowMatchEulerDiscreteScheduler`; diffusers' pipelines find them in the config of any class.
pub(super) const DYNAMIC: &[&str] =
    &["use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"];

/// How mu shifts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TimeShift {
    Exponential,
    Linear,
}

impl Choice for TimeShift {
    const WORDS: &'static [(&'static str, Self)] =
        &[("exponential", TimeShift::Exponential), ("linear", TimeShift::Linear)];
}

/// A shift of levels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shift {
    /// By this factor.
    Static(f64),
    /// By this factor, which follows from mu; the same function, rounded as diffusers' `time_shift` rounds it.
    Dynamic(f64),
}

impl Shift {
    /// Reads the factor from the field `key` (1 where it is missing), or with `use_dynamic_shifting` computes it from the
    /// picture's size.
    ///
    /// # Errors
    /// `scheduler_config` for a factor that is not above 0; `image_seq_len` (usage) when it is needed and not known.
    pub(super) fn read(fields: &Fields, key: &str, request: &ScheduleRequest) -> Result<Self> {
        if fields.flag("use_dynamic_shifting", false)? {
            let mu = mu(fields, request)?;
            let factor = match fields.choice("time_shift_type", TimeShift::Exponential)? {
                TimeShift::Exponential => mu.exp(),
                TimeShift::Linear => mu,
            };
            if factor > 0.0 && factor.is_finite() {
                return Ok(Shift::Dynamic(factor));
            }
            return Err(wrong(format!("`base_shift` and `max_shift` give a shift of `{factor}`")));
        }
        let factor = fields.number(key, 1.0)?;
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(bad(key, &factor.into(), "a number above 0"));
        }
        Ok(Shift::Static(factor))
    }

    /// Returns `sigma` shifted; 1 stays 1.
    pub(super) fn apply(self, sigma: f64) -> f64 {
        match self {
            Shift::Static(factor) => factor * sigma / (1.0 + (factor - 1.0) * sigma),
            Shift::Dynamic(factor) => factor / (factor + (1.0 / sigma - 1.0)),
        }
    }
}

/// Returns the mu of a picture of `image_seq_len` tokens: a line through `base_shift` at `base_image_seq_len` and
/// `max_shift` at `max_image_seq_len` (diffusers: `calculate_shift` of the pipelines of Flux and Stable Diffusion 3).
///
/// # Errors
/// `image_seq_len` (usage) when the request does not say it.
fn mu(fields: &Fields, request: &ScheduleRequest) -> Result<f64> {
    let Some(image_seq_len) = request.image_seq_len else {
        let message = "this model's noise levels depend on the picture's size, which is not known here";
        return Err(Error::new(ErrorKind::Usage, "image_seq_len", message)
            .hint("with `use_dynamic_shifting`, say how many tokens the picture is"));
    };
    let (base, max) = (fields.number("base_shift", 0.5)?, fields.number("max_shift", 1.15)?);
    let base_len = f64::from(fields.count("base_image_seq_len", 256)?);
    let max_len = f64::from(fields.count("max_image_seq_len", 4096)?);
    if base_len == max_len {
        return Err(wrong("`base_image_seq_len` and `max_image_seq_len` are the same"));
    }
    let slope = (max - base) / (max_len - base_len);
    Ok(f64::from(image_seq_len) * slope + (base - slope * base_len))
}

/// Reads `num_train_timesteps`, at least 1.
pub(super) fn num_train_timesteps(fields: &Fields) -> Result<f64> {
    match fields.count("num_train_timesteps", 1000)? {
        0 => Err(bad("num_train_timesteps", &0.into(), "1 or more")),
        train => Ok(f64::from(train)),
    }
}

/// Refuses a number of steps that is 0 or more than those of training.
///
/// # Errors
/// `num_inference_steps` (usage).
pub(super) fn check_steps(n: u32, train: f64) -> Result<()> {
    if n > 0 && f64::from(n) <= train {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, "num_inference_steps", format!("cannot make `{n}` steps"))
        .hint(format!("this scheduler makes 1 to {train} steps")))
}

/// Stretches the levels so that the last one is `shift_terminal`, where the config has it.
pub(super) fn stretch_to_terminal(fields: &Fields, sigmas: &mut [f64]) -> Result<()> {
    let Some(terminal) = fields.optional_number("shift_terminal")?.filter(|terminal| *terminal != 0.0) else {
        return Ok(());
    };
    let last = sigmas[sigmas.len() - 1];
    if !(0.0..1.0).contains(&terminal) || last >= 1.0 {
        return Err(bad("shift_terminal", &terminal.into(), "a number from 0 to below 1, for two steps or more"));
    }
    let scale = (1.0 - last) / (1.0 - terminal);
    sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
    Ok(())
}

/// Returns the levels that the request gives, which fall in (0, 1]; the final 0 is not among them.
///
/// # Errors
/// `sigmas` (usage) when they do not.
pub(super) fn own_sigmas(request: &ScheduleRequest) -> Result<Option<Vec<f64>>> {
    let inside = |sigmas: &[f64]| !sigmas.is_empty() && sigmas.iter().all(|sigma| *sigma > 0.0 && *sigma <= 1.0);
    let hint = "those of flow matching are above 0, at most 1, and fall; the final 0 is not one of them".to_string();
    request.checked("sigmas", &request.sigmas, inside, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::fields::written;

    fn fields(fields: &[(&str, &str)]) -> Fields {
        Fields(fields.iter().map(|(key, json)| ((*key).to_string(), written(json))).collect())
    }

    #[test]
    fn larger_pictures_are_shifted_more() {
        let dynamic = [("use_dynamic_shifting", "true"), ("max_shift", "1.5")];
        let shift = |tokens: u32, fields: &Fields| {
            let request = ScheduleRequest { image_seq_len: Some(tokens), ..ScheduleRequest::default() };
            Shift::read(fields, "shift", &request).expect("a shift")
        };
        assert_eq!(shift(256, &fields(&dynamic)), Shift::Dynamic(0.5f64.exp()));
        assert_eq!(shift(4096, &fields(&dynamic)), Shift::Dynamic(1.5f64.exp()));
        let linear = [dynamic[0], dynamic[1], ("time_shift_type", "\"linear\"")];
        assert_eq!(shift(4096, &fields(&linear)), Shift::Dynamic(1.5));
        let error = Shift::read(&fields(&dynamic), "shift", &ScheduleRequest::default()).expect_err("no size");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Usage, "image_seq_len"));
    }

    #[test]
    fn both_forms_are_the_same_function_and_keep_the_ends() {
        for factor in [0.5, 1.0, 3.0] {
            for sigma in [1.0, 0.5, 0.001] {
                let (fixed, dynamic) = (Shift::Static(factor).apply(sigma), Shift::Dynamic(factor).apply(sigma));
                assert!((fixed - dynamic).abs() < 1e-15);
            }
            assert_eq!(Shift::Dynamic(factor).apply(1.0), 1.0);
        }
    }

    #[test]
    fn levels_are_stretched_to_the_terminal() {
        let terminal = fields(&[("shift_terminal", "0.1")]);
        let mut sigmas = [1.0, 0.6, 0.3];
        stretch_to_terminal(&terminal, &mut sigmas).expect("possible");
        assert!((sigmas[2] - 0.1).abs() < 1e-12 && (sigmas[0] - 1.0).abs() < 1e-12);
        assert!(stretch_to_terminal(&terminal, &mut [1.0]).is_err(), "a single level is the highest");
    }
}
