//! Encode → lane pool (denoise) → decode, over traits: no files, no ONNX Runtime.

mod attempts;
mod call;
mod calls;
mod decode;
mod denoise;
mod embeddings;
mod gate;
mod images;
mod limit;
mod limits;
mod member;
mod networks;
mod pool;
mod probe;
mod schedules;
mod sizing;
mod start;
mod tiles;
mod trace;
mod work;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded, unbounded};
use image::RgbImage;

pub use denoise::KILLS_DEVICES;
pub use embeddings::{Embeddings, PromptStyle, TextPart};
pub use gate::Gate;
pub use images::{Images, ReadImage};
pub use limit::CallLimit;
pub use limits::{Limits, Network, Size};
pub use member::{Kept, Lane, Member, TextEmbeds};
pub use networks::{
    Encoded, LatentDistribution, Scorer, TextEncoder, TimestepInput, Unet, UnetInputs, VaeDecoder, VaeEncoder,
};
pub use pool::{Departure, LanePool, Step};
pub use probe::{UnetEntry, probe_unet, probe_vae, time_unet};
pub use schedules::Schedules;
pub use sizing::{Measured, find_lanes};
pub use start::Starter;
pub use tiles::{TiledVae, Tiling};
pub use trace::{Moment, Traced, sigma, trace};
pub use work::{Next, Work};

use crate::error::{Error, Result};
use crate::job::ImageTask;
use crate::pixels::{ONE_COLOUR, luma_std};
use crate::plan::Plan;
use crate::recipe::LatentSpace;
use crate::score::Scored;
use attempts::Attempts;
use decode::Decoder;
use denoise::{Denoiser, Ended};

/// A finished picture.
pub struct Generated {
    /// What was asked for, with the seed that the picture was made with.
    pub task: ImageTask,
    /// The pixels.
    pub image: RgbImage,
    /// Standard deviation of the picture's luma, as [`luma_std`] gives it.
    pub luma_std: f32,
    /// What the scorer says of it, where there is one.
    pub scored: Option<Scored>,
}

impl Generated {
    /// Returns the picture of `task`, not scored.
    pub fn new(task: ImageTask, image: RgbImage) -> Self {
        let luma_std = luma_std(&image);
        Generated { task, image, luma_std, scored: None }
    }

    /// Returns whether the picture is all but of one colour: such a picture is kept, but somebody should look at it.
    pub fn is_suspect(&self) -> bool {
        self.luma_std < ONE_COLOUR
    }
}

/// What became of an image.
pub enum Outcome {
    /// It was made.
    Done(Generated),
    /// It could not be made; its neighbours are not affected.
    Failed(ImageTask, Error),
}

impl Outcome {
    /// Returns the image.
    pub fn task(&self) -> &ImageTask {
        match self {
            Outcome::Done(Generated { task, .. }) | Outcome::Failed(task, _) => task,
        }
    }

    /// Returns the same for `task`, whose pixels are the same.
    pub fn for_task(&self, task: ImageTask) -> Outcome {
        match self {
            Outcome::Done(Generated { task: made, image, luma_std, scored }) => {
                let task = ImageTask { seed: made.seed, ..task };
                Outcome::Done(Generated { task, image: image.clone(), luma_std: *luma_std, scored: *scored })
            }
            Outcome::Failed(_, error) => Outcome::Failed(task, error.again()),
        }
    }
}

/// What the engine is told apart from the work itself.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Entries of the UNet's batch axis, at most.
    pub lanes: usize,
    /// Pixels that the lanes of a call make up together, if that is to be a limit too; two lanes always are allowed.
    pub pixels: Option<u64>,
    /// Pictures per call of the VAE decoder, at most.
    pub vae_batch: usize,
}

impl Settings {
    /// Returns how many lanes a call has for pictures of `size`.
    pub fn lanes_of(&self, (width, height): Size) -> usize {
        let area = (u64::from(width) * u64::from(height)).max(1);
        let fit = self.pixels.map(|pixels| usize::try_from(pixels / area).unwrap_or(usize::MAX).max(2));
        fit.unwrap_or(usize::MAX).min(self.lanes)
    }
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
    /// Lanes that there were in them: fewer than asked for where memory does not suffice.
    pub lanes_offered: AtomicU64,
    /// Images that came out as no numbers and were made once more.
    pub repeated: AtomicU64,
    /// Pictures that were made again, with another seed, because of their scores.
    pub retried: AtomicU64,
    /// How large calls may be, where memory does not suffice for what was asked for.
    pub limits: Limits,
}

/// The networks and what goes with them.
pub struct Engine<'a> {
    /// Makes pool members of tasks.
    pub starter: Starter<'a>,
    /// Estimates noise.
    pub unet: &'a mut dyn Unet,
    /// Turns latents into pixels.
    pub vae: &'a mut dyn VaeDecoder,
    /// Decodes latents that are finite and that `vae` gives no numbers for, one picture a call.
    pub fine_vae: Option<&'a mut dyn VaeDecoder>,
    /// Says of each picture whether it is good enough; without, all are.
    pub gate: Option<Gate<'a>>,
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
    /// Makes every image of `plan` on this device alone, as [`Engine::work`] does. Where the device is lost, the images that
    /// are left have failed.
    pub fn generate(self, plan: &'a Plan, pace: &dyn Fn() -> Pace, outcomes: &Sender<Outcome>) {
        let work = Work::new(plan, 1);
        if let Err(error) = self.work(&work, pace, outcomes) {
            for task in work.left() {
                // Who no longer listens does not want to know.
                let _ = outcomes.send(Outcome::Failed(task.clone(), error.again()));
            }
        }
    }

    /// Makes images of `work` until all are made, by this device or others, and sends what becomes of each to `outcomes`, in
    /// the order of finishing. Decoding runs on a thread of its own. Returns early where `pace` says so, or when nobody
    /// listens to `outcomes` any more.
    ///
    /// # Errors
    /// Kind `GpuLost`: the device is gone. The images that it had not finished are in `work` again.
    pub fn work(mut self, work: &Work<'a>, pace: &dyn Fn() -> Pace, outcomes: &Sender<Outcome>) -> Result<()> {
        let Settings { lanes, vae_batch, .. } = self.settings;
        std::thread::scope(|scope| {
            let (to_decoder, denoised) = bounded(2 * lanes.max(vae_batch));
            // Unbounded: the denoiser may wait for the decoder while the decoder has something to say.
            let (to_denoiser, decoded) = unbounded();
            let mut decoder = Decoder {
                vae: &mut *self.vae,
                fine_vae: self.fine_vae.take(),
                gate: self.gate.take(),
                space: self.latents,
                batch: vae_batch,
                limits: &self.counters.limits,
                outcomes: outcomes.clone(),
                decoded: to_denoiser,
            };
            scope.spawn(move || decoder.decode_all(&denoised));
            let mut denoiser = Denoiser {
                starter: &mut self.starter,
                unet: self.unet,
                settings: self.settings,
                counters: self.counters,
                begin: self.begin,
                work,
                waiting: VecDeque::new(),
                attempts: Attempts::default(),
                to_decoder,
                decoded,
                outcomes,
            };
            match denoiser.denoise_all(pace) {
                Ok(()) => Ok(()),
                Err(Ended::Stopped) => {
                    work.close();
                    Ok(())
                }
                Err(Ended::Lost(error)) => {
                    denoiser.give_back();
                    Err(error)
                }
            }
        })
    }
}

impl Counters {
    fn count(&self, step: &Step) {
        self.unet_calls.fetch_add(step.calls, Ordering::Relaxed);
        self.lanes_used.fetch_add(step.used as u64, Ordering::Relaxed);
        self.lanes_offered.fetch_add(step.offered as u64, Ordering::Relaxed);
    }
}
