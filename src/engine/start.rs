//! How an image enters the pool: its embeddings, its schedule, its own noise, the picture that it starts from.

use std::sync::Arc;

use ndarray::{Array1, Array3};

use super::embeddings::Embeddings;
use super::images::{Images, Start};
use super::member::{Lane, Member, TextEmbeds};
use super::schedules::Schedules;
use crate::error::{Error, Result};
use crate::guidance::Guidance;
use crate::job::{ImageTask, Job};
use crate::noise::NoiseKind;
use crate::recipe::{GuidanceStyle, Recipe, TimeIds};
use crate::scheduler::SchedulerConfig;

/// Makes pool members of tasks.
pub struct Starter<'a> {
    embeddings: Embeddings<'a>,
    images: Images<'a>,
    recipe: &'a Recipe,
    schedules: Schedules<'a>,
    noise: NoiseKind,
}

impl<'a> Starter<'a> {
    /// Returns a starter; schedules are derived from the model's `config`.
    pub fn new(
        embeddings: Embeddings<'a>,
        images: Images<'a>,
        recipe: &'a Recipe,
        config: &'a SchedulerConfig,
        noise: NoiseKind,
    ) -> Self {
        Starter { embeddings, images, recipe, schedules: Schedules::new(config, recipe), noise }
    }

    /// Encodes the texts of images that will be started next, many in one call.
    pub fn prepare(&mut self, tasks: &[&'a ImageTask]) {
        // A text that cannot be encoded fails its own image when that is started, not the batch.
        let _ = self.embeddings.prepare(tasks);
    }

    /// Returns `task` as a pool member, for its `retry`-th picture beyond the first.
    ///
    /// # Errors
    /// The image cannot be started.
    pub fn start(&mut self, task: &'a ImageTask, retry: u32) -> Result<Member, (ImageTask, Error)> {
        self.member(task, task.retried(retry)).map_err(|error| (task.clone(), error))
    }

    fn member(&mut self, task: &'a ImageTask, with_seed: ImageTask) -> Result<Member> {
        let embeds = self.embeddings.of(task)?;
        let schedule = self.schedules.of(&task.job)?;
        let mut noise = self.noise.source(with_seed.seed);
        let Start { sampler, image_channels, kept } = self.images.start(&task.job, &schedule, &mut *noise)?;
        let guidance = guidance(self.recipe, &task.job);
        let lanes = lanes(self.recipe, &task.job, guidance, embeds, image_channels);
        let guided = task.job.guided(schedule.evaluations());
        Ok(Member::new(with_seed, sampler, noise, guidance, lanes, kept)
            .guided_in(guided)
            .cached(task.job.rare().cache_interval))
    }
}

fn guidance(recipe: &Recipe, job: &Job) -> Guidance {
    match recipe.guidance {
        _ if !job.do_classifier_free_guidance() => Guidance::Off,
        GuidanceStyle::TextAndImage => {
            Guidance::TextAndImage { scale: job.guidance_scale, image_scale: job.rare().image_guidance_scale }
        }
        _ => Guidance::ClassifierFree { scale: job.guidance_scale, rescale: job.rare().guidance_rescale },
    }
}

/// Returns the lanes of an image in the order in which `guidance` takes their predictions.
fn lanes(
    recipe: &Recipe,
    job: &Job,
    guidance: Guidance,
    (prompt, negative): (Arc<TextEmbeds>, Option<Arc<TextEmbeds>>),
    image_channels: Option<Arc<Array3<f32>>>,
) -> Vec<Lane> {
    let negative = negative.unwrap_or_else(|| prompt.clone());
    let lane = |embeds: &Arc<TextEmbeds>, positive: bool, image_channels: &Option<Arc<Array3<f32>>>| Lane {
        embeds: embeds.clone(),
        time_ids: recipe.time_ids.map(|kind| time_ids(kind, job, positive)),
        image_channels: image_channels.clone(),
    };
    let text = lane(&prompt, true, &image_channels);
    match guidance {
        Guidance::Off => vec![text],
        Guidance::ClassifierFree { .. } => vec![lane(&negative, false, &image_channels), text],
        Guidance::TextAndImage { .. } => {
            let none = image_channels.as_ref().map(|image| Arc::new(Array3::zeros(image.dim())));
            vec![lane(&negative, false, &none), lane(&negative, false, &image_channels), text]
        }
    }
}

/// Returns `time_ids` of the prompt's lane or (not `positive`) the negative one: heights before widths (diffusers 0.42.1,
/// `_get_add_time_ids` of the SDXL pipelines).
fn time_ids(kind: TimeIds, job: &Job, positive: bool) -> Array1<f32> {
    let (size, micro) = ((job.width, job.height), &job.rare().micro);
    let (width, height) = micro.original_size.unwrap_or(size);
    // Where scores are told, diffusers takes the crop for the prompt only.
    let crop = micro.crops_coords_top_left.filter(|_| positive || kind == TimeIds::Sizes);
    let (top, left) = crop.unwrap_or((0, 0));
    let mut ids = vec![height as f32, width as f32, top as f32, left as f32];
    match kind {
        TimeIds::Sizes => {
            let (width, height) = micro.target_size.unwrap_or(size);
            ids.extend([height as f32, width as f32]);
        }
        TimeIds::AestheticScore if positive => ids.push(micro.aesthetic_score.unwrap_or(6.0) as f32),
        TimeIds::AestheticScore => ids.push(micro.negative_aesthetic_score.unwrap_or(2.5) as f32),
    }
    Array1::from_vec(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::MicroConditioning;
    use crate::job::testing::job;
    use crate::recipe::testing::recipe;

    fn embeds(value: f32) -> Arc<TextEmbeds> {
        Arc::new(TextEmbeds { hidden_states: ndarray::Array2::from_elem((1, 1), value), pooled: None })
    }

    #[test]
    fn time_ids_are_heights_before_widths() {
        let mut job = job(0);
        (job.width, job.height) = (128, 64);
        let micro = MicroConditioning { original_size: Some((640, 480)), ..MicroConditioning::default() };
        job.rare_mut().micro =
            MicroConditioning { crops_coords_top_left: Some((8, 16)), aesthetic_score: Some(7.0), ..micro };
        assert_eq!(time_ids(TimeIds::Sizes, &job, true).to_vec(), [480.0, 640.0, 8.0, 16.0, 64.0, 128.0]);
        assert_eq!(time_ids(TimeIds::AestheticScore, &job, true).to_vec(), [480.0, 640.0, 8.0, 16.0, 7.0]);
        assert_eq!(time_ids(TimeIds::AestheticScore, &job, false).to_vec(), [480.0, 640.0, 0.0, 0.0, 2.5]);
    }

    #[test]
    fn an_edited_picture_has_a_lane_without_the_picture() {
        let image = Some(Arc::new(Array3::ones((4, 2, 2))));
        let guidance = Guidance::TextAndImage { scale: 7.0, image_scale: 1.5 };
        let lanes = lanes(&recipe(), &job(0), guidance, (embeds(1.0), Some(embeds(0.0))), image);
        let sums = lanes.iter().map(|lane| lane.image_channels.as_ref().expect("given").sum());
        assert_eq!(sums.collect::<Vec<_>>(), [0.0, 16.0, 16.0]);
        let texts = lanes.iter().map(|lane| lane.embeds.hidden_states[[0, 0]]);
        assert_eq!(texts.collect::<Vec<_>>(), [0.0, 0.0, 1.0]);
    }
}
