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
        let compute = || self.config.select(&job.scheduler)?.schedule(&request).map(Arc::new);
        self.computed.entry(key).or_insert_with(compute).as_ref().map(Arc::clone).map_err(Error::again)
    }
}

fn request(recipe: &Recipe, job: &Job) -> ScheduleRequest {
    let n = job.num_inference_steps;
    let own = job.sigmas.as_ref().map(|sigmas| sigmas.to_vec());
    // Flux's pipelines hand these to the scheduler (diffusers 0.42.1, `pipeline_flux.py`).
    let linear = || (0..n).map(|i| 1.0 - f64::from(i) / f64::from(n)).collect();
    let custom = own.is_some() || job.timesteps.is_some();
    ScheduleRequest {
        num_inference_steps: n,
        eta: job.eta,
        strength: super::images::partial_strength(recipe, job),
        strength_keeps_steps: recipe.strength_keeps_steps,
        timesteps: job.timesteps.as_ref().map(|timesteps| timesteps.to_vec()),
        sigmas: own.or_else(|| (recipe.linear_sigmas && !custom).then(linear)),
        image_seq_len: recipe.patch_size.map(|_| recipe.image_seq_len(job.width, job.height)),
    }
}
