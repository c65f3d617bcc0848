//! Encode → lane pool (denoise) → decode, over traits: no files, no ONNX Runtime.

mod call;
mod decode;
mod embeddings;
mod images;
mod member;
mod networks;
mod pool;
mod probe;
mod schedules;
mod start;
mod tiles;

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};
use image::RgbImage;

pub use embeddings::{Embeddings, PromptStyle, TextPart};
pub use images::{Images, ReadImage};
pub use member::{Kept, Lane, Member, TextEmbeds};
pub use networks::{Encoded, LatentDistribution, TextEncoder, TimestepInput, Unet, UnetInputs, VaeDecoder, VaeEncoder};
pub use pool::{Departure, LanePool};
pub use probe::{UnetEntry, probe_unet, probe_vae};
pub use schedules::Schedules;
pub use start::Starter;
pub use tiles::{TiledVae, Tiling};

use crate::error::Error;
use crate::job::ImageTask;
use crate::plan::{Bucket, Plan};
use crate::recipe::LatentSpace;

/// A finished picture.
pub struct Generated {
    /// What was asked for.
    pub task: ImageTask,
    /// The pixels.
    pub image: RgbImage,
}

/// What became of an image.
pub enum Outcome {
    /// It was made.
    Done(Generated),
    /// It could not be made; its neighbours are not affected.
    Failed(ImageTask, Error),
}

/// What the engine is told apart from the work itself.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Entries of the UNet's batch axis.
    pub lanes: usize,
    /// Pictures per call of the VAE decoder, at most.
    pub vae_batch: usize,
}

/// Whether to go on; asked before every UNet call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Take new images in.
    Go,
    /// Finish what is in the pool, take nothing new.
    Drain,
    /// Leave everything as it is.
    Halt,
}

/// What the engine has done so far; others may read it while it works.
#[derive(Debug, Default)]
pub struct Counters {
    /// UNet calls.
    pub unet_calls: AtomicU64,
    /// Lanes used in them.
    pub lanes_used: AtomicU64,
    /// Lanes that there were in them.
    pub lanes_offered: AtomicU64,
}

/// The networks and what goes with them.
pub struct Engine<'a> {
    /// Makes pool members of tasks.
    pub starter: Starter<'a>,
    /// Estimates noise.
    pub unet: &'a mut dyn Unet,
    /// Turns latents into pixels.
    pub vae: &'a mut dyn VaeDecoder,
    /// How latents are scaled for the VAE.
    pub latents: &'a LatentSpace,
    /// Lanes and batches.
    pub settings: Settings,
    /// What has been done so far.
    pub counters: &'a Counters,
    /// Told of images before their first evaluation; where it says no, nothing more is made.
    pub begin: &'a dyn Fn(&[ImageTask]) -> bool,
}

impl<'a> Engine<'a> {
    /// Makes every image of `plan` and sends what becomes of each to `outcomes`, in the order of finishing. Decoding runs
    /// on a thread of its own. Returns early where `pace` says so, or when nobody listens to `outcomes` any more.
    pub fn generate(mut self, plan: &'a Plan, pace: &dyn Fn() -> Pace, outcomes: &Sender<Outcome>) {
        let Settings { lanes, vae_batch } = self.settings;
        let space = self.latents;
        std::thread::scope(|scope| {
            let (to_decoder, denoised) = bounded(2 * lanes.max(vae_batch));
            let (vae, sender) = (&mut *self.vae, outcomes.clone());
            scope.spawn(move || decode::decode_all(vae, space, vae_batch, &denoised, &sender));
            let emit = |departure| match departure {
                Departure::Denoised(task, latents) => to_decoder.send((task, latents)).is_ok(),
                Departure::Failed(task, error) => outcomes.send(Outcome::Failed(task, error)).is_ok(),
            };
            let mut denoiser = Denoiser {
                starter: &mut self.starter,
                unet: self.unet,
                lanes,
                counters: self.counters,
                begin: self.begin,
            };
            plan.buckets.iter().all(|bucket| denoiser.denoise(bucket, pace, &emit));
            drop(to_decoder);
        });
    }
}

struct Denoiser<'s, 'a> {
    starter: &'s mut Starter<'a>,
    unet: &'s mut dyn Unet,
    lanes: usize,
    counters: &'s Counters,
    begin: &'s dyn Fn(&[ImageTask]) -> bool,
}

impl<'a> Denoiser<'_, 'a> {
    /// Denoises the images of one size; returns whether the run goes on.
    fn denoise(&mut self, bucket: &'a Bucket, pace: &dyn Fn() -> Pace, emit: &dyn Fn(Departure) -> bool) -> bool {
        let mut pool = LanePool::new(self.lanes, self.unet.timestep_input());
        let mut waiting = bucket.tasks.as_slice();
        loop {
            let (pace, before) = (pace(), waiting);
            while pace == Pace::Go && pool.has_room() && !waiting.is_empty() {
                match self.starter.start(&mut waiting) {
                    Ok(member) => pool.admit(member),
                    Err((task, error)) => {
                        emit(Departure::Failed(task, error));
                    }
                }
            }
            let entered = &before[..before.len() - waiting.len()];
            if !entered.is_empty() && !(self.begin)(entered) {
                return false;
            }
            if pace == Pace::Halt || pool.is_empty() {
                return pace == Pace::Go;
            }
            let (departures, used) = pool.step(self.unet);
            self.counters.count(used, self.lanes);
            if !departures.into_iter().all(emit) {
                return false;
            }
        }
    }
}

impl Counters {
    fn count(&self, used: usize, offered: usize) {
        self.unet_calls.fetch_add(1, Ordering::Relaxed);
        self.lanes_used.fetch_add(used as u64, Ordering::Relaxed);
        self.lanes_offered.fetch_add(offered as u64, Ordering::Relaxed);
    }
}
