//! The noise of training: betas and the cumulative product of their alphas.
//!
//! Computed in f32 exactly as torch does on a CPU (fused linspace, product accumulated in f64), because everything later
//! divides by the smallest of these numbers; handed on as f64.

use super::fields::{Choice, Fields, wrong};
use crate::error::Result;

/// Largest `num_train_timesteps` that is believed: a thousand times what models use.
const MOST_TRAIN_TIMESTEPS: u32 = 1_000_000;

/// How the betas of training go from `beta_start` to `beta_end`.
#[derive(Clone, Copy, PartialEq)]
enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredcosCapV2,
}

impl Choice for BetaSchedule {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("linear", BetaSchedule::Linear),
        ("scaled_linear", BetaSchedule::ScaledLinear),
        ("squaredcos_cap_v2", BetaSchedule::SquaredcosCapV2),
    ];
}

/// The fields read here.
pub(super) const FIELDS: &[&str] = &["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"];

/// The field of the classes that can rescale the betas (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
pub(super) const ZERO_SNR: &[&str] = &["rescale_betas_zero_snr"];

/// Returns `alphas_cumprod`, one for each timestep of training, falling, in [0, 1); the last is 0 where the config has
/// `rescale_betas_zero_snr`.
/// (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
///
/// # Errors
/// A field is not what it should be, or a beta is outside (0, 1).
pub(super) fn alphas_cumprod(fields: &Fields) -> Result<Vec<f64>> {
    let betas = trained(fields)?;
    if let Some(bad) = betas.iter().find(|beta| !(**beta > 0.0 && **beta < 1.0)) {
        return Err(wrong(format!("the betas of training include `{bad}`"))
            .hint("`beta_start`, `beta_end` and `trained_betas` lie between 0 and 1"));
    }
    let betas = if fields.flag("rescale_betas_zero_snr", false)? { rescale_zero_terminal_snr(&betas) } else { betas };
    Ok(cumprod(&betas).into_iter().map(f64::from).collect())
}

/// As [`alphas_cumprod`], but with 2^-24 for a last value that was rescaled to 0, as diffusers has it in the algorithms
/// that divide by it.
pub(super) fn positive_alphas_cumprod(fields: &Fields) -> Result<Vec<f64>> {
    let mut alphas = alphas_cumprod(fields)?;
    if fields.flag("rescale_betas_zero_snr", false)?
        && let Some(last) = alphas.last_mut()
    {
        *last = 2f64.powi(-24);
    }
    Ok(alphas)
}

/// Returns whether the betas are those of the cosine.
pub(super) fn are_squaredcos(fields: &Fields) -> Result<bool> {
    Ok(fields.choice("beta_schedule", BetaSchedule::Linear)? == BetaSchedule::SquaredcosCapV2)
}

/// Returns the betas before any rescaling.
fn trained(fields: &Fields) -> Result<Vec<f32>> {
    if let Some(betas) = fields.numbers("trained_betas")? {
        let same = fields.count("num_train_timesteps", 1000)? as usize == betas.len();
        let lengths = "`trained_betas` has another length than `num_train_timesteps` says";
        return if same { Ok(betas.into_iter().map(|beta| beta as f32).collect()) } else { Err(wrong(lengths)) };
    }
    let count = fields.count("num_train_timesteps", 1000)?;
    if !(1..=MOST_TRAIN_TIMESTEPS).contains(&count) {
        return Err(wrong(format!("`num_train_timesteps` cannot be `{count}`"))
            .hint(format!("it can be 1 to {MOST_TRAIN_TIMESTEPS}")));
    }
    let (start, end) = (fields.number("beta_start", 0.0001)?, fields.number("beta_end", 0.02)?);
    Ok(match fields.choice("beta_schedule", BetaSchedule::Linear)? {
        BetaSchedule::Linear => linspace(start, end, count),
        BetaSchedule::ScaledLinear => {
            linspace(start.sqrt(), end.sqrt(), count).into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredcosCapV2 => squaredcos_cap_v2(count),
    })
}

/// `torch.linspace(start, end, count, dtype=torch.float32)`: from both ends to the middle, each element one fused
/// multiply-add.
fn linspace(start: f64, end: f64, count: u32) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    let at = |i: u32| {
        if i < count / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((count - 1 - i) as f32, end) }
    };
    (0..count).map(at).collect()
}

/// `betas_for_alpha_bar` with the cosine of Nichol and Dhariwal 2021 (arXiv 2102.09672, eq. 17), betas capped at 0.999.
fn squaredcos_cap_v2(count: u32) -> Vec<f32> {
    let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    let time = |i: u32| f64::from(i) / f64::from(count);
    (0..count).map(|i| (1.0 - alpha_bar(time(i + 1)) / alpha_bar(time(i))).min(0.999) as f32).collect()
}

/// `torch.cumprod(1 - betas)`: accumulated in f64, each result rounded to f32.
fn cumprod(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0;
    let next = |beta: &f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.iter().map(next).collect()
}

/// Returns betas whose last `alphas_cumprod` is 0 and whose first is kept.
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumprod(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let bars = roots.into_iter().map(|root| {
        let root = (root - last) * scale;
        root * root
    });
    let mut before = 1.0;
    bars.map(|bar| {
        let alpha = bar / before;
        before = bar;
        1.0 - alpha
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::fields::parse_python_json;

    fn fields(text: &str) -> Fields {
        match parse_python_json(text).expect("JSON") {
            serde_json::Value::Object(map) => Fields(map),
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn cosine_betas_are_no_integer_division() {
        // Values of diffusers 0.42.1.
        let betas = squaredcos_cap_v2(1000);
        assert!((betas[0] - 4.128_422_5e-5).abs() < 1e-11, "{}", betas[0]);
        assert!((betas[500] - 3.155_691_5e-3).abs() < 1e-9, "{}", betas[500]);
        assert_eq!(betas[999], 0.999);
    }

    #[test]
    fn alphas_cumprod_fall_inside_0_and_1() {
        for text in ["{}", r#"{"beta_schedule": "scaled_linear"}"#, r#"{"beta_schedule": "squaredcos_cap_v2"}"#] {
            let alphas = alphas_cumprod(&fields(text)).expect("defaults");
            assert_eq!(alphas.len(), 1000);
            assert!(alphas.windows(2).all(|pair| pair[1] < pair[0]), "{text}");
            assert!(alphas.iter().all(|alpha| *alpha > 0.0 && *alpha < 1.0), "{text}");
        }
    }

    #[test]
    fn zero_snr_keeps_the_first_and_ends_in_zero() {
        let plain = alphas_cumprod(&fields("{}")).expect("defaults");
        let zero = fields(r#"{"rescale_betas_zero_snr": true}"#);
        let rescaled = alphas_cumprod(&zero).expect("defaults");
        assert!((plain[0] - rescaled[0]).abs() < 1e-7);
        assert_eq!(rescaled[999], 0.0);
        assert_eq!(positive_alphas_cumprod(&zero).expect("defaults")[999], 2f64.powi(-24));
    }

    #[test]
    fn impossible_betas_are_refused() {
        for text in [
            r#"{"beta_start": 0}"#,
            r#"{"beta_end": 1.5}"#,
            r#"{"num_train_timesteps": 0}"#,
            r#"{"num_train_timesteps": 3, "trained_betas": [0.1, 0.2]}"#,
            r#"{"beta_start": "Infinity"}"#,
        ] {
            assert_eq!(alphas_cumprod(&fields(text)).expect_err("refused").code(), "scheduler_config", "{text}");
        }
    }
}
