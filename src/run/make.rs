//! Loads the networks and lets engine, writer and progress work side by side.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::bounded;
use image::RgbImage;
use indicatif::MultiProgress;

use super::ledger::Ledger;
use super::options::{Lanes, RunOptions};
use super::prepare::Prepared;
use super::probing::Probing;
use super::progress::{self, Tally};
use super::report;
use super::stop::Stop;
use super::tiling::TilingDecoder;
use super::writer::Writer;
use crate::engine::{Embeddings, Engine, Images, Settings, Starter, TextEncoder, TextPart, VaeEncoder};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::ImageTask;
use crate::journal::Journal;
use crate::onnx::{Networks, OnnxTextEncoder, Runtime, SessionOptions};
use crate::output::RunFolder;
use crate::pixels::read_rgb;
use crate::plan::plan;

/// Pictures that may wait between decoder and writer.
const OUTCOMES_WAITING: usize = 64;
/// Pictures per VAE call: more costs memory and gains nothing (ONNX Runtime PR 18273 advises at most 4).
const VAE_BATCH: usize = 4;

/// What [`make`] did.
#[derive(Debug, Default)]
pub struct Made {
    /// Pictures written.
    pub images: u64,
    /// Share of the lanes that was used.
    pub occupancy: f64,
    /// UNet calls.
    pub unet_calls: u64,
    /// Seconds to load the networks.
    pub load: f64,
    /// Seconds to make and write the pictures.
    pub generate: f64,
    /// Seconds of it that the writer was busy.
    pub write: f64,
}

/// Makes and writes the images of `missing`.
///
/// # Errors
/// Networks cannot be loaded, or storage fails.
pub fn make(
    prepared: &Prepared,
    options: &RunOptions,
    missing: Vec<ImageTask>,
    folder: &RunFolder,
    journal: &mut Journal,
    ledger: &mut Ledger<'_>,
    bars: &MultiProgress,
) -> Result<Made> {
    let stop = Stop::watch(options.max_runtime, options.drain_timeout)?;
    let loading = Instant::now();
    let with_images = missing.iter().any(|task| task.job.rare().image.is_some());
    let runtime = Runtime::load(options.ort_lib.as_deref())?;
    let mut networks = load(&runtime, prepared, options, with_images)?;
    let probing = Probing {
        spec: &prepared.spec,
        model_hash: &ledger.provenance().model_hash,
        device: options.device,
        onnxruntime: runtime.build_info(),
        folder,
    };
    let settings = probing.safe(&mut networks, settings(prepared, options))?;
    let load = loading.elapsed().as_secs_f64();
    let Networks { text_encoders, unet, vae_decoder, vae_encoder } = &mut networks;
    let mut vae = TilingDecoder::new(vae_decoder, &prepared.spec, options.vae_tiling)?;
    let plan = plan(missing);
    let (planned, planned_evaluations) = (plan.images() as u64, plan.lane_evaluations());
    let tally = Tally { planned, planned_evaluations, ..Tally::default() };
    let (generating, there) = (Instant::now(), ledger.written());
    let total = ledger.images();
    let over = AtomicBool::new(false);
    let write = std::thread::scope(|scope| {
        let (sender, outcomes) = bounded(OUTCOMES_WAITING);
        let (tally, over) = (&tally, &over);
        let watcher = scope.spawn(move || {
            let started = Instant::now();
            let mut tick = |tally: &Tally| report::write_progress(folder, tally, there, total, started);
            tick(tally);
            progress::show(tally, bars, over, &mut tick);
        });
        let broken = stop.breaker();
        let provenance = ledger.provenance();
        let writing = scope.spawn(move || {
            let written = Writer { folder, provenance, journal, ledger, tally }.write_all(&outcomes);
            broken.store(written.is_err(), Ordering::Release);
            written
        });
        let (config, recipe) = (&prepared.scheduler_config, &prepared.spec.recipe);
        let embeddings = Embeddings::new(text_parts(text_encoders, prepared), recipe, options.job.prompts, &plan);
        let vae_encoder = vae_encoder.as_mut().map(|encoder| encoder as &mut dyn VaeEncoder);
        let images = Images::new(recipe, vae_encoder, &read_image);
        let engine = Engine {
            starter: Starter::new(embeddings, images, recipe, config, options.job.noise),
            unet,
            vae: &mut vae,
            latents: &recipe.latents,
            settings,
            counters: &tally.engine,
        };
        engine.generate(&plan, &|| stop.pace(), &sender);
        drop(sender);
        let written = writing.join().expect("the writer does not panic");
        over.store(true, Ordering::Release);
        watcher.thread().unpark();
        written
    })?;
    Ok(Made {
        images: tally.done.load(Ordering::Relaxed),
        occupancy: tally.occupancy(),
        unet_calls: tally.engine.unet_calls.load(Ordering::Relaxed),
        load,
        generate: generating.elapsed().as_secs_f64(),
        write,
    })
}

fn load(runtime: &Runtime, prepared: &Prepared, options: &RunOptions, with_images: bool) -> Result<Networks> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let session = SessionOptions { device: options.device, threads: options.threads.unwrap_or(cores) };
    Networks::load(runtime, &prepared.spec, &session, with_images)
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
