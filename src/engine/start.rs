//! How an image enters the pool: its embeddings, its schedule, its own noise.

use std::collections::HashMap;
use std::sync::Arc;

use super::embeddings::Embeddings;
use super::pool::Member;
use crate::error::{Error, Result};
use crate::job::ImageTask;
use crate::noise::NoiseKind;
use crate::scheduler::{Schedule, ScheduleRequest, SchedulerConfig};

/// Images whose texts are encoded together.
const AHEAD: usize = 16;

/// Makes pool members of tasks.
pub struct Starter<'a> {
    embeddings: Embeddings<'a>,
    config: &'a SchedulerConfig,
    noise: NoiseKind,
    latent_channels: usize,
    vae_scale_factor: u32,
    schedules: HashMap<(String, u32, u64), Arc<Schedule>>,
    prepared: usize,
}

impl<'a> Starter<'a> {
    /// Returns a starter; schedules are derived from the model's `config` and shared by the images that have the same.
    pub fn new(
        embeddings: Embeddings<'a>,
        config: &'a SchedulerConfig,
        noise: NoiseKind,
        latent_channels: usize,
        vae_scale_factor: u32,
    ) -> Self {
        Starter { embeddings, config, noise, latent_channels, vae_scale_factor, schedules: HashMap::new(), prepared: 0 }
    }

    /// Takes the first of `waiting` and returns it as a pool member.
    ///
    /// # Errors
    /// The image cannot be started.
    pub fn start(&mut self, waiting: &mut &'a [ImageTask]) -> Result<Member, (ImageTask, Error)> {
        if self.prepared == 0 {
            self.prepared = waiting.len().min(AHEAD);
            // A text that cannot be encoded fails its own image below, not the batch.
            let _ = self.embeddings.prepare(&waiting[..self.prepared]);
        }
        let (task, rest) = waiting.split_first().expect("the caller has a task left");
        *waiting = rest;
        self.prepared -= 1;
        self.member(task).map_err(|error| (task.clone(), error))
    }

    fn member(&mut self, task: &'a ImageTask) -> Result<Member> {
        let (prompt_embeds, negative_prompt_embeds) = self.embeddings.of(task)?;
        let schedule = self.schedule(task)?;
        let mut noise = self.noise.source(task.seed);
        let rows = (task.job.height / self.vae_scale_factor) as usize;
        let columns = (task.job.width / self.vae_scale_factor) as usize;
        let latents = noise.draw((self.latent_channels, rows, columns));
        Ok(Member::new(task.clone(), schedule.start(latents), noise, prompt_embeds, negative_prompt_embeds))
    }

    fn schedule(&mut self, task: &ImageTask) -> Result<Arc<Schedule>> {
        let job = &task.job;
        let key = (job.scheduler.clone(), job.num_inference_steps, job.eta.to_bits());
        if let Some(schedule) = self.schedules.get(&key) {
            return Ok(schedule.clone());
        }
        let request = ScheduleRequest { eta: job.eta, ..ScheduleRequest::steps(job.num_inference_steps) };
        let schedule = Arc::new(self.config.select(&job.scheduler)?.schedule(&request)?);
        self.schedules.insert(key, schedule.clone());
        Ok(schedule)
    }
}
