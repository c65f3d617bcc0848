//! One image on its way through the pool: its lanes, its sampler, its own noise.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array1, Array2, Array3, ArrayView3, Zip};

use crate::guidance::Guidance;
use crate::job::ImageTask;
use crate::noise::Noise;
use crate::scheduler::{Eval, Sampler};

/// The embeddings of one prompt, shared by all images that use it.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbeds {
    /// `[sequence, width]`.
    pub hidden_states: Array2<f32>,
    /// `[width]`, for models that take pooled embeddings.
    pub pooled: Option<Array1<f32>>,
}

/// What one lane of an image gives the network besides the sample and its timestep.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The embeddings.
    pub embeds: Arc<TextEmbeds>,
    /// Sizes and crops, for models that take them.
    pub time_ids: Option<Array1<f32>>,
    /// Channels after those of the sample `[channels, h, w]`, for models that take an image.
    pub image_channels: Option<Arc<Array3<f32>>>,
}

/// What inpainting with a model that knows no masks keeps: after each evaluation the latents outside of the mask are
/// those of the picture, at the noise level of the next evaluation (diffusers 0.42.1, `pipeline_stable_diffusion_inpaint.py`).
#[derive(Debug, Clone)]
pub struct Kept {
    /// 1 where the picture is made anew, else 0: `[1, h, w]`.
    pub mask: Array3<f32>,
    /// The picture's latents `[channels, h, w]`.
    pub image_latents: Array3<f32>,
    /// The noise that they are mixed with, of the same shape.
    pub noise: Array3<f32>,
}

/// See the module's text.
pub struct Member {
    pub(super) task: ImageTask,
    pub(super) lanes: Vec<Lane>,
    sampler: Box<dyn Sampler>,
    noise: Box<dyn Noise>,
    guidance: Guidance,
    kept: Option<Kept>,
    eval: Option<Eval>,
    /// Evaluations behind it.
    evaluation: usize,
    /// Those that are guided.
    guided: Range<usize>,
    predictions: Vec<Option<Array3<f32>>>,
    /// Every so many evaluations all of the network is evaluated; 1 for always.
    cache_interval: usize,
    depth: Depth,
    /// What the inner blocks gave each lane.
    features: Vec<Option<Array3<f32>>>,
}

/// How much of the network an evaluation takes (DeepCache: Ma et al. 2023, arXiv 2312.00858).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All of it, and nothing is kept.
    Plain,
    /// All of it, and what the inner blocks give is kept.
    Deep,
    /// What lies outside of the inner blocks.
    Shallow,
}

impl Member {
    /// Returns an image ready to enter the pool. `lanes` are as many as `guidance` takes, in its order.
    pub fn new(
        task: ImageTask,
        sampler: Box<dyn Sampler>,
        noise: Box<dyn Noise>,
        guidance: Guidance,
        lanes: Vec<Lane>,
        kept: Option<Kept>,
    ) -> Self {
        debug_assert_eq!(lanes.len(), guidance.lanes());
        let (eval, predictions) = (sampler.request(), vec![None; lanes.len()]);
        let (evaluation, guided) = (0, 0..usize::MAX);
        let (cache_interval, depth, features) = (1, Depth::Plain, vec![None; lanes.len()]);
        Member {
            task,
            lanes,
            sampler,
            noise,
            guidance,
            kept,
            eval,
            evaluation,
            guided,
            predictions,
            cache_interval,
            depth,
            features,
        }
    }

    /// Returns the same image, for which the network's inner blocks are evaluated every `interval`-th time only.
    pub fn cached(self, interval: u32) -> Self {
        let mut member = Member { cache_interval: interval.max(1) as usize, ..self };
        member.depth = member.next_depth();
        member
    }

    /// Returns how much of the network its evaluation takes. A lane that has kept nothing yet takes all of it, and the
    /// image's others with it.
    fn next_depth(&self) -> Depth {
        let has_all = || self.features[self.lanes_now()].iter().all(Option::is_some);
        match self.cache_interval {
            1 => Depth::Plain,
            interval if !self.evaluation.is_multiple_of(interval) && has_all() => Depth::Shallow,
            _ => Depth::Deep,
        }
    }

    /// Returns how much of the network its evaluation takes.
    pub(super) fn depth(&self) -> Depth {
        self.depth
    }

    /// Keeps what the inner blocks gave a lane.
    pub(super) fn keep(&mut self, lane: usize, features: Array3<f32>) {
        self.features[lane] = Some(features);
    }

    /// Returns what they gave it last.
    pub(super) fn features(&self, lane: usize) -> Option<ArrayView3<'_, f32>> {
        self.features[lane].as_ref().map(|features| features.view())
    }

    /// Returns the same image, with guidance in these of its evaluations only.
    pub fn guided_in(self, guided: Range<usize>) -> Self {
        Member { guided, ..self }
    }

    /// Returns which of its lanes the next evaluation takes: all, or without guidance the last, which has the prompt.
    pub(super) fn lanes_now(&self) -> Range<usize> {
        let all = self.lanes.len();
        if self.guided.contains(&self.evaluation) { 0..all } else { all - 1..all }
    }

    /// Returns what it waits for.
    pub(super) fn eval(&self) -> &Eval {
        self.eval.as_ref().expect("a member in the pool waits for an evaluation")
    }

    /// Returns whether it has nothing left to evaluate.
    pub(super) fn is_done(&self) -> bool {
        self.eval.is_none()
    }

    /// Returns its latents.
    pub(super) fn latents(&self) -> ArrayView3<'_, f32> {
        self.sampler.latents()
    }

    /// Returns how the predictions of its lanes become one.
    pub(super) fn guidance(&self) -> Guidance {
        self.guidance
    }

    /// Returns the weights of picture and noise in its latents; `None` when it is done.
    pub(super) fn mixing(&self) -> Option<(f64, f64)> {
        self.sampler.mixing()
    }

    /// Takes the prediction of one lane; steps on once those of all lanes that it waits for are there, and returns whether it
    /// did.
    pub(super) fn receive(&mut self, lane: usize, prediction: Array3<f32>) -> bool {
        self.predictions[lane] = Some(prediction);
        if self.predictions[self.lanes_now()].iter().any(Option::is_none) {
            return false;
        }
        let predictions: Vec<_> = self.predictions.iter_mut().filter_map(Option::take).collect();
        self.sampler.advance(self.guidance.join(&predictions).view(), &mut *self.noise);
        if let Some(kept) = &self.kept {
            let latents = kept.blend(&*self.sampler);
            self.sampler.replace_latents(latents);
        }
        self.eval = self.sampler.request();
        self.evaluation += 1;
        self.depth = self.next_depth();
        true
    }
}

impl Kept {
    fn blend(&self, sampler: &dyn Sampler) -> Array3<f32> {
        let kept = sampler.noised(self.image_latents.view(), self.noise.view());
        let latents = sampler.latents();
        let mask = self.mask.broadcast(latents.dim()).expect("the mask has the latents' height and width");
        Zip::from(&kept).and(&latents).and(&mask).map_collect(|&kept, &new, &mask| (1.0 - mask) * kept + mask * new)
    }
}
