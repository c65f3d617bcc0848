//! The networks at work: engine and writer side by side, one window of shards after the other.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::bounded;
use image::RgbImage;

use super::catalogue::Catalogue;
use super::clock::Timed;
use super::first_metadata::FirstMetadata;
use super::options::{Lanes, RunOptions};
use super::prepare::Prepared;
use super::probing::Probing;
use super::progress::Tally;
use super::remembered::Remembered;
use super::stop::Stop;
use super::tiling::TilingDecoder;
use super::writer::Writer;
use crate::engine::{Embeddings, Engine, Images, Settings, Starter, TextEncoder, TextPart, VaeDecoder, VaeEncoder};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::ImageTask;
use crate::journal::{Journal, Record};
use crate::onnx::{Networks, OnnxTextEncoder, Runtime, SessionOptions};
use crate::output::spool::Spool;
use crate::output::{Provenance, RunFolder};
use crate::pixels::read_rgb;
use crate::plan::plan;

/// Pictures that may wait between decoder and writer.
const OUTCOMES_WAITING: usize = 64;
/// Pictures per VAE call: more costs memory and gains nothing (ONNX Runtime PR 18273 advises at most 4).
const VAE_BATCH: usize = 4;

/// The networks of a model, loaded.
pub struct Maker<'a> {
    prepared: &'a Prepared,
    options: &'a RunOptions,
    networks: Networks,
    settings: Settings,
    model_hash: &'a str,
}

/// Where pictures go, and who watches.
pub struct Desk<'a> {
    /// The output folder.
    pub folder: &'a RunFolder,
    /// What is written into each picture beside its own row.
    pub provenance: &'a Provenance,
    /// What comes beside the first pictures.
    pub first_metadata: FirstMetadata<'a>,
    /// What is done.
    pub journal: &'a Mutex<Journal>,
    /// When to stop.
    pub stop: &'a Stop,
    /// Counts for those who watch.
    pub tally: &'a Tally,
    /// Milliseconds that the writer was busy.
    pub writing: AtomicU64,
    /// Why the beginning of work could not be written down.
    pub fault: Mutex<Option<Error>>,
}

impl<'a> Maker<'a> {
    /// Loads the networks; the VAE's encoder only `with_images`.
    ///
    /// # Errors
    /// Library, device or a network cannot be loaded.
    pub fn load(prepared: &'a Prepared, options: &'a RunOptions, desk: &Desk<'a>, with_images: bool) -> Result<Self> {
        let (folder, model_hash) = (desk.folder, &*desk.provenance.model_hash);
        let runtime = Runtime::load(options.ort_lib.as_deref())?;
        let mut networks = load(&runtime, prepared, options, with_images)?;
        let (spec, device, onnxruntime) = (&prepared.spec, options.device, runtime.build_info());
        let probing = Probing { spec, model_hash, device, onnxruntime, folder };
        let settings = probing.safe(&mut networks, settings(prepared, options))?;
        let maker = Maker { prepared, options, networks, settings, model_hash };
        maker.remembered(folder).recall(&desk.tally.engine.limits);
        Ok(maker)
    }

    /// Makes and writes `tasks`; with `alone`, as the only ones in flight. Returns early where the desk says so.
    ///
    /// # Errors
    /// Storage fails.
    pub fn make(
        &mut self,
        tasks: Vec<ImageTask>,
        alone: bool,
        desk: &Desk<'_>,
        catalogue: &mut Catalogue,
        spool: Option<&mut Spool>,
    ) -> Result<()> {
        let (prepared, options) = (self.prepared, self.options);
        let Networks { text_encoders, unet, vae_decoder, vae_decoder_fp32, vae_encoder } = &mut self.networks;
        let clock = &desk.tally.clock;
        let (mut unet, mut vae_decoder) = (Timed { network: unet, clock }, Timed { network: vae_decoder, clock });
        let mut encoders: Vec<_> = text_encoders.iter_mut().map(|network| Timed { network, clock }).collect();
        let mut vae = TilingDecoder::new(&mut vae_decoder, &prepared.spec, options.vae_tiling)?;
        let fine_vae = vae_decoder_fp32.as_mut().map(|vae| TilingDecoder::new(vae, &prepared.spec, options.vae_tiling));
        let mut fine_vae = fine_vae.transpose()?;
        let (config, recipe) = (&prepared.scheduler_config, &prepared.spec.recipe);
        let plan = plan(tasks);
        let embeddings = Embeddings::new(text_parts(&mut encoders, prepared), recipe, options.job.prompts, &plan);
        let vae_encoder = vae_encoder.as_mut().map(|encoder| encoder as &mut dyn VaeEncoder);
        let images = Images::new(recipe, vae_encoder, &read_image);
        let begin = |tasks: &[ImageTask]| desk.begin(tasks, alone);
        let engine = Engine {
            starter: Starter::new(embeddings, images, recipe, config, options.job.noise),
            unet: &mut unet,
            vae: &mut vae,
            fine_vae: fine_vae.as_mut().map(|vae| vae as &mut dyn VaeDecoder),
            latents: &recipe.latents,
            settings: self.settings,
            counters: &desk.tally.engine,
            begin: &begin,
        };
        let Desk { folder, provenance, first_metadata, journal, stop, tally, writing, .. } = desk;
        let (format, copies) = (options.image_format, &plan.copies);
        let written = std::thread::scope(|scope| {
            let (sender, outcomes) = bounded(OUTCOMES_WAITING);
            let broken = stop.breaker();
            let writer = scope.spawn(move || {
                let mut writer =
                    Writer { folder, provenance, first_metadata, format, journal, catalogue, spool, copies, tally };
                let written = writer.write_all(&outcomes);
                broken.store(written.is_err(), Ordering::Release);
                let busy = written?;
                writing.fetch_add((1000.0 * busy) as u64, Ordering::Relaxed);
                Ok(())
            });
            engine.generate(&plan, &|| stop.pace(), &sender);
            drop(sender);
            writer.join().expect("the writer does not panic")
        });
        self.remembered(folder).write(&tally.engine.limits);
        written.and_then(|()| desk.fault.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err))
    }

    fn remembered<'b>(&'b self, folder: &'b RunFolder) -> Remembered<'b> {
        Remembered { model_hash: self.model_hash, device: self.options.device, settings: self.settings, folder }
    }
}

impl Desk<'_> {
    /// Writes down that work on `tasks` begins; returns whether it could. Not synced: a process that dies leaves what it wrote,
    /// and after a power cut nobody is to blame.
    fn begin(&self, tasks: &[ImageTask], alone: bool) -> bool {
        let keys = tasks.iter().map(ImageTask::key).collect();
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        match journal.append(&[Record::Begin { keys, alone }]) {
            Ok(()) => true,
            Err(error) => {
                self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                false
            }
        }
    }
}

fn load(runtime: &Runtime, prepared: &Prepared, options: &RunOptions, with_images: bool) -> Result<Networks> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let session =
        SessionOptions { kernels: options.kernels, device: options.device, threads: options.threads.unwrap_or(cores) };
    Networks::load(runtime, &prepared.spec, &session, with_images)
}

fn text_parts<'a>(encoders: &'a mut [Timed<'_, OnnxTextEncoder>], prepared: &'a Prepared) -> Vec<TextPart<'a>> {
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
