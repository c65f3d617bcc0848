//! All devices at work: they share the images of a window, and one writer takes their pictures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::bounded;

use super::catalogue::Catalogue;
use super::events::Events;
use super::first_metadata::FirstMetadata;
use super::foreseen::Foreseen;
use super::loading::Load;
use super::options::{Lanes, RunOptions};
use super::prepare::Prepared;
use super::progress::Tally;
use super::sizing::workers_on_cpu;
use super::stop::Stop;
use super::worker::{Assignment, Worker};
use super::writer::Writer;
use crate::engine::Work;
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::journal::{Journal, Record};
use crate::model::ScorerSpec;
use crate::onnx::{Device, Runtime};
use crate::output::spool::Spool;
use crate::output::{Provenance, RunFolder};
use crate::plan::plan;

/// Pictures that may wait between decoders and writer.
const OUTCOMES_WAITING: usize = 64;

/// The devices of a run, each with the networks of the model loaded.
pub struct Maker<'a> {
    options: &'a RunOptions,
    /// Those that are not lost.
    workers: Vec<Worker<'a>>,
}

/// Where pictures go, and who watches.
pub struct Desk<'a> {
    /// The output folder.
    pub folder: &'a RunFolder,
    /// What is written into each picture beside its own row.
    pub provenance: &'a Provenance,
    /// What scores pictures, if they are to be scored.
    pub scorer: Option<&'a ScorerSpec>,
    /// What comes beside the first pictures.
    pub first_metadata: FirstMetadata<'a>,
    /// What is done.
    pub journal: &'a Mutex<Journal>,
    /// When to stop.
    pub stop: &'a Stop,
    /// Counts for those who watch.
    pub tally: &'a Tally,
    /// Who wants to know of each image.
    pub events: &'a Events,
    /// Whether the output is in a bucket, where others work on spools of their own.
    pub is_remote: bool,
    /// Milliseconds that the writer was busy.
    pub writing: AtomicU64,
    /// Why the beginning of work could not be written down.
    pub fault: Mutex<Option<Error>>,
}

impl<'a> Maker<'a> {
    /// Loads the networks on every device, for the images that are foreseen.
    ///
    /// # Errors
    /// Library, a device or a network cannot be loaded.
    pub fn load(prepared: &'a Prepared, options: &'a RunOptions, desk: &Desk<'a>, foreseen: &Foreseen) -> Result<Self> {
        let runtime = Runtime::load(options.ort_lib.as_deref())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or(cores);
        let mut devices = options.devices.resolve()?;
        if devices == [Device::Cpu] && options.lanes == Lanes::Auto {
            devices = vec![Device::Cpu; workers_on_cpu(threads, prepared.spec.bytes(), foreseen.images)];
            if devices.len() > 1 {
                tracing::info!("a small model: {} workers share the processor's {threads} threads", devices.len());
            }
        }
        let engines = desk.tally.open_engines(&devices);
        let cpus = devices.iter().filter(|device| **device == Device::Cpu).count();
        let threads = (threads / cpus.max(1)).max(1);
        let (model_hash, prompts) = (&*desk.provenance.model_hash, options.job.prompts);
        let load = Load { spec: &prepared.spec, model_hash, runtime: &runtime, prompts, foreseen };
        let load = |engine| Worker::load(load, prepared, (options, threads), desk, engine);
        let workers = engines.iter().map(load).collect::<Result<Vec<_>>>()?;
        Ok(Maker { options, workers })
    }

    /// Makes and writes `tasks`; with `alone`, as the only ones in flight. Returns early where the desk says so.
    ///
    /// # Errors
    /// Storage fails, or all devices are lost.
    pub fn make(
        &mut self,
        tasks: Vec<ImageTask>,
        alone: bool,
        desk: &Desk<'_>,
        catalogue: &mut Catalogue,
        spool: Option<&mut Spool>,
    ) -> Result<()> {
        let plan = plan(tasks);
        let work = Work::new(&plan, self.workers.len());
        let assignment = Assignment { plan: &plan, work: &work, alone, desk };
        let (format, copies) = (self.options.image_format, &plan.copies);
        let (written, lost) = std::thread::scope(|scope| {
            let (sender, outcomes) = bounded(OUTCOMES_WAITING);
            let broken = desk.stop.breaker();
            let Desk { folder, provenance, first_metadata, journal, tally, events, writing, .. } = desk;
            let writer = scope.spawn(move || {
                let mut writer = Writer {
                    folder,
                    provenance,
                    first_metadata,
                    format,
                    journal,
                    catalogue,
                    spool,
                    copies,
                    tally,
                    events,
                };
                let written = writer.write_all(&outcomes);
                broken.store(written.is_err(), Ordering::Release);
                let busy = written?;
                writing.fetch_add((1000.0 * busy) as u64, Ordering::Relaxed);
                Ok(())
            });
            let start = |worker| {
                let sender = sender.clone();
                let run = move |worker: &mut Worker<'_>| {
                    worker.work(assignment, &sender).inspect_err(|lost| tell(worker, lost))
                };
                scope.spawn(move || run(worker))
            };
            let working: Vec<_> = self.workers.iter_mut().map(start).collect();
            drop(sender);
            let ended = working.into_iter().map(|worker| worker.join().expect("a worker does not panic").err());
            let lost: Vec<Option<Error>> = ended.collect();
            (writer.join().expect("the writer does not panic"), lost)
        });
        self.workers.iter().for_each(|worker| worker.remember(desk.folder));
        written?;
        desk.fault.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)?;
        self.go_on_without(lost)
    }

    /// Lets go of the devices that are lost; fails where none is left, or one could not work for another reason.
    fn go_on_without(&mut self, mut lost: Vec<Option<Error>>) -> Result<()> {
        let is_other = |error: &Option<Error>| error.as_ref().is_some_and(|error| error.kind() != ErrorKind::GpuLost);
        if let Some(error) = lost.iter().position(is_other).and_then(|place| lost.swap_remove(place)) {
            return Err(error);
        }
        let mut is_lost = lost.iter().map(Option::is_some);
        self.workers.retain(|_| !is_lost.next().unwrap_or(false));
        match lost.into_iter().flatten().last() {
            Some(error) if self.workers.is_empty() => Err(no_device_left(error)),
            _ => Ok(()),
        }
    }
}

fn tell(worker: &Worker<'_>, lost: &Error) {
    if lost.kind() != ErrorKind::GpuLost {
        return;
    }
    tracing::error!("device {} is lost, what it had under way is left to the others: {lost}", worker.device());
}

fn no_device_left(last: Error) -> Error {
    Error::new(ErrorKind::GpuLost, "gpu_lost", format!("no device is left; of the last: {last}"))
        .hint("look at `nvidia-smi` and `dmesg`, then run the same command again to resume")
}

impl Desk<'_> {
    /// Writes down that work on `tasks` begins; returns whether it could. Not synced: a process that dies leaves what it wrote,
    /// and after a power cut nobody is to blame.
    pub(super) fn begin(&self, tasks: &[ImageTask], alone: bool) -> bool {
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
