//! Timesteps and levels of the algorithms that step in lambda = ln(alpha / sigma), for models that predict noise (their
//! samples have unit power) and for those of flow matching (arXiv 2403.03206: alpha = 1 - sigma).

use super::betas;
use super::fields::{Fields, bad, wrong};
use super::flow_shift::{self, Shift};
use super::noising::{self, Mixing};
use super::request::ScheduleRequest;
use super::schedule::Numbers;
use super::sigmas::{FinalSigmas, SigmaSpacing, TrainingSigmas};
use super::timesteps::{Spacing, TimestepSpacing};
use super::unit_power::alpha_sigma;
use crate::error::{Error, ErrorKind, Result};

/// The fields of flow matching that these classes have.
pub(super) const FLOW: &[&str] = &["use_flow_sigmas", "flow_shift"];

/// Where the classes differ in their levels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The final level.
    pub(super) last: FinalSigmas,
    /// Whether a final level above zero is, after spaced levels (Karras, …), the last of them, not the least of training.
    pub(super) ends_at_own_least: bool,
    /// Whether the timesteps of Karras levels are rounded to the nearest; those of other spaced levels are cut off.
    pub(super) rounds_karras: bool,
    /// Whether it is UniPC, whose levels of flow matching start at 1, can be stretched, spaced as Karras', and given.
    pub(super) is_unipc: bool,
}

/// What is known of every step.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) timesteps: Vec<f64>,
    /// The final level included.
    pub(super) sigmas: Vec<f64>,
    /// What samples of these levels are made of.
    pub(super) mixing: Mixing,
    /// The step that is made first.
    pub(super) begin: usize,
}

impl Levels {
    /// Computes the levels that the fields and the request ask for.
    ///
    /// With spaced levels (Karras, exponential) neighbouring timesteps may be equal, as in diffusers: they are then only
    /// what the network is told. Here such a schedule still starts at its first step (diffusers starts at the second of two
    /// equal timesteps).
    pub(super) fn read(fields: &Fields, rules: Rules, request: &ScheduleRequest) -> Result<Self> {
        if fields.flag("use_flow_sigmas", false)? {
            let (timesteps, sigmas) = of_flow(fields, rules, request)?;
            let begin = request.begin_of_flow(timesteps.len())?;
            return Ok(Levels { timesteps, sigmas, mixing: noising::flow, begin });
        }
        if request.sigmas.is_some() {
            let message = "`sigmas` cannot be given for a model that predicts no flow";
            return Err(Error::new(ErrorKind::Usage, "sigmas", message).hint("`euler` takes them"));
        }
        let (timesteps, sigmas) = of_training(fields, rules, request)?;
        let begin = request.begin(timesteps.len())?;
        Ok(Levels { timesteps, sigmas, mixing: alpha_sigma, begin })
    }

    /// Returns the schedule's numbers; latents start as unit noise.
    pub(super) fn numbers(self) -> Numbers {
        let noising = noising::of_levels(&self.sigmas, self.mixing);
        let Levels { timesteps, sigmas, begin, .. } = self;
        Numbers { timesteps, sigmas: Some(sigmas), init_noise_sigma: 1.0, noising, begin }
    }
}

/// Returns timesteps, whole numbers, and the levels that samples had there in training.
fn of_training(fields: &Fields, rules: Rules, request: &ScheduleRequest) -> Result<(Vec<f64>, Vec<f64>)> {
    let alphas_cumprod = betas::positive_alphas_cumprod(fields)?;
    let training = TrainingSigmas::new(&alphas_cumprod)?;
    let lambda_min = -training.largest().ln();
    let clipped = fields.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    if clipped > lambda_min {
        return Err(bad("lambda_min_clipped", &clipped.into(), &format!("`-Infinity` or less than {lambda_min:.4}")));
    }
    let spacing = Spacing::read(fields, TimestepSpacing::Linspace, alphas_cumprod.len())?;
    let spacing = Spacing { without_lowest: true, ..spacing };
    let ends = (training.largest(), training.smallest());
    let sigma_spacing = spacing_or_lu(fields)?;
    if let Some(timesteps) = request.own_whole_timesteps(alphas_cumprod.len())? {
        sigma_spacing.refuse_timesteps()?;
        let sigmas = timesteps.iter().map(|timestep| training.at(*timestep)).collect();
        return Ok((timesteps, training.finish(sigmas, rules.last)?));
    }
    let n = request.num_inference_steps;
    spacing.check(n)?;
    let Some(sigmas) = sigma_spacing.levels(fields, ends, n as usize)? else {
        let timesteps: Vec<f64> = spacing.timesteps(n)?.into_iter().map(f64::round_ties_even).collect();
        let sigmas = timesteps.iter().map(|timestep| training.at(*timestep)).collect();
        return Ok((timesteps, training.finish(sigmas, rules.last)?));
    };
    let rounds = matches!(sigma_spacing, SigmaSpacing::Karras | SigmaSpacing::Lu) && rules.rounds_karras;
    let whole = if rounds { f64::round_ties_even } else { f64::trunc };
    let timesteps = sigmas.iter().map(|sigma| whole(training.timestep_of(*sigma))).collect();
    let least = sigmas.last().copied();
    let mut sigmas = training.finish(sigmas, rules.last)?;
    if let (FinalSigmas::SigmaMin, true, Some(end), Some(least)) =
        (rules.last, rules.ends_at_own_least, sigmas.last_mut(), least)
    {
        *end = least;
    }
    Ok((timesteps, sigmas))
}

/// Reads the spacing of levels, with `use_lu_lambdas`, which gives way to Karras' and comes before the others.
fn spacing_or_lu(fields: &Fields) -> Result<SigmaSpacing> {
    let spacing = SigmaSpacing::read(fields)?;
    let lu = fields.flag("use_lu_lambdas", false)? && spacing != SigmaSpacing::Karras;
    Ok(if lu { SigmaSpacing::Lu } else { spacing })
}

/// Returns timesteps, cut off to whole numbers, and the levels of flow matching.
fn of_flow(fields: &Fields, rules: Rules, request: &ScheduleRequest) -> Result<(Vec<f64>, Vec<f64>)> {
    if request.timesteps.is_some() {
        let message = "`timesteps` cannot be given where `use_flow_sigmas` is set";
        return Err(
            Error::new(ErrorKind::Usage, "timesteps", message).hint("give a number of steps, or use `flow_euler`")
        );
    }
    let train = flow_shift::num_train_timesteps(fields)?;
    let mut sigmas = if rules.is_unipc { unipc(fields, request, train)? } else { even(fields, request, train)? };
    let timesteps = sigmas.iter().map(|sigma| (sigma * train).trunc()).collect();
    let least = sigmas[sigmas.len() - 1];
    sigmas.push(match rules.last {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin if rules.is_unipc || rules.ends_at_own_least => least,
        // diffusers takes the least level of betas that the model was never trained with, and which is no level of flow.
        FinalSigmas::SigmaMin => {
            return Err(wrong("`final_sigmas_type` cannot be `sigma_min` with `use_flow_sigmas`").hint("use `zero`"));
        }
    });
    // In f32, as diffusers has them: near 1, the picture's share 1 - sigma is a few of their last bits.
    sigmas.iter_mut().for_each(|sigma| *sigma = f64::from(*sigma as f32));
    Ok((timesteps, sigmas))
}

/// Returns shifted levels from the second last of `n` + 1 parts of [0, 1 - 1 / `train`] downwards (diffusers'
/// DPM-Solver, DEIS and SA-Solver).
fn even(fields: &Fields, request: &ScheduleRequest, train: f64) -> Result<Vec<f64>> {
    refuse_spacing(SigmaSpacing::read(fields)?)?;
    if fields.flag("use_lu_lambdas", false)? {
        return Err(wrong("both `use_flow_sigmas` and `use_lu_lambdas` are set").hint("set one of them only"));
    }
    let n = request.num_inference_steps;
    flow_shift::check_steps(n, train)?;
    // Those classes raise `flow_shift` to exp(mu), so that its rounding is that of a fixed shift.
    let (Shift::Static(factor) | Shift::Dynamic(factor)) = Shift::read(fields, "flow_shift", request)?;
    let step = (1.0 / train - 1.0) / f64::from(n);
    let alpha = |i: u32| if i == n { 1.0 / train } else { f64::from(i) * step + 1.0 };
    Ok((1..=n).rev().map(|i| Shift::Static(factor).apply(1.0 - alpha(i))).collect())
}

/// Returns UniPC's levels: shifted, from 1, where the noise is everything, a millionth below it.
fn unipc(fields: &Fields, request: &ScheduleRequest, train: f64) -> Result<Vec<f64>> {
    const EPS: f64 = 1e-6;
    let n = request.num_inference_steps;
    let own = flow_shift::own_sigmas(request)?;
    let spacing = SigmaSpacing::read(fields)?;
    if spacing == SigmaSpacing::Karras && own.is_none() {
        flow_shift::check_steps(n, train)?;
        return karras(fields, spacing, n);
    }
    refuse_spacing(spacing)?;
    let step = (1.0 / train - 1.0) / f64::from(n.max(1));
    let even = || flow_shift::check_steps(n, train).map(|()| (0..n).map(|i| f64::from(i) * step + 1.0).collect());
    let mut sigmas = own.map_or_else(even, Ok)?;
    let shift = Shift::read(fields, "flow_shift", request)?;
    sigmas.iter_mut().for_each(|sigma| *sigma = shift.apply(*sigma));
    flow_shift::stretch_to_terminal(fields, &mut sigmas)?;
    if (sigmas[0] - 1.0).abs() < EPS {
        sigmas[0] -= EPS;
    }
    Ok(sigmas)
}

/// Returns `n` levels between those of training, spaced as Karras', as the share of the noise in the sum of it and the
/// picture (for models such as Cosmos).
fn karras(fields: &Fields, spacing: SigmaSpacing, n: u32) -> Result<Vec<f64>> {
    let training = TrainingSigmas::new(&betas::positive_alphas_cumprod(fields)?)?;
    let levels = spacing.levels(fields, (training.largest(), training.smallest()), n as usize)?;
    Ok(levels.unwrap_or_default().into_iter().map(|sigma| sigma / (sigma + 1.0)).collect())
}

fn refuse_spacing(spacing: SigmaSpacing) -> Result<()> {
    if spacing == SigmaSpacing::Timesteps {
        return Ok(());
    }
    // diffusers spaces the levels of noise prediction then and takes them for those of flow.
    Err(wrong("`use_flow_sigmas` has levels of its own").hint("leave out `use_karras_sigmas` and its like"))
}
