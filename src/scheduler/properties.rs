//! What holds for every algorithm, every spacing and every number of steps.

use std::sync::Arc;

use ndarray::{Array3, ArrayView3};
use proptest::prelude::*;
use serde_json::json;

use super::{Schedule, ScheduleRequest, SchedulerConfig, names};
use crate::noise::{Noise, NoiseKind};

const SHAPE: (usize, usize, usize) = (2, 3, 3);
const SPACINGS: [&str; 3] = ["linspace", "leading", "trailing"];
const PREDICTIONS: [&str; 3] = ["epsilon", "v_prediction", "sample"];
const DETERMINISTIC: [&str; 15] = [
    "ddim",
    "euler",
    "euler_karras",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "heun",
    "heun_karras",
    "dpm2",
    "dpm2_karras",
    "lms",
    "lms_karras",
    "unipc",
    "unipc_karras",
    "dpmpp_2s",
    "dpmpp_2s_karras",
];

/// How many evaluations `n` steps take.
fn evaluations(name: &str, n: usize) -> usize {
    match name {
        "pndm" => n + 9,
        "plms" if n > 1 => n + 1,
        _ if name.starts_with("heun")
            || name.starts_with("dpm2")
            || name.starts_with("dpmpp_sde")
            || name == "flow_heun" =>
        {
            2 * n - 1
        }
        _ => n,
    }
}

fn config(name: &str, fields: serde_json::Value) -> SchedulerConfig {
    SchedulerConfig::from_json(&fields.to_string()).expect("a config").select(name).expect("a scheduler of ours")
}

/// Noise that counts its draws.
struct Counted(Box<dyn Noise>, usize);

impl Noise for Counted {
    fn seed(&self) -> u64 {
        self.0.seed()
    }

    fn with_seed(&self, seed: u64) -> Box<dyn Noise> {
        self.0.with_seed(seed)
    }

    fn draw(&mut self, shape: (usize, usize, usize)) -> Array3<f32> {
        self.1 += 1;
        self.0.draw(shape)
    }
}

fn noise(seed: u64) -> Counted {
    Counted(NoiseKind::TorchCpu.source(seed), 0)
}

/// `alphas_cumprod` of the default betas (linear), for DDIM, whose schedule has no sigmas.
fn alpha_prod(timestep: f64) -> f64 {
    (0..=timestep as u32).map(|t| 1.0 - (0.0001 + (0.02 - 0.0001) * f64::from(t) / 999.0)).product()
}

/// A network that knows the picture, and the noise that the start is made of.
struct Oracle {
    picture: Array3<f32>,
    noise: Array3<f32>,
    prediction: &'static str,
}

impl Oracle {
    /// `start` is `alpha` picture + `sigma` noise.
    fn new(prediction: &'static str, picture: Array3<f32>, start: ArrayView3<'_, f32>, alpha: f64, sigma: f64) -> Self {
        let mut noise = start.mapv(f64::from);
        noise.zip_mut_with(&picture, |x, picture| *x = (*x - alpha * f64::from(*picture)) / sigma);
        Oracle { picture, noise: noise.mapv(|x| x as f32), prediction }
    }

    /// Answers at the unit-power mix of `sigma` (relative to the picture).
    fn answer(&self, sigma: f64) -> Array3<f32> {
        let alpha = 1.0 / sigma.hypot(1.0);
        match self.prediction {
            "epsilon" => self.noise.clone(),
            "sample" => self.picture.clone(),
            _ => &self.noise * alpha as f32 - &self.picture * (alpha * sigma) as f32,
        }
    }
}

/// Returns the noise level at evaluation `i`, relative to the picture.
fn level(schedule: &Schedule, i: usize) -> f64 {
    let from_alpha = |alpha: f64| ((1.0 - alpha) / alpha).sqrt();
    schedule.sigmas().map_or_else(|| from_alpha(alpha_prod(schedule.timesteps()[i])), |sigmas| sigmas[i])
}

/// Returns the noise level that evaluation `i` is at: DPM2's second evaluations lie between the levels that it tells.
fn asked_level(name: &str, schedule: &Schedule, i: usize) -> f64 {
    match schedule.sigmas() {
        Some(sigmas) if name.starts_with("dpm2") && i % 2 == 1 => (sigmas[i - 1] * sigmas[i]).sqrt(),
        _ => level(schedule, i),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn timesteps_and_sigmas_fall_for_every_n(
        n in 1u32..=1000, which in 0usize..names().count(), spacing in 0usize..3, steps_offset in 0u32..2,
    ) {
        let name = names().nth(which).expect("in range").canonical;
        let fields = json!({"timestep_spacing": SPACINGS[spacing], "steps_offset": steps_offset});
        let schedule = match config(name, fields).schedule(&ScheduleRequest::steps(n)) {
            Ok(schedule) => schedule,
            Err(error) => {
                let impossible = match name {
                    "lcm" | "tcd" => n > 50,
                    "pndm" => n < 4,
                    _ => n == 1000,
                };
                prop_assert_eq!((error.code(), impossible), ("num_inference_steps", true));
                return Ok(());
            }
        };
        let count = evaluations(name, n as usize);
        prop_assert_eq!(schedule.evaluations(), count);
        prop_assert_eq!(schedule.timesteps().len(), count);
        // Spaced levels may tell the network the same timestep twice, and so do evaluations that belong together.
        let strictly = !name.contains("karras") && count == n as usize;
        let falls = |pair: &[f64]| if strictly { pair[1] < pair[0] } else { pair[1] <= pair[0] };
        // Runge and Kutta's last evaluation may lie below the next one; so may one on the way too far down, and one in
        // between whose neighbours are rounded.
        let rises = name == "pndm" || name.starts_with("dpm2");
        prop_assert!(rises || schedule.timesteps().windows(2).all(falls));
        let timesteps = match name {
            // A quarter of ln sigma.
            "edm_euler" | "edm_dpmpp_2m" => -2.0..2.0,
            // The end of training is pure noise.
            "flow_euler" | "flow_heun" => 0.0..1001.0,
            _ => 0.0..1000.0,
        };
        prop_assert!(schedule.timesteps().iter().all(|t| timesteps.contains(t)));
        let ends_above_zero = name.starts_with("deis") || name.starts_with("sa_solver");
        if let Some(sigmas) = schedule.sigmas() {
            prop_assert!(sigmas.len() > count);
            prop_assert!(sigmas.iter().all(|sigma| sigma.is_finite()));
            let strictly = count == n as usize && !ends_above_zero;
            let falls = |pair: &[f64]| if strictly { pair[1] < pair[0] } else { pair[1] <= pair[0] };
            prop_assert!(sigmas.windows(2).all(falls));
            // These have no step to zero.
            prop_assert!(sigmas.last() == Some(&0.0) || ends_above_zero);
        }
        prop_assert!(schedule.init_noise_sigma() > 0.0 && schedule.init_noise_sigma().is_finite());
    }

    #[test]
    fn with_an_oracle_every_deterministic_sampler_lands_on_the_picture(
        n in 1u32..=300, which in 0usize..DETERMINISTIC.len(), spacing in 0usize..3, prediction in 0usize..3,
        order in 1u32..=3, heun: bool, seed: u64,
    ) {
        let name = DETERMINISTIC[which];
        // DDIM's steps meet their next timestep with `leading` only (see ddim.rs).
        let spacing = if name == "ddim" { "leading" } else { SPACINGS[spacing] };
        let fields = json!({
            "timestep_spacing": spacing, "prediction_type": PREDICTIONS[prediction], "clip_sample": false,
            "solver_order": order, "solver_type": if heun { "heun" } else { "midpoint" },
        });
        let schedule = Arc::new(config(name, fields).schedule(&ScheduleRequest::steps(n)).expect("a schedule"));
        let mut noise = noise(seed);
        let picture = noise.draw(SHAPE).mapv(|x| x.clamp(-2.0, 2.0));
        let mut sampler = schedule.start(noise.draw(SHAPE));
        let sigma = level(&schedule, 0);
        let unit_power = ["ddim", "dpmpp", "unipc"].iter().any(|unit| name.starts_with(unit));
        let alpha = if unit_power { 1.0 / sigma.hypot(1.0) } else { 1.0 };
        let oracle = Oracle::new(PREDICTIONS[prediction], picture, sampler.latents(), alpha, alpha * sigma);
        for i in 0..schedule.evaluations() {
            let eval = sampler.request().expect("not done");
            prop_assert_eq!(eval.timestep, schedule.timesteps()[i]);
            sampler.advance(oracle.answer(asked_level(name, &schedule, i)).view(), &mut noise);
        }
        prop_assert!(sampler.request().is_none());
        let off = (&sampler.latents() - &oracle.picture).iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        prop_assert!(off < 2e-3, "{} off by {}", name, off);
        prop_assert_eq!(noise.1, 2, "a deterministic sampler draws nothing");
    }
}

#[test]
fn noise_is_drawn_where_the_algorithm_does_and_nowhere_else() {
    for (name, eta, draws) in [
        ("ddim", 0.0, 0),
        ("ddim", 0.5, 5),
        ("euler", 1.0, 0),
        ("euler_a", 0.0, 5),
        ("dpmpp_2m", 1.0, 0),
        ("dpmpp_2m_sde", 0.0, 5),
        // Not at timestep 0, not in first evaluations, not in last steps.
        ("ddpm", 0.0, 4),
        ("dpm2_a", 0.0, 4),
        ("sa_solver", 0.0, 5),
        // Its noise is of streams of its own.
        ("dpmpp_sde", 0.0, 0),
        ("lcm", 0.0, 4),
        ("tcd", 0.0, 0),
        ("tcd", 0.3, 4),
        ("heun", 0.0, 0),
        ("lms", 0.0, 0),
        ("plms", 0.0, 0),
    ] {
        let schedule = Arc::new(
            config(name, json!({}))
                .schedule(&ScheduleRequest { eta, ..ScheduleRequest::steps(5) })
                .expect("a schedule"),
        );
        let mut noise = noise(1);
        let mut sampler = schedule.start(Array3::zeros(SHAPE));
        while let Some(eval) = sampler.request() {
            sampler.advance(eval.model_input.view(), &mut noise);
        }
        assert_eq!(noise.1, draws, "{name} with eta {eta}");
        let done = sampler.latents().to_owned();
        sampler.advance(Array3::zeros(SHAPE).view(), &mut noise);
        assert_eq!((sampler.latents(), noise.1), (done.view(), draws), "{name} is done and stays so");
    }
}

#[test]
fn images_on_one_schedule_do_not_see_each_other() {
    let schedule = Arc::new(config("dpmpp_2m", json!({})).schedule(&ScheduleRequest::steps(6)).expect("a schedule"));
    let alone = |seed| {
        let mut noise = noise(seed);
        let mut sampler = schedule.start(noise.draw(SHAPE));
        while let Some(eval) = sampler.request() {
            sampler.advance(eval.model_input.mapv(f32::sin).view(), &mut noise);
        }
        sampler.latents().to_owned()
    };
    let mut streams = [noise(1), noise(2)];
    let mut together = streams.each_mut().map(|noise| schedule.start(noise.draw(SHAPE)));
    for _ in 0..6 {
        for (sampler, noise) in together.iter_mut().zip(&mut streams).rev() {
            let eval = sampler.request().expect("not done");
            sampler.advance(eval.model_input.mapv(f32::sin).view(), noise);
        }
    }
    assert_eq!(together[0].latents(), alone(1));
    assert_eq!(together[1].latents(), alone(2));
}

#[test]
fn json_has_the_four_fields_and_sigmas_only_where_they_are() {
    let keys = |name| {
        let schedule = config(name, json!({})).schedule(&ScheduleRequest::steps(2)).expect("a schedule");
        let json = serde_json::to_value(&schedule).expect("plain numbers");
        json.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys("euler"), ["scheduler", "timesteps", "sigmas", "init_noise_sigma"]);
    assert_eq!(keys("ddim"), ["scheduler", "timesteps", "init_noise_sigma"]);
}

#[test]
fn impossible_requests_are_errors() {
    let code = |name, n, eta| {
        config(name, json!({}))
            .schedule(&ScheduleRequest { eta, ..ScheduleRequest::steps(n) })
            .expect_err("impossible")
            .code()
    };
    for name in names() {
        for n in [0, 1001, u32::MAX] {
            assert_eq!(code(name.canonical, n, 0.0), "num_inference_steps", "{name:?}");
        }
    }
    for eta in [-0.1, 1.1, f64::NAN] {
        assert_eq!(code("ddim", 10, eta), "eta");
    }
    // Nothing divides by a last alpha of zero.
    let fields = json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"});
    assert_eq!(
        config("euler", fields.clone())
            .schedule(&ScheduleRequest::steps(10))
            .expect("a schedule")
            .init_noise_sigma()
            .round(),
        4096.0
    );
    let error = SchedulerConfig::from_json(&fields.to_string()).expect("a config").select("ddim").expect_err("refused");
    assert_eq!(error.code(), "scheduler_config");
}
