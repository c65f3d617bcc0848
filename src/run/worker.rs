//! One device at work: its networks, its lanes, its share of the images.

use std::path::Path;

use crossbeam_channel::Sender;
use image::RgbImage;

use super::clock::Timed;
use super::loading::Load;
use super::make::Desk;
use super::options::{Lanes, RunOptions};
use super::prepare::Prepared;
use super::probing::Probing;
use super::progress::EngineTally;
use super::remembered::Remembered;
use super::scoring::ClipScorer;
use super::sizing::{PIXELS_ON_CPU, measured_lanes, unmeasured_lanes};
use super::tiling::TilingDecoder;
use crate::engine::{
    Embeddings, Engine, Gate, Images, Outcome, Settings, Starter, TextEncoder, TextPart, VaeDecoder, VaeEncoder, Work,
};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::ImageTask;
use crate::onnx::{Device, Networks};
use crate::output::RunFolder;
use crate::pixels::read_rgb;
use crate::plan::Plan;

/// Pictures per VAE call on a processor: more costs memory and gains nothing (ONNX Runtime PR 18273 advises at most 4). A GPU is
/// busy with one, and gives a picture the same bits only in calls of one size.
const VAE_BATCH: usize = 4;

/// The networks of a model, loaded on one device.
pub(super) struct Worker<'a> {
    prepared: &'a Prepared,
    options: &'a RunOptions,
    model_hash: &'a str,
    engine: &'a EngineTally,
    networks: Networks,
    scorer: Option<ClipScorer>,
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
    /// Loads the networks on the device of `engine`. CPU workers have so many `threads`.
    ///
    /// # Errors
    /// The device or a network cannot be loaded.
    pub(super) fn load(
        load: Load<'_>,
        prepared: &'a Prepared,
        (options, threads): (&'a RunOptions, usize),
        desk: &Desk<'a>,
        engine: &'a EngineTally,
    ) -> Result<Self> {
        let (spec, model_hash, device) = (&prepared.spec, &*desk.provenance.model_hash, engine.device);
        let lanes = match options.lanes {
            Lanes::Count(count) => count,
            Lanes::Auto => unmeasured_lanes(device),
        };
        let pixels = (options.lanes == Lanes::Auto && device == Device::Cpu).then_some(PIXELS_ON_CPU);
        let vae_batch = if device == Device::Cpu { VAE_BATCH } else { 1 };
        let session = load.session_options(device, (threads, options.kernels), &options.gpu, lanes)?;
        let mut networks = Networks::load(load.runtime, spec, &session, load.foreseen.with_images)?;
        let onnxruntime = load.runtime.build_info();
        let probing = Probing { spec, model_hash, device, onnxruntime, folder: desk.folder };
        let mut settings = probing.safe(&mut networks, Settings { lanes, pixels, vae_batch })?;
        let is_free = settings.lanes > 1 && spec.fixed_lanes.is_none();
        if options.lanes == Lanes::Auto && is_free && matches!(device, Device::Cuda(_)) {
            let remembered = Remembered { model_hash, device, settings, folder: desk.folder };
            let size = load.foreseen.sizes.first().copied().unwrap_or(spec.default_size);
            settings.lanes = measured_lanes(&mut networks, spec, size, &remembered)?;
        }
        let syntax = options.job.prompts.syntax;
        let scorer = desk.scorer.map(|spec| ClipScorer::load(load.runtime, spec, &session, syntax)).transpose()?;
        let worker = Worker { prepared, options, model_hash, engine, networks, scorer, settings };
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
        let clock = &desk.tally.clock;
        let (mut unet, mut vae_decoder) = (Timed { network: unet, clock }, Timed { network: vae_decoder, clock });
        let mut encoders: Vec<_> = text_encoders.iter_mut().map(|network| Timed { network, clock }).collect();
        let mut vae = TilingDecoder::new(&mut vae_decoder, &prepared.spec, options.vae_tiling)?;
        let fine_vae = vae_decoder_fp32.as_mut().map(|vae| TilingDecoder::new(vae, &prepared.spec, options.vae_tiling));
        let mut fine_vae = fine_vae.transpose()?;
        let (config, recipe) = (&prepared.scheduler_config, &prepared.spec.recipe);
        let embeddings = Embeddings::new(text_parts(&mut encoders, prepared), recipe, options.job.prompts, plan);
        let vae_encoder = vae_encoder.as_mut().map(|encoder| encoder as &mut dyn VaeEncoder);
        let images = Images::new(recipe, vae_encoder, &read_image);
        let mut scorer = self.scorer.as_mut().map(|network| Timed { network, clock });
        let demand = options.scorer.as_ref().map(|scorer| scorer.demand).unwrap_or_default();
        let engine = Engine {
            starter: Starter::new(embeddings, images, recipe, config, options.job.noise),
            unet: &mut unet,
            vae: &mut vae,
            fine_vae: fine_vae.as_mut().map(|vae| vae as &mut dyn VaeDecoder),
            gate: scorer.as_mut().map(|scorer| Gate::new(scorer, demand)),
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

/// Returns the text encoders, each with its tokenizer.
pub(super) fn text_parts<'a, E: TextEncoder>(encoders: &'a mut [E], prepared: &'a Prepared) -> Vec<TextPart<'a>> {
    let pairs = encoders.iter_mut().zip(&prepared.tokenizers);
    pairs.map(|(encoder, tokenizer)| TextPart { encoder: encoder as &mut dyn TextEncoder, tokenizer }).collect()
}

/// Reads a picture that a row names.
pub(super) fn read_image(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::Row, "bad_image", format!("cannot read the picture: {error}"))
            .at(Location::file(path))
            .source(error)
    })?;
    read_rgb(&bytes).map_err(|error| error.at(Location::file(path)))
}
