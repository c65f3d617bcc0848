//! One device at work: its networks, its lanes, its share of the images.

use std::path::Path;

use crossbeam_channel::Sender;
use image::RgbImage;

use super::make::Desk;
use super::options::{Lanes, RunOptions};
use super::prepare::Prepared;
use super::probing::Probing;
use super::progress::EngineTally;
use super::remembered::Remembered;
use super::tiling::TilingDecoder;
use crate::engine::{
    Embeddings, Engine, Images, Outcome, Settings, Starter, TextEncoder, TextPart, VaeDecoder, VaeEncoder, Work,
};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::ImageTask;
use crate::onnx::{Device, Networks, OnnxTextEncoder, Runtime, SessionOptions};
use crate::output::RunFolder;
use crate::pixels::read_rgb;
use crate::plan::Plan;

/// Pictures per VAE call: more costs memory and gains nothing (ONNX Runtime PR 18273 advises at most 4).
const VAE_BATCH: usize = 4;

/// The networks of a model, loaded on one device.
pub(super) struct Worker<'a> {
    prepared: &'a Prepared,
    options: &'a RunOptions,
    model_hash: &'a str,
    engine: &'a EngineTally,
    networks: Networks,
    settings: Settings,
}

/// What all devices work on together.
#[derive(Clone, Copy)]
pub(super) struct Assignment<'m> {
    pub(super) plan: &'m Plan,
    pub(super) work: &'m Work<'m>,
    /// Whether its image is the only one in flight.
    pub(super) alone: bool,
    pub(super) desk: &'m Desk<'m>,
}

impl<'a> Worker<'a> {
    /// Loads the networks on the device of `engine`; the VAE's encoder only `with_images`. `cpus` workers share the
    /// processor's threads.
    pub(super) fn load(
        runtime: &Runtime,
        prepared: &'a Prepared,
        (options, cpus): (&'a RunOptions, usize),
        desk: &Desk<'a>,
        engine: &'a EngineTally,
        with_images: bool,
    ) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (options.threads.unwrap_or(cores) / cpus.max(1)).max(1);
        let session = SessionOptions { device: engine.device, threads, gpu: options.gpu.clone() };
        let mut networks = Networks::load(runtime, &prepared.spec, &session, with_images)?;
        let (spec, model_hash) = (&prepared.spec, &*desk.provenance.model_hash);
        let (device, onnxruntime) = (engine.device, runtime.build_info());
        let probing = Probing { spec, model_hash, device, onnxruntime, folder: desk.folder };
        let settings = probing.safe(&mut networks, settings(prepared, options))?;
        let worker = Worker { prepared, options, model_hash, engine, networks, settings };
        worker.remembered(desk.folder).recall(&engine.counters.limits);
        Ok(worker)
    }

    pub(super) fn device(&self) -> Device {
        self.engine.device
    }

    /// Makes images until all are made, by this device or others; returns early where the desk says so.
    ///
    /// # Errors
    /// Kind `GpuLost`: the device is gone, and its images are left to the others.
    pub(super) fn work(&mut self, assignment: Assignment<'_>, outcomes: &Sender<Outcome>) -> Result<()> {
        let (prepared, options) = (self.prepared, self.options);
        let Assignment { plan, work, alone, desk } = assignment;
        let Networks { text_encoders, unet, vae_decoder, vae_decoder_fp32, vae_encoder } = &mut self.networks;
        let mut vae = TilingDecoder::new(vae_decoder, &prepared.spec, options.vae_tiling)?;
        let fine_vae = vae_decoder_fp32.as_mut().map(|vae| TilingDecoder::new(vae, &prepared.spec, options.vae_tiling));
        let mut fine_vae = fine_vae.transpose()?;
        let (config, recipe) = (&prepared.scheduler_config, &prepared.spec.recipe);
        let embeddings = Embeddings::new(text_parts(text_encoders, prepared), recipe, options.job.prompts, plan);
        let vae_encoder = vae_encoder.as_mut().map(|encoder| encoder as &mut dyn VaeEncoder);
        let images = Images::new(recipe, vae_encoder, &read_image);
        let engine = Engine {
            starter: Starter::new(embeddings, images, recipe, config, options.job.noise),
            unet,
            vae: &mut vae,
            fine_vae: fine_vae.as_mut().map(|vae| vae as &mut dyn VaeDecoder),
            latents: &recipe.latents,
            settings: self.settings,
            counters: &self.engine.counters,
            begin: &|tasks: &[ImageTask]| desk.begin(tasks, alone),
        };
        engine.work(work, &|| desk.stop.pace(), outcomes)
    }

    /// Writes down what was learnt of this device.
    pub(super) fn remember(&self, folder: &RunFolder) {
        self.remembered(folder).write(&self.engine.counters.limits);
    }

    fn remembered<'b>(&'b self, folder: &'b RunFolder) -> Remembered<'b> {
        Remembered { model_hash: self.model_hash, device: self.engine.device, settings: self.settings, folder }
    }
}

fn text_parts<'a>(encoders: &'a mut [OnnxTextEncoder], prepared: &'a Prepared) -> Vec<TextPart<'a>> {
    let pairs = encoders.iter_mut().zip(&prepared.tokenizers);
    pairs.map(|(encoder, tokenizer)| TextPart { encoder: encoder as &mut dyn TextEncoder, tokenizer }).collect()
}

/// Reads a picture that a row names.
fn read_image(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::Row, "bad_image", format!("cannot read the picture: {error}"))
            .at(Location::file(path))
            .source(error)
    })?;
    read_rgb(&bytes).map_err(|error| error.at(Location::file(path)))
}

fn settings(prepared: &Prepared, options: &RunOptions) -> Settings {
    let lanes = match options.lanes {
        Lanes::Count(count) => count,
        Lanes::Auto => automatic_lanes(prepared.spec.default_size),
    };
    Settings { lanes, vae_batch: VAE_BATCH }
}

/// On a CPU more lanes cost memory and, beyond what fills the caches and hides the overhead of a call, gain nothing: as
/// many as make up about one 256×256 picture with guidance, at least two, at most sixteen.
fn automatic_lanes((width, height): (u32, u32)) -> usize {
    let area = (width as usize * height as usize).max(1);
    (2 * 256 * 256 / area).clamp(2, 16)
}
