//! The schedules that jobs ask for: each kind is computed once, and shared by the images that have the same.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::recipe::Recipe;
use crate::scheduler::{Schedule, ScheduleRequest, SchedulerConfig};

/// Schedules of a model, as they were asked for.
pub struct Schedules<'a> {
    config: &'a SchedulerConfig,
    recipe: &'a Recipe,
    /// For jobs that set nothing rare: they are many, and quickly compared.
    plain: HashMap<Plain, Result<Arc<Schedule>, Error>>,
    computed: HashMap<String, Result<Arc<Schedule>, Error>>,
}

/// What decides the schedule of a plain job: scheduler, steps, width and height.
type Plain = (Arc<str>, u32, u32, u32);

impl<'a> Schedules<'a> {
    /// Returns schedules that are derived from the model's `config`.
    pub fn new(config: &'a SchedulerConfig, recipe: &'a Recipe) -> Self {
        Schedules { config, recipe, plain: HashMap::new(), computed: HashMap::new() }
    }

    /// Returns the schedule that `job` asks for.
    ///
    /// # Errors
    /// What the scheduler says when it has no such schedule.
    pub fn of(&mut self, job: &Job) -> Result<Arc<Schedule>> {
        if job.rare.is_some() {
            return self.computed(job);
        }
        let key = (job.scheduler.clone(), job.num_inference_steps, job.width, job.height);
        if !self.plain.contains_key(&key) {
            let schedule = self.computed(job);
            self.plain.insert(key.clone(), schedule);
        }
        self.plain[&key].as_ref().map(Arc::clone).map_err(Error::again)
    }

    fn computed(&mut self, job: &Job) -> Result<Arc<Schedule>> {
        let request = request(self.recipe, job);
        let key = format!("{} {request:?}", job.scheduler);
        let compute = || compute(self.config, self.recipe, job, request);
        self.computed.entry(key).or_insert_with(compute).as_ref().map(Arc::clone).map_err(Error::again)
    }
}

fn compute(
    config: &SchedulerConfig,
    recipe: &Recipe,
    job: &Job,
    mut request: ScheduleRequest,
) -> Result<Arc<Schedule>> {
    let config = config.select(&job.scheduler)?;
    let custom = request.sigmas.is_some() || request.timesteps.is_some();
    // Flux's pipelines hand these to a scheduler that has no flow levels of its own (diffusers 0.42.1, `pipeline_flux.py`).
    if recipe.linear_sigmas && !custom && !config.has_own_flow_sigmas() {
        let n = request.num_inference_steps;
        request.sigmas = Some((0..n).map(|i| 1.0 - f64::from(i) / f64::from(n)).collect());
    }
    config.schedule(&request).map(Arc::new)
}

fn request(recipe: &Recipe, job: &Job) -> ScheduleRequest {
    ScheduleRequest {
        num_inference_steps: job.num_inference_steps,
        eta: job.rare().eta,
        strength: super::images::partial_strength(recipe, job),
        strength_keeps_steps: recipe.strength_keeps_steps,
        timesteps: job.rare().timesteps.as_ref().map(|timesteps| timesteps.to_vec()),
        sigmas: job.rare().sigmas.as_ref().map(|sigmas| sigmas.to_vec()),
        image_seq_len: recipe.patch_size.map(|_| recipe.image_seq_len(job.width, job.height)),
    }
}
