//! Pseudo numerical methods: Liu et al. 2022 (arXiv 2202.09778), eq. 9 and 11 to 13; diffusers 0.42.1 `scheduling_pndm.py`.
//!
//! Three steps of Runge and Kutta's kind (four evaluations each), then a linear multistep of order 4. With
//! `skip_prk_steps`, as in Stable Diffusion 1.x, the multistep (PLMS) starts by itself with one evaluation more.

use ndarray::{Array3, ArrayView3, Zip};

use super::betas;
use super::fields::{Choice, Fields};
use super::noising;
use super::prediction::{PredictionType, weighted_sum};
use super::registry::{Algorithm, Takes, Variant};
use super::request::ScheduleRequest;
use super::schedule::{Numbers, Schedule, Solver};
use super::timesteps::{self, Spacing, TimestepSpacing};
use crate::error::{Error, ErrorKind, Result};
use crate::noise::Noise;

pub(super) static ALGORITHM: Algorithm = Algorithm {
    class_name: "PNDMScheduler",
    variants: &[
        Variant { canonical: "pndm", a1111: "PNDM", aliases: &[], overrides: &[] },
        Variant { canonical: "plms", a1111: "PLMS", aliases: &[], overrides: &[("skip_prk_steps", "true")] },
    ],
    honoured: &[betas::FIELDS, timesteps::FIELDS, &["prediction_type", "skip_prk_steps", "set_alpha_to_one"]],
    defaults: &[],
    neutral: &[],
    takes: Takes::NEITHER,
    build,
};

/// What the network may predict: the class does not know `sample`.
#[derive(Debug, Clone, Copy)]
struct Prediction(PredictionType);

impl Choice for Prediction {
    const WORDS: &'static [(&'static str, Self)] =
        &[("epsilon", Prediction(PredictionType::Epsilon)), ("v_prediction", Prediction(PredictionType::VPrediction))];
}

fn build(fields: &Fields, request: &ScheduleRequest) -> Result<Schedule> {
    let alphas_cumprod = betas::alphas_cumprod(fields)?;
    let spacing = Spacing::read(fields, TimestepSpacing::Leading, alphas_cumprod.len())?;
    let falling: Vec<i64> =
        spacing.timesteps(request.num_inference_steps)?.into_iter().map(|t| t.round_ties_even() as i64).collect();
    let stride = i64::from(spacing.num_train_timesteps / request.num_inference_steps);
    let visits = if fields.flag("skip_prk_steps", false)? {
        multistep_alone(&falling, stride, request.begin(falling.len())?)
    } else {
        refuse_part_way(request)?;
        runge_kutta_first(&falling, stride)?
    };
    let after_last = if fields.flag("set_alpha_to_one", false)? { 1.0 } else { alphas_cumprod[0] };
    let highest = alphas_cumprod.len() - 1;
    let alpha_at = |t: i64| usize::try_from(t).map_or(after_last, |t| alphas_cumprod[t.min(highest)]);
    let Prediction(prediction_type) = fields.choice("prediction_type", Prediction(PredictionType::Epsilon))?;
    let stretch = |visit: &Visit| Stretch::new(prediction_type, alpha_at(visit.from), alpha_at(visit.to));
    let stretches = visits.iter().map(stretch).collect();
    let numbers = Numbers {
        timesteps: visits.iter().map(|visit| visit.timestep as f64).collect(),
        sigmas: None,
        init_noise_sigma: 1.0,
        noising: visits.iter().map(|visit| noising::of_alpha(alpha_at(visit.timestep))).collect(),
        // The visits are those that are left.
        begin: 0,
    };
    Ok(Schedule::new(ALGORITHM.class_name, numbers, Pndm { visits, stretches }))
}

/// One evaluation: what it is told, which outputs it combines, and over which stretch it moves which sample.
#[derive(Debug)]
struct Visit {
    timestep: i64,
    /// Weights of the outputs, newest first.
    combination: &'static [f64],
    from: i64,
    to: i64,
    /// Whether it moves the sample that was kept, not the current one.
    from_kept: bool,
    /// Whether it keeps the current sample.
    keeps: bool,
    /// How many outputs, newest first, are forgotten afterwards.
    forgets: usize,
}

/// Adams and Bashforth's weights for as many outputs as there are, at most four (eq. 9).
const MULTISTEP: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// A multistep evaluation with `known` outputs, its own included.
fn multistep(timestep: i64, stride: i64, known: usize) -> Visit {
    let combination = MULTISTEP[known.min(4) - 1];
    let to = timestep - stride;
    Visit { timestep, combination, from: timestep, to, from_kept: false, keeps: known == 1, forgets: 0 }
}

/// PLMS: the second evaluation repeats the first step with the mean of two outputs and is then forgotten.
///
/// Its timestep is the second one, told twice for that. As in diffusers, a start part-way (`begin` evaluations left out)
/// takes the first two that are left for this pair although they are two steps then (or, for a `begin` of 1, none), so the
/// sample is a step behind its timesteps from there on.
fn multistep_alone(falling: &[i64], stride: i64, begin: usize) -> Vec<Visit> {
    let twice = falling.iter().take(2).chain(falling.iter().skip(1));
    twice
        .skip(begin)
        .enumerate()
        .map(|(i, &t)| if i == 1 { repeated(t, stride) } else { multistep(t, stride, i.max(1)) })
        .collect()
}

/// The step before `timestep` once more.
fn repeated(timestep: i64, stride: i64) -> Visit {
    let (from, combination) = (timestep + stride, &[0.5, 0.5]);
    Visit { timestep, combination, from, to: timestep, from_kept: true, keeps: false, forgets: 1 }
}

/// Refuses to begin part-way where the Runge-Kutta start is: diffusers counts its four evaluations a step as steps and
/// moves the sample from the end of training, however little noise is in it.
fn refuse_part_way(request: &ScheduleRequest) -> Result<()> {
    match request.strength.filter(|strength| *strength != 1.0) {
        Some(strength) => Err(Error::new(
            ErrorKind::Usage,
            "strength",
            format!("this scheduler cannot begin part-way, with a `strength` of `{strength}`"),
        )
        .hint("use `plms`, or another scheduler")),
        None => Ok(()),
    }
}

/// Three steps of four evaluations (eq. 13), then the multistep, which knows their first outputs.
fn runge_kutta_first(falling: &[i64], stride: i64) -> Result<Vec<Visit>> {
    const STEPS: usize = 3;
    if falling.len() <= STEPS {
        return Err(Error::new(
            ErrorKind::Usage,
            "num_inference_steps",
            format!("cannot make `{}` steps", falling.len()),
        )
        .hint("this scheduler needs 4 or more; or use `plms`, which needs 1"));
    }
    let half = stride / 2;
    let mut visits = Vec::new();
    for step in 0..STEPS {
        let (start, next) = (falling[step], falling[step + 1]);
        let middle = next + half;
        // Evaluated at the start, twice in the middle, at the end; each moves from the start. Where the second and the last
        // arrive follows from their own timestep, as in diffusers.
        for (k, (timestep, to)) in
            [(start, start - half), (middle, middle), (middle, middle - half), (next, next)].into_iter().enumerate()
        {
            let combination: &[f64] = if k == 3 { &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0] } else { &[1.0] };
            let (from_kept, keeps, forgets) = (k > 0, k == 0, if k == 3 { 3 } else { 0 });
            visits.push(Visit { timestep, combination, from: start, to, from_kept, keeps, forgets });
        }
    }
    visits.extend(falling[STEPS..].iter().map(|t| multistep(*t, stride, 4)));
    Ok(visits)
}

/// The scalars with which a sample and a combined output move from one alpha to another (eq. 11); in f32 and in diffusers'
/// order, because from the highest level two large terms nearly cancel.
#[derive(Debug)]
struct Stretch {
    /// Weights of output and sample in the noise that the network means.
    epsilon: (f32, f32),
    sample: f32,
    difference: f32,
    divisor: f32,
}

impl Stretch {
    fn new(prediction_type: PredictionType, alpha_prod_t: f64, alpha_prod_t_prev: f64) -> Self {
        let (alpha, prev) = (alpha_prod_t as f32, alpha_prod_t_prev as f32);
        let epsilon = prediction_type.epsilon(alpha.sqrt().into(), (1.0 - alpha).sqrt().into());
        Stretch {
            epsilon: (epsilon.model_output as f32, epsilon.sample as f32),
            sample: (prev / alpha).sqrt(),
            difference: prev - alpha,
            divisor: alpha * (1.0 - prev).sqrt() + (alpha * (1.0 - alpha) * prev).sqrt(),
        }
    }

    /// Returns the moved sample.
    fn travel(&self, sample: &Array3<f32>, combined: &Array3<f32>) -> Array3<f32> {
        Zip::from(sample).and(combined).map_collect(|sample, output| {
            let epsilon = self.epsilon.0 * output + self.epsilon.1 * sample;
            self.sample * sample - self.difference * epsilon / self.divisor
        })
    }
}

#[derive(Debug)]
struct Pndm {
    visits: Vec<Visit>,
    stretches: Vec<Stretch>,
}

impl Solver for Pndm {
    /// `memory` is the kept sample, then the outputs, newest first.
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        _noise: &mut dyn Noise,
    ) -> Array3<f32> {
        let (visit, stretch) = (&self.visits[i], &self.stretches[i]);
        if visit.keeps {
            memory.drain(..memory.len().min(1));
            memory.insert(0, sample.clone());
        }
        memory.insert(1, model_output.to_owned());
        let start = if visit.from_kept { &memory[0] } else { sample };
        let outputs = visit.combination.iter().zip(&memory[1..]);
        let terms: Vec<_> = outputs.map(|(weight, output)| (*weight, output.view())).collect();
        let prev_sample = stretch.travel(start, &weighted_sum(&terms));
        memory.drain(1..=visit.forgets);
        // Three of earlier steps and up to four of this one.
        memory.truncate(1 + 7);
        prev_sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plms_evaluates_the_second_timestep_twice() {
        let timesteps = |falling: &[i64]| -> Vec<i64> {
            multistep_alone(falling, 250, 0).iter().map(|visit| visit.timestep).collect()
        };
        assert_eq!(timesteps(&[751, 501, 251, 1]), [751, 501, 501, 251, 1]);
        assert_eq!(timesteps(&[1]), [1]);
        let part_way = multistep_alone(&[751, 501, 251, 1], 250, 2);
        let moves: Vec<_> = part_way.iter().map(|visit| (visit.timestep, visit.from, visit.to)).collect();
        assert_eq!(moves, [(501, 501, 251), (251, 501, 251), (1, 1, -249)]);
    }

    #[test]
    fn runge_kutta_needs_four_steps() {
        assert_eq!(runge_kutta_first(&[3, 2, 1], 1).expect_err("too few").code(), "num_inference_steps");
        assert_eq!(runge_kutta_first(&[750, 500, 250, 0], 250).expect("four").len(), 13);
    }
}
