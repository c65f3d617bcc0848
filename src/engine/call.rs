//! The tensors of one UNet call, put together from lanes of different images.

use std::sync::Arc;

use ndarray::{Array1, Array2, Array3, Array4, s};

use super::member::{Member, TextEmbeds};
use super::networks::UnetInputs;

/// The tensors of one call, filled lane by lane.
pub(super) struct Call {
    sample: Array4<f32>,
    timesteps: Vec<f64>,
    encoder_hidden_states: Array3<f32>,
    pooled: Option<Array2<f32>>,
    time_ids: Option<Array2<f32>>,
    guidance_scales: Vec<f64>,
}

/// What of a lane is the same at every step. Texts are told apart by where they are kept: two equal ones that were encoded
/// twice count as different.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    embeds: Arc<TextEmbeds>,
    time_ids: Option<Array1<f32>>,
    guidance_scale: f64,
}

impl Conditions {
    /// Returns those of one lane of `member`.
    pub(super) fn of(member: &Member, lane: usize) -> Self {
        let lane = &member.lanes[lane];
        let guidance_scale = member.task.job.guidance_scale;
        Conditions { embeds: lane.embeds.clone(), time_ids: lane.time_ids.clone(), guidance_scale }
    }
}

impl PartialEq for Conditions {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.embeds, &other.embeds)
            && self.time_ids == other.time_ids
            && self.guidance_scale == other.guidance_scale
    }
}

impl Call {
    /// Returns zeros for `count` lanes with the shapes of `member`'s.
    pub(super) fn for_lanes_like(member: &Member, count: usize) -> Self {
        let lane = &member.lanes[0];
        let (channels, height, width) = sample_shape(member);
        let (sequence, embed) = lane.embeds.hidden_states.dim();
        Call {
            sample: Array4::zeros((count, channels, height, width)),
            timesteps: vec![0.0; count],
            encoder_hidden_states: Array3::zeros((count, sequence, embed)),
            pooled: lane.embeds.pooled.as_ref().map(|pooled| Array2::zeros((count, pooled.len()))),
            time_ids: lane.time_ids.as_ref().map(|ids| Array2::zeros((count, ids.len()))),
            guidance_scales: vec![0.0; count],
        }
    }

    /// Returns whether lanes of `member` have the shape of these.
    pub(super) fn fits(&self, member: &Member) -> bool {
        let (_, channels, height, width) = self.sample.dim();
        (channels, height, width) == sample_shape(member)
    }

    /// Puts what changes from step to step of one lane of `member` at place `at`.
    pub(super) fn set(&mut self, at: usize, member: &Member, lane: usize) {
        let (eval, lane) = (member.eval(), &member.lanes[lane]);
        let channels = eval.model_input.dim().0;
        self.sample.slice_mut(s![at, ..channels, .., ..]).assign(&eval.model_input);
        if let Some(image) = &lane.image_channels {
            self.sample.slice_mut(s![at, channels.., .., ..]).assign(&**image);
        }
        self.timesteps[at] = eval.timestep;
    }

    /// Puts what is the same at every step of one lane of `member` at place `at`.
    pub(super) fn set_conditions(&mut self, at: usize, member: &Member, lane: usize) {
        let lane = &member.lanes[lane];
        self.encoder_hidden_states.slice_mut(s![at, .., ..]).assign(&lane.embeds.hidden_states);
        if let (Some(all), Some(pooled)) = (&mut self.pooled, &lane.embeds.pooled) {
            all.row_mut(at).assign(pooled);
        }
        if let (Some(all), Some(ids)) = (&mut self.time_ids, &lane.time_ids) {
            all.row_mut(at).assign(ids);
        }
        self.guidance_scales[at] = member.task.job.guidance_scale;
    }

    /// Returns what the network gets.
    pub(super) fn inputs(&self) -> UnetInputs<'_> {
        UnetInputs {
            sample: self.sample.view(),
            timesteps: &self.timesteps,
            encoder_hidden_states: self.encoder_hidden_states.view(),
            pooled: self.pooled.as_ref().map(|pooled| pooled.view()),
            time_ids: self.time_ids.as_ref().map(|ids| ids.view()),
            guidance_scales: &self.guidance_scales,
        }
    }
}

/// Channels, those of an image included, height and width of what the network sees.
fn sample_shape(member: &Member) -> (usize, usize, usize) {
    let (channels, height, width) = member.eval().model_input.dim();
    let image_channels = member.lanes[0].image_channels.as_ref().map_or(0, |image| image.dim().0);
    (channels + image_channels, height, width)
}
