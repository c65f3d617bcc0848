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
    computed: HashMap<String, Result<Arc<Schedule>, Error>>,
}

impl<'a> Schedules<'a> {
    /// Returns schedules that are derived from the model's `config`.
    pub fn new(config: &'a SchedulerConfig, recipe: &'a Recipe) -> Self {
        Schedules { config, recipe, computed: HashMap::new() }
    }

    /// Returns the schedule that `job` asks for.
    ///
    /// # Errors
    /// What the scheduler says when it has no such schedule.
    pub fn of(&mut self, job: &Job) -> Result<Arc<Schedule>> {
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
        eta: job.eta,
        strength: super::images::partial_strength(recipe, job),
        strength_keeps_steps: recipe.strength_keeps_steps,
        timesteps: job.timesteps.as_ref().map(|timesteps| timesteps.to_vec()),
        sigmas: job.sigmas.as_ref().map(|sigmas| sigmas.to_vec()),
        image_seq_len: recipe.patch_size.map(|_| recipe.image_seq_len(job.width, job.height)),
    }
}
