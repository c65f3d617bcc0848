//! A computed schedule, and the state machine that carries one image along it.

use std::fmt;
use std::sync::Arc;

use ndarray::{Array3, ArrayView3, Zip};
use serde::Serialize;

use crate::noise::Noise;

/// Everything that is known before the first evaluation: immutable, shared by all images with the same settings.
///
/// Serializes to `scheduler`, `timesteps`, `sigmas` (only where the algorithm has them) and `init_noise_sigma`.
#[derive(Debug, Serialize)]
pub struct Schedule {
    scheduler: &'static str,
    timesteps: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sigmas: Option<Vec<f64>>,
    init_noise_sigma: f64,
    /// Weights of picture and noise in the sample of each evaluation.
    #[serde(skip)]
    noising: Vec<(f64, f64)>,
    /// How many evaluations were left out at the start; the solver counts them.
    #[serde(skip)]
    begin: usize,
    #[serde(skip)]
    solver: Box<dyn Solver>,
}

/// What differs between algorithms: pure functions of the number of the evaluation, of the sample and of `memory`.
pub(super) trait Solver: fmt::Debug + Send + Sync {
    /// Returns what the network gets at evaluation `i` (diffusers: `scale_model_input`): the sample itself, unless an
    /// algorithm scales it.
    fn model_input(&self, _i: usize, sample: &Array3<f32>) -> Array3<f32> {
        sample.clone()
    }

    /// Returns `prev_sample` after evaluation `i` gave `model_output`; all tensors `[channels, height, width]`.
    ///
    /// `memory` is the image's own, empty at first: an algorithm keeps in it what it needs of earlier evaluations.
    fn step(
        &self,
        i: usize,
        model_output: ArrayView3<'_, f32>,
        sample: &Array3<f32>,
        memory: &mut Vec<Array3<f32>>,
        noise: &mut dyn Noise,
    ) -> Array3<f32>;
}

/// The numbers of a schedule, from which [`Schedule::new`] makes one.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Option<Vec<f64>>,
    pub(super) init_noise_sigma: f64,
    /// Weights of picture and noise in the sample of each evaluation.
    pub(super) noising: Vec<(f64, f64)>,
    /// The evaluation that is made first; those before it are left out.
    pub(super) begin: usize,
}

impl Schedule {
    pub(super) fn new(scheduler: &'static str, numbers: Numbers, solver: impl Solver + 'static) -> Self {
        let Numbers { mut timesteps, mut sigmas, init_noise_sigma, mut noising, begin } = numbers;
        timesteps.drain(..begin);
        noising.drain(..begin);
        sigmas.iter_mut().for_each(|sigmas| drop(sigmas.drain(..begin)));
        Schedule { scheduler, timesteps, sigmas, init_noise_sigma, noising, begin, solver: Box::new(solver) }
    }

    /// Returns diffusers' class name of the algorithm.
    pub fn scheduler(&self) -> &'static str {
        self.scheduler
    }

    /// Returns the values handed to the network, one an evaluation, falling (rising with `invert_sigmas`).
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// Returns the noise levels between the evaluations (one more than timesteps, falling; rising with
    /// `invert_sigmas`), where the algorithm has them.
    pub fn sigmas(&self) -> Option<&[f64]> {
        self.sigmas.as_deref()
    }

    /// Returns the standard deviation of initial latents that are nothing but noise.
    pub fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    /// Returns how many evaluations of the network one image takes.
    pub fn evaluations(&self) -> usize {
        self.timesteps.len()
    }

    /// Returns the weights of picture and noise in the sample of an evaluation; `None` from `evaluations()` on.
    pub fn mixing(&self, evaluation_index: usize) -> Option<(f64, f64)> {
        self.noising.get(evaluation_index).copied()
    }

    /// Starts one image from unit `noise` `[channels, height, width]`, which this multiplies by `init_noise_sigma`.
    pub fn start(self: &Arc<Self>, noise: Array3<f32>) -> Box<dyn Sampler> {
        self.start_from(noise * self.init_noise_sigma as f32)
    }

    /// Starts one image from `latents` `[channels, height, width]` as they are: those of a picture with the noise of the
    /// first evaluation (see [`Schedule::add_noise`]).
    pub fn start_from(self: &Arc<Self>, latents: Array3<f32>) -> Box<dyn Sampler> {
        Box::new(Path { schedule: Arc::clone(self), evaluation: 0, latents, memory: Vec::new() })
    }

    /// Returns the sample that `original` would be at an evaluation, with this unit `noise`, all `[channels, height,
    /// width]`: diffusers' `add_noise` or `scale_noise` of the class, at the timestep of that number.
    ///
    /// At 0 it is what image-to-image starts from; inpainting keeps what lies outside its mask at evaluation `i + 1` after
    /// step `i`. From `evaluations()` on, when the image is done, it is `original`.
    ///
    /// # Panics
    /// The shapes differ.
    pub fn add_noise(
        &self,
        evaluation_index: usize,
        original: ArrayView3<'_, f32>,
        noise: ArrayView3<'_, f32>,
    ) -> Array3<f32> {
        let Some(&(picture, fresh)) = self.noising.get(evaluation_index) else { return original.to_owned() };
        // In f32, as diffusers computes it: from high levels, the same rounding gives the same picture.
        let (picture, fresh) = (picture as f32, fresh as f32);
        Zip::from(original).and(noise).map_collect(|original, noise| picture * original + fresh * noise)
    }
}

/// What an image wants evaluated next.
#[derive(Debug, Clone, PartialEq)]
pub struct Eval {
    /// Latents as the network takes them (scaled), `[channels, height, width]`.
    pub model_input: Array3<f32>,
    /// The timestep to hand to the network.
    pub timestep: f64,
}

/// One image on its way from noise to latents.
pub trait Sampler: Send {
    /// Returns the evaluation that [`Sampler::advance`] needs next; `None` when the image is done.
    fn request(&self) -> Option<Eval>;

    /// Takes the (guided) output of the network for the last request and moves one evaluation on.
    ///
    /// Draws from `noise` exactly where diffusers draws from its generator: one draw a step for ancestral and SDE
    /// algorithms (the last step too, where its weight is zero) and for DDIM with `eta` > 0, else none.
    /// Does nothing when the image is done.
    fn advance(&mut self, model_output: ArrayView3<'_, f32>, noise: &mut dyn Noise);

    /// Returns the current latents `[channels, height, width]`; when done, the scaled latents of the picture.
    fn latents(&self) -> ArrayView3<'_, f32>;

    /// Returns the weights of picture and noise in the current latents; `None` when the image is done.
    fn mixing(&self) -> Option<(f64, f64)>;

    /// Puts `latents` of the same shape in place of the current ones, before the next request.
    fn replace_latents(&mut self, latents: Array3<f32>);

    /// Returns `original` with `noise` as the next evaluation would have it; see [`Schedule::add_noise`].
    fn noised(&self, original: ArrayView3<'_, f32>, noise: ArrayView3<'_, f32>) -> Array3<f32>;
}

/// The only [`Sampler`]: the position on a schedule, and what was kept from earlier evaluations.
struct Path {
    schedule: Arc<Schedule>,
    evaluation: usize,
    latents: Array3<f32>,
    memory: Vec<Array3<f32>>,
}

impl Sampler for Path {
    fn request(&self) -> Option<Eval> {
        let timestep = *self.schedule.timesteps.get(self.evaluation)?;
        let model_input = self.schedule.solver.model_input(self.schedule.begin + self.evaluation, &self.latents);
        Some(Eval { model_input, timestep })
    }

    fn advance(&mut self, model_output: ArrayView3<'_, f32>, noise: &mut dyn Noise) {
        if self.evaluation < self.schedule.evaluations() {
            let (solver, i) = (&self.schedule.solver, self.schedule.begin + self.evaluation);
            self.latents = solver.step(i, model_output, &self.latents, &mut self.memory, noise);
            self.evaluation += 1;
        }
    }

    fn latents(&self) -> ArrayView3<'_, f32> {
        self.latents.view()
    }

    fn mixing(&self) -> Option<(f64, f64)> {
        self.schedule.mixing(self.evaluation)
    }

    fn replace_latents(&mut self, latents: Array3<f32>) {
        self.latents = latents;
    }

    fn noised(&self, original: ArrayView3<'_, f32>, noise: ArrayView3<'_, f32>) -> Array3<f32> {
        self.schedule.add_noise(self.evaluation, original, noise)
    }
}
