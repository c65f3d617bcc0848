//! The lane pool: every UNet call is filled with whatever images need an evaluation, each at its own step.
//!
//! A lane is one entry of the UNet's batch axis. An image asks for two lanes while classifier-free guidance is on, else
//! for one; they may fall into different calls. Nothing an image computes depends on its neighbours, so its bits are
//! the same for any number of lanes and any order, as far as the network itself is batch-invariant.

use std::collections::VecDeque;
use std::sync::Arc;

use ndarray::{Array2, Array3, Array4, ArrayView3, Axis, s};

use super::networks::{TimestepInput, Unet};
use crate::error::{Error, ErrorKind, Result};
use crate::guidance::guide;
use crate::job::ImageTask;
use crate::noise::Noise;
use crate::scheduler::{Eval, Sampler};

/// The embedding of one text, `[sequence, width]` f32, shared by all images that use it.
pub type PromptEmbeds = Arc<Array2<f32>>;

/// An image on its way through the pool.
pub struct Member {
    task: ImageTask,
    sampler: Box<dyn Sampler>,
    noise: Box<dyn Noise>,
    prompt_embeds: PromptEmbeds,
    negative_prompt_embeds: Option<PromptEmbeds>,
    eval: Option<Eval>,
    noise_pred_uncond: Option<Array3<f32>>,
    noise_pred_text: Option<Array3<f32>>,
}

impl Member {
    /// Returns an image ready to enter the pool; guidance is on where there are negative embeddings.
    pub fn new(
        task: ImageTask,
        sampler: Box<dyn Sampler>,
        noise: Box<dyn Noise>,
        prompt_embeds: PromptEmbeds,
        negative_prompt_embeds: Option<PromptEmbeds>,
    ) -> Self {
        let eval = sampler.request();
        let (noise_pred_uncond, noise_pred_text) = (None, None);
        Member { task, sampler, noise, prompt_embeds, negative_prompt_embeds, eval, noise_pred_uncond, noise_pred_text }
    }

    fn eval(&self) -> &Eval {
        self.eval.as_ref().expect("a member in the pool waits for an evaluation")
    }

    fn embeds(&self, branch: Branch) -> &Array2<f32> {
        match (branch, &self.negative_prompt_embeds) {
            (Branch::Uncond, Some(embeds)) => embeds,
            _ => &self.prompt_embeds,
        }
    }

    fn receive(&mut self, branch: Branch, output: Array3<f32>) {
        match branch {
            Branch::Uncond => self.noise_pred_uncond = Some(output),
            Branch::Text => self.noise_pred_text = Some(output),
        }
    }

    /// Steps on once both predictions (or the only one) are there; returns whether it did.
    fn advance_if_complete(&mut self) -> bool {
        let guided = self.negative_prompt_embeds.is_some();
        let noise_pred = match (guided, self.noise_pred_uncond.take(), self.noise_pred_text.take()) {
            (true, Some(uncond), Some(text)) => {
                guide(uncond.view(), text.view(), self.task.job.guidance_scale, self.task.job.guidance_rescale)
            }
            (false, _, Some(text)) => text,
            (_, uncond, text) => {
                (self.noise_pred_uncond, self.noise_pred_text) = (uncond, text);
                return false;
            }
        };
        self.sampler.advance(noise_pred.view(), &mut *self.noise);
        self.eval = self.sampler.request();
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    Uncond,
    Text,
}

/// One lane's worth of work: which member, and which of its predictions.
#[derive(Debug, Clone, Copy)]
struct LaneRequest {
    slot: usize,
    branch: Branch,
}

/// An image that leaves the pool.
pub enum Departure {
    /// Its final latents `[channels, h, w]`, still multiplied by `scaling_factor`.
    Denoised(ImageTask, Array3<f32>),
    /// The network failed on it alone.
    Failed(ImageTask, Error),
}

/// See the module's text.
pub struct LanePool {
    lanes: usize,
    timestep_input: TimestepInput,
    members: Vec<Option<Member>>,
    queue: VecDeque<LaneRequest>,
}

impl LanePool {
    /// Returns an empty pool of `lanes` lanes, at least one.
    pub fn new(lanes: usize, timestep_input: TimestepInput) -> Self {
        LanePool { lanes: lanes.max(1), timestep_input, members: Vec::new(), queue: VecDeque::new() }
    }

    /// Returns whether the next call would leave a lane empty.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.lanes
    }

    /// Returns whether no image is in the pool.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes an image in. One with nothing to evaluate leaves with the next step.
    pub fn admit(&mut self, member: Member) {
        let slot = self.members.iter().position(Option::is_none).unwrap_or(self.members.len());
        if slot == self.members.len() {
            self.members.push(None);
        }
        self.enqueue(slot, member.negative_prompt_embeds.is_some());
        self.members[slot] = Some(member);
    }

    /// Makes one UNet call of up to `lanes` lanes, and returns the images that are finished after it and the number of
    /// lanes that were used.
    pub fn step(&mut self, unet: &mut dyn Unet) -> (Vec<Departure>, usize) {
        let requests = self.take_requests();
        let mut departures = Vec::new();
        match self.predict(unet, &requests) {
            Ok(outputs) => self.deliver(&requests, outputs, &mut departures),
            Err(_) if requests.len() > 1 => self.step_one_by_one(unet, &requests, &mut departures),
            Err(error) => self.expel(requests[0].slot, error, &mut departures),
        }
        (departures, requests.len())
    }

    fn enqueue(&mut self, slot: usize, guided: bool) {
        if guided {
            self.queue.push_back(LaneRequest { slot, branch: Branch::Uncond });
        }
        self.queue.push_back(LaneRequest { slot, branch: Branch::Text });
    }

    /// Takes the lanes of the next call from the queue, first come first served; where the graph has one timestep a call,
    /// those of the timestep that most of them share.
    fn take_requests(&mut self) -> Vec<LaneRequest> {
        if self.timestep_input == TimestepInput::PerLane {
            return self.queue.drain(..self.lanes.min(self.queue.len())).collect();
        }
        let timestep = self.commonest_timestep();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for request in std::mem::take(&mut self.queue) {
            let fits = taken.len() < self.lanes && self.member(request.slot).eval().timestep == timestep;
            if fits { taken.push(request) } else { left.push_back(request) }
        }
        self.queue = left;
        taken
    }

    fn commonest_timestep(&self) -> f64 {
        let mut counts: Vec<(f64, usize)> = Vec::new();
        for request in &self.queue {
            let timestep = self.member(request.slot).eval().timestep;
            match counts.iter_mut().find(|(value, _)| *value == timestep) {
                Some((_, count)) => *count += 1,
                None => counts.push((timestep, 1)),
            }
        }
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        counts.into_iter().find(|(_, count)| *count == most).map_or(0.0, |(timestep, _)| timestep)
    }

    fn member(&self, slot: usize) -> &Member {
        self.members[slot].as_ref().expect("a queued lane's member is in its slot")
    }

    fn predict(&self, unet: &mut dyn Unet, requests: &[LaneRequest]) -> Result<Array4<f32>> {
        let first = self.member(requests[0].slot);
        let (channels, height, width) = first.eval().model_input.dim();
        let (sequence, embed) = first.prompt_embeds.dim();
        let mut sample = Array4::zeros((requests.len(), channels, height, width));
        let mut states = Array3::zeros((requests.len(), sequence, embed));
        let mut timesteps = Vec::with_capacity(requests.len());
        for (lane, request) in requests.iter().enumerate() {
            let member = self.member(request.slot);
            sample.slice_mut(s![lane, .., .., ..]).assign(&member.eval().model_input);
            states.slice_mut(s![lane, .., ..]).assign(member.embeds(request.branch));
            timesteps.push(member.eval().timestep);
        }
        unet.predict(sample.view(), &timesteps, states.view())
    }

    fn deliver(&mut self, requests: &[LaneRequest], outputs: Array4<f32>, departures: &mut Vec<Departure>) {
        for (request, output) in requests.iter().zip(outputs.axis_iter(Axis(0))) {
            self.deliver_one(*request, output, departures);
        }
    }

    fn deliver_one(&mut self, request: LaneRequest, output: ArrayView3<'_, f32>, departures: &mut Vec<Departure>) {
        let member = self.members[request.slot].as_mut().expect("a queued lane's member is in its slot");
        member.receive(request.branch, output.to_owned());
        if !member.advance_if_complete() {
            return;
        }
        let guided = member.negative_prompt_embeds.is_some();
        if member.eval.is_some() {
            self.enqueue(request.slot, guided);
        } else if let Some(member) = self.members[request.slot].take() {
            departures.push(Departure::Denoised(member.task, member.sampler.latents().to_owned()));
        }
    }

    /// A call failed: repeats its lanes alone, so that only the images that cause it fail.
    fn step_one_by_one(&mut self, unet: &mut dyn Unet, requests: &[LaneRequest], departures: &mut Vec<Departure>) {
        for request in requests {
            if self.members[request.slot].is_none() {
                continue;
            }
            match self.predict(unet, std::slice::from_ref(request)) {
                Ok(outputs) => self.deliver(std::slice::from_ref(request), outputs, departures),
                Err(error) => self.expel(request.slot, error, departures),
            }
        }
    }

    fn expel(&mut self, slot: usize, error: Error, departures: &mut Vec<Departure>) {
        self.queue.retain(|request| request.slot != slot);
        if let Some(member) = self.members[slot].take() {
            let error = Error::new(ErrorKind::Row, "unet_failed", format!("the UNet failed: {error}")).source(error);
            departures.push(Departure::Failed(member.task, error));
        }
    }
}
