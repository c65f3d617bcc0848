//! The one place that knows the order of things: prepare, open the output folder, load the networks, make what is
//! missing, write it down, sum up.

mod audit;
mod batch;
mod bucket;
mod catalogue;
mod check;
mod clock;
mod crash;
mod engines;
pub mod events;
mod expand;
mod finished;
mod first_metadata;
mod foreseen;
mod loading;
pub mod logging;
mod look;
mod make;
pub mod metrics;
mod moves;
mod night;
mod options;
mod pages;
mod prepare;
mod probing;
mod progress;
mod progress_log;
mod remembered;
mod repair;
mod report;
mod report_page;
mod scoring;
mod seal;
mod sharding;
mod sheet;
mod sizing;
mod stop;
mod summary;
mod tiling;
mod trace;
mod verify;
mod watch;
mod worker;
mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::MultiProgress;

pub use audit::{Finding, Kind};
pub use bucket::{address, default_spool};
pub use check::{CheckReport, check};
pub use engines::{DeviceReport, EngineOptions, EngineReport, build_engines};
pub use expand::{ExpandOptions, Expanded, expand};
pub use look::{doctor, inspect, schedule, status};
pub use options::{DefaultFlags, JobOptions, Lanes, MaxFailed, RunOptions, ScheduleOptions, ScorerOptions, VaeTiling};
pub use pages::write_pages;
pub use prepare::{Prepared, Truncation, Truncations, prepare};
pub use repair::{JournalFile, RepairReport, repair};
pub use report_page::{ReportOptions, Reported, report_page};
pub use scoring::check_scorer;
pub use sharding::Share;
pub use summary::{Scores, Stages, Summary};
pub use trace::{TraceOptions, TraceReport, trace};
pub use verify::{VerifyReport, verify};
pub use watch::GpuSummary;

use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::journal::{Failed, Follower, Journal, Record, State};
use crate::model::ScorerSpec;
use crate::output::disk::{Disk, RealDisk};
use crate::output::layout::Format;
use crate::output::{Durable, ManifestPrint, Provenance, RunFingerprint, RunFolder, run_folder, status};
use crate::plan::{lane_evaluations, tasks};
use crate::remote::{self, Remote};
use catalogue::Catalogue;
use crash::CrashMark;
use events::{Event, Events, Progress, Started};
use first_metadata::FirstMetadata;
use foreseen::Foreseen;
use make::{Desk, Maker};
use metrics::{Board, Metrics};
use night::Night;
use progress::Tally;
use report::{report_bad_rows, report_truncations};
use seal::Sealer;
use sharding::Claims;
use stop::Stop;

/// Who is told of a run while it goes on.
pub struct Watchers {
    /// Where progress is shown.
    pub bars: MultiProgress,
    /// Who follows it as a program.
    pub events: Events,
}

/// Makes the images of a manifest that are not there yet, and returns what came of it.
///
/// # Errors
/// Whatever keeps the run as a whole from being done: manifest structure, model, device, output folder, storage. Rows
/// that fail are no error here: they are in the summary, and in `failed.csv`.
pub fn run(options: RunOptions, watchers: &Watchers) -> Result<Summary> {
    run_on(Arc::new(RealDisk), options, watchers)
}

/// Does what [`run`] does, writing through `disk`.
///
/// # Errors
/// As [`run`].
pub fn run_on(disk: Arc<dyn Disk>, options: RunOptions, watchers: &Watchers) -> Result<Summary> {
    let ended = Metrics::open(&options.metrics).and_then(|metrics| {
        let ended = run_watched(disk, options, watchers, &metrics);
        metrics.end(&ended);
        ended
    });
    watchers.events.finish(&match &ended {
        Ok(summary) => Event::Finished(summary),
        Err(error) => Event::Error(error.into()),
    });
    ended
}

fn run_watched(disk: Arc<dyn Disk>, options: RunOptions, watchers: &Watchers, metrics: &Metrics) -> Result<Summary> {
    let started = Instant::now();
    let stop = Stop::watch(options.max_runtime, options.drain_timeout)?;
    let options = RunOptions { job: bucket::with_local_manifests(options.job)?, ..options };
    let mut remote = bucket::open(&options, &stop)?;
    if remote.as_ref().is_none_or(Remote::is_complete)
        && let Some(summary) = finished::recognize(&options, started)?
    {
        return Ok(summary);
    }
    let disk = remote.as_ref().map_or(disk.clone(), |remote| remote.disk(disk));
    let prepared = prepare(&options.job)?;
    report_bad_rows(&prepared.manifest);
    let scorer = options.scorer.as_ref().map(|scorer| ScorerSpec::open(&scorer.dir)).transpose()?;
    let hashing = Instant::now();
    let provenance = provenance(&prepared, &options, scorer.as_ref())?;
    let hashing = hashing.elapsed();
    let fingerprint = fingerprint(&prepared, &options, &provenance);
    let opened = Opened::open(Durable::on(disk), &prepared, &options, &fingerprint)?;
    let Opened { folder, journal, state, catalogue, session, _crash } = opened;
    if let Some(remote) = &mut remote {
        remote.start(stop.breaker())?;
    }
    let uploads = remote.as_ref().map(Remote::counts);
    let (options, prepared, provenance) = (&options, &prepared, &provenance);
    let (scorer, stop) = (scorer.as_ref(), &stop);
    let run = Run { options, prepared, scorer, provenance, stop, started, hashing, watchers, metrics, uploads };
    let worked = run.work(&folder, journal, state, catalogue, session);
    // The folder stays ours until its files are where they belong.
    bucket::finish(remote, stop, worked)
}

/// An output folder that is ready for work.
struct Opened {
    folder: RunFolder,
    journal: Journal,
    state: State,
    catalogue: Catalogue,
    session: u32,
    _crash: CrashMark,
}

impl Opened {
    fn open(
        durable: Durable,
        prepared: &Prepared,
        options: &RunOptions,
        fingerprint: &RunFingerprint,
    ) -> Result<Opened> {
        let worker = options.shard.worker();
        let mut folder = RunFolder::open_on(durable, &options.out, fingerprint, &worker)?;
        let (mut journal, mut state) = Journal::open_on(folder.durable(), &folder.journal_folder(), &worker)?;
        if folder.was_alone() && moves::resume(&folder, &mut journal)? {
            state = crate::journal::read(&folder.journal_folder())?;
        }
        let all = tasks(&prepared.jobs, prepared.defaults.seed);
        let (catalogue, found) = Catalogue::new(options.layout(), all, &state, options.retry_failed);
        if !found.is_empty() {
            tracing::info!("{} pictures are those of rows that have moved: they get their new names", found.len());
            moves::apply(&folder, &mut journal, &catalogue, &found)?;
        }
        if options.format == Format::Parquet && folder.was_alone() {
            seal::remove_former_names(&folder, options.format, &state)?;
        }
        let session = state.session();
        let crash = CrashMark::install(journal.path())?;
        folder.opened();
        Ok(Opened { folder, journal, state, catalogue, session, _crash: crash })
    }
}

/// What a run is given.
struct Run<'a> {
    options: &'a RunOptions,
    prepared: &'a Prepared,
    scorer: Option<&'a ScorerSpec>,
    provenance: &'a Provenance,
    stop: &'a Stop,
    started: Instant,
    /// How long the model's files took to be read for their hash.
    hashing: Duration,
    watchers: &'a Watchers,
    metrics: &'a Metrics,
    /// What was uploaded, where the output is in a bucket.
    uploads: Option<Arc<remote::Counts>>,
}

impl Run<'_> {
    fn work(
        &self,
        folder: &RunFolder,
        journal: Journal,
        state: State,
        mut catalogue: Catalogue,
        session: u32,
    ) -> Result<Summary> {
        let journal = Mutex::new(journal);
        self.write_convicted(&journal, &catalogue, &state)?;
        let own: BTreeSet<u32> = catalogue.shards().filter(|shard| self.options.shard.owns(*shard)).collect();
        let to_make = self.to_make(&catalogue, &own);
        report_too_long(self.prepared, &to_make);
        // A spool is emptied while it is filled.
        if self.options.bucket.is_none() {
            report::warn_of_full_disk(folder, &catalogue, &to_make, self.options.image_format);
        }
        let counts = Counts { images: images_in(&catalogue, &own), skipped: made_in(&catalogue, &own) };
        let (planned, planned_evaluations) = (to_make.len() as u64, lane_evaluations(&to_make));
        let foreseen = Foreseen::of(&to_make);
        drop(to_make);
        let uploads = self.uploads.clone();
        let tally = Arc::new(Tally { planned, planned_evaluations, uploads, ..Tally::default() });
        self.tell_started(folder, &tally, &counts);
        let (provenance, stop) = (self.provenance, self.stop);
        let (writing, fault) = (AtomicU64::new(0), Mutex::new(None));
        let columns = self.prepared.manifest.extra_columns.clone();
        let sealed: HashMap<_, _> = state.all_sealed().map(|sealed| (sealed.shard, sealed.clone())).collect();
        let first_metadata = FirstMetadata::new(provenance, &columns, &sealed);
        let desk = Desk {
            folder,
            provenance,
            scorer: self.scorer,
            first_metadata,
            journal: &journal,
            stop,
            tally: &tally,
            events: &self.watchers.events,
            is_remote: self.options.bucket.is_some(),
            writing,
            fault,
        };
        let others = Follower::new(journal.lock().unwrap_or_else(PoisonError::into_inner).path(), &state);
        // The journal's view takes as much memory as the catalogue, which has all of it that matters.
        drop(state);
        let sealer = Sealer { folder, provenance, columns: &columns, journal: &journal, sealed };
        let hash = self.hashing.as_secs_f64();
        let mut stages = Stages { hash, prepare: self.started.elapsed().as_secs_f64() - hash, ..Stages::default() };
        let load = || Maker::load(self.prepared, self.options, &desk, &foreseen);
        let working = Instant::now();
        let mut night = Night {
            desk: &desk,
            sealer,
            catalogue: &mut catalogue,
            share: self.options.shard,
            claims: Claims::default(),
            scope: own,
            load: &load,
            loading: 0.0,
            maker: None,
            limit: self.options.job.limit.unwrap_or(usize::MAX),
            session,
            spools: 0,
            others,
        };
        let worked = self.watched(folder, &tally, &counts, || night.work());
        let Night { scope, sealer, catalogue, loading, claims, others, .. } = night;
        drop(claims);
        write_last_word(&journal, &last_word(&worked));
        if let Err(error) = worked {
            report::write_failure(folder, &tally, counts.skipped, counts.images);
            return Err(error);
        }
        stages.load = loading;
        stages.generate = working.elapsed().as_secs_f64() - loading;
        stages.write = desk.writing.load(Ordering::Relaxed) as f64 / 1000.0;
        let ended = Ended { folder, catalogue, scope: &scope, tally: &tally, stages, sealer, others };
        self.finish(ended)
    }

    /// Tells those who watch what this run sets out to do.
    fn tell_started(&self, folder: &RunFolder, tally: &Arc<Tally>, counts: &Counts) {
        let Counts { images, skipped } = *counts;
        let bad_rows = self.prepared.manifest.errors.len() as u64;
        self.metrics.show(Board {
            tally: tally.clone(),
            images,
            skipped,
            bad_rows,
            model: self.prepared.spec.name.clone(),
            worker: folder.worker().to_string(),
            working_since: Instant::now(),
        });
        self.watchers.events.tell(&Event::Started(Started {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            host: run_folder::host(),
            out: &self.options.shown_out(),
            rows: self.prepared.manifest.rows,
            bad_rows,
            images,
            skipped,
            planned: tally.planned,
        }));
    }

    /// Does `work` while progress is shown and written.
    fn watched(
        &self,
        folder: &RunFolder,
        tally: &Tally,
        counts: &Counts,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let over = AtomicBool::new(false);
        let Counts { skipped, images } = *counts;
        std::thread::scope(|scope| {
            let over = &over;
            let watcher = scope.spawn(move || {
                let started = Instant::now();
                let mut first = true;
                let mut tick = |tally: &Tally| {
                    tally.look_at_gpus();
                    report::write_progress(folder, tally, skipped, images, started);
                    progress_log::append(folder, tally, std::mem::take(&mut first));
                    self.metrics.write();
                    self.watchers.events.tell(&Event::Progress(Progress::of(tally, started)));
                };
                if tally.planned > 0 {
                    tick(tally);
                }
                progress::show(tally, &self.watchers.bars, over, &|| self.stop.asked_to_tell(), &mut tick);
                if tally.planned > 0 {
                    // A run may be over before the devices are known at a tick.
                    if tally.gpus.summary().is_empty() {
                        tally.look_at_gpus();
                    }
                    progress_log::append(folder, tally, false);
                }
            });
            let worked = work();
            over.store(true, Ordering::Release);
            watcher.thread().unpark();
            worked
        })
    }

    /// Returns the images that this worker will make, as far as can be known now.
    fn to_make(&self, catalogue: &Catalogue, own: &BTreeSet<u32>) -> Vec<ImageTask> {
        let missing = |shard: &u32| catalogue.missing(*shard, false).chain(catalogue.missing(*shard, true));
        own.iter().flat_map(missing).take(self.options.job.limit.unwrap_or(usize::MAX)).cloned().collect()
    }

    /// Writes down which images were found to kill the process.
    fn write_convicted(&self, journal: &Mutex<Journal>, catalogue: &Catalogue, state: &State) -> Result<()> {
        let new = catalogue.failures().iter().filter_map(|(ordinal, failure)| {
            let task = &catalogue.images()[*ordinal as usize].task;
            let key = task.key();
            if !self.options.shard.owns(catalogue.image(task).shard)
                || state.failed(&key).is_some_and(|it| it.code == failure.code)
            {
                return None;
            }
            tracing::warn!("{key}: {}", failure.message);
            let (code, message) = (failure.code.clone(), failure.message.clone());
            Some(Record::Failed(Failed { key, row_hash: crate::journal::Digest(task.row_hash()), code, message }))
        });
        let records: Vec<Record> = new.collect();
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(&records)?;
        journal.sync()
    }

    fn finish(&self, ended: Ended<'_>) -> Result<Summary> {
        let finishing = Instant::now();
        let Ended { folder, catalogue, scope, tally, mut stages, mut sealer, mut others } = ended;
        // For the lists of what failed, and for whether all is done, the others count too.
        if self.options.shard != Share::WHOLE || !folder.is_alone()? {
            let state = others.catch_up()?;
            catalogue.shards().collect::<Vec<_>>().into_iter().for_each(|shard| catalogue.refresh(shard, state));
            for sealed in state.all_sealed() {
                if sealer.is_stale(catalogue, sealed.shard) {
                    sealer.sealed.insert(sealed.shard, sealed.clone());
                }
            }
        }
        let catalogue = &*catalogue;
        let in_scope = |ordinal: &u64| scope.contains(&catalogue.images()[*ordinal as usize].shard);
        let failed = catalogue.failures().keys().filter(|ordinal| in_scope(ordinal)).count() as u64;
        let (images, made) = (images_in(catalogue, scope), made_in(catalogue, scope));
        let failed_rows = report::write_failed(self.prepared, catalogue, folder)?;
        let answers = batch::write(self.prepared, catalogue, folder)?;
        let contact_sheet = sheet::write(self.options, catalogue, folder, tally.done.load(Ordering::Relaxed) > 0)?;
        stages.finish = finishing.elapsed().as_secs_f64();
        stages.networks(&tally.clock.times());
        let mut summary = Summary {
            out: self.options.shown_out(),
            rows: self.prepared.manifest.rows,
            images,
            made: tally.done.load(Ordering::Relaxed),
            copied: tally.copied.load(Ordering::Relaxed),
            skipped: made.saturating_sub(tally.done.load(Ordering::Relaxed)),
            failed,
            reasons: self.reasons(catalogue),
            left: images - made - failed,
            suspect: catalogue.suspects(),
            scores: Scores::of(catalogue.scores(), tally.retried()),
            uploads: None,
            failed_rows,
            removed: catalogue.removed().len() as u64,
            lane_occupancy: tally.occupancy(),
            unet_calls: tally.unet_calls(),
            seconds: self.started.elapsed().as_secs_f64(),
            stages,
            failed_csv: (failed_rows > 0).then(|| folder.failed_path()),
            contact_sheet,
            answers,
            gpus: tally.gpus.summary(),
            exit_code: 0,
        };
        summary.exit_code = exit_code(&summary, self.options.max_failed);
        let state = if summary.left > 0 { status::RunState::Stopped } else { status::RunState::Completed };
        report::write_status(folder, &summary, state);
        self.tidy(folder, catalogue, &sealer, &summary)?;
        Ok(summary)
    }

    /// Counts what failed by the names of the errors: images, and rows that were bad to begin with.
    fn reasons(&self, catalogue: &Catalogue) -> BTreeMap<String, u64> {
        let bad_rows = self.prepared.manifest.errors.iter().filter_map(|row| row.errors.first()).map(Error::code);
        let mut reasons = BTreeMap::new();
        for code in catalogue.failures().values().map(|failure| failure.code.clone()).chain(bad_rows.map(String::from))
        {
            *reasons.entry(code).or_insert(0) += 1;
        }
        reasons
    }

    /// Where everything is done: removes what only waited, and leaves a note by which the next start knows.
    fn tidy(&self, folder: &RunFolder, catalogue: &Catalogue, sealer: &Sealer<'_>, summary: &Summary) -> Result<()> {
        let complete =
            catalogue.shards().all(|shard| catalogue.is_settled(shard) && !sealer.is_stale(catalogue, shard));
        if !complete || !folder.is_alone()? {
            return Ok(());
        }
        remove_spool(folder, catalogue)?;
        folder.sweep_leases()?;
        if catalogue.failures().is_empty() && self.prepared.manifest.errors.is_empty() {
            finished::write(self.options, self.prepared, folder, sealer, summary)?;
        }
        Ok(())
    }
}

/// A night that is over.
struct Ended<'a> {
    folder: &'a RunFolder,
    catalogue: &'a mut Catalogue,
    scope: &'a BTreeSet<u32>,
    tally: &'a Tally,
    stages: Stages,
    sealer: Sealer<'a>,
    others: Follower,
}

/// Images of this worker's shards, and those that were there before.
struct Counts {
    images: u64,
    skipped: u64,
}

fn images_in(catalogue: &Catalogue, shards: &BTreeSet<u32>) -> u64 {
    shards.iter().map(|shard| catalogue.shard(*shard).count() as u64).sum()
}

fn made_in(catalogue: &Catalogue, shards: &BTreeSet<u32>) -> u64 {
    let made = |shard: &u32| catalogue.shard(*shard).filter(|image| image.made.is_some()).count() as u64;
    shards.iter().map(made).sum()
}

/// Returns the last word of a run that ends by itself. In good order, what it had begun is not to blame for anything; but that
/// may be what the last device was lost over, as if the process had died of it.
fn last_word(worked: &Result<()>) -> Record {
    match worked {
        Err(error) if error.kind() == ErrorKind::GpuLost => Record::Crashed,
        _ => Record::Stopped,
    }
}

/// Writes the last word of a run. Where even that cannot be written, the next run counts it as a death without a trace.
fn write_last_word(journal: &Mutex<Journal>, word: &Record) {
    let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = journal.append(std::slice::from_ref(word)).and_then(|()| journal.sync()) {
        tracing::warn!("{error}");
    }
}

/// Removes the files of the spool, but for those that hold pictures which no row asks for any more.
fn remove_spool(folder: &RunFolder, catalogue: &Catalogue) -> Result<()> {
    let kept: HashSet<&str> = catalogue
        .removed()
        .iter()
        .filter_map(|removed| removed.image.spool.as_ref())
        .map(|(file, _)| &**file)
        .collect();
    let Ok(entries) = std::fs::read_dir(folder.spool_folder()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let keep = name.to_str().is_none_or(|name| kept.contains(name) || name.ends_with(".unpacked"));
        if !keep {
            folder.durable().remove(&entry.path())?;
        }
    }
    Ok(())
}

fn exit_code(summary: &Summary, max_failed: Option<MaxFailed>) -> u8 {
    let tolerated = max_failed.is_some_and(|limit| limit.allows(summary.failed_rows, summary.rows));
    match summary {
        _ if summary.left > 0 => stop::STOPPED,
        _ if summary.failed_rows > 0 && !tolerated => 3,
        _ => 0,
    }
}

fn provenance(prepared: &Prepared, options: &RunOptions, scorer: Option<&ScorerSpec>) -> Result<Provenance> {
    Ok(Provenance {
        model: prepared.spec.name.clone(),
        model_hash: prepared.spec.hash()?,
        version: env!("CARGO_PKG_VERSION").to_string(),
        noise: options.job.noise.to_string(),
        scorer_hash: scorer.map(ScorerSpec::hash).transpose()?,
    })
}

fn fingerprint(prepared: &Prepared, options: &RunOptions, provenance: &Provenance) -> RunFingerprint {
    let demand = options.scorer.as_ref().map(|scorer| scorer.demand).unwrap_or_default();
    let paths = options.job.manifests.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    RunFingerprint {
        version: provenance.version.clone(),
        model: provenance.model.clone(),
        model_hash: provenance.model_hash.clone(),
        defaults: prepared.defaults.clone(),
        noise: provenance.noise.clone(),
        prompt_syntax: options.job.prompts.syntax.to_string(),
        long_prompt: options.job.prompts.long.to_string(),
        vae_tiling: options.vae_tiling == VaeTiling::On,
        format: options.format.name().to_string(),
        shard_size: options.shard_size,
        image_format: options.image_format.name().to_string(),
        image_quality: options.image_format.quality(),
        scorer_hash: provenance.scorer_hash.clone(),
        min_clip_score: demand.min,
        retries: demand.min.map(|_| demand.retries),
        manifests: vec![ManifestPrint {
            path: paths.join(", "),
            hash: prepared.manifest.hash.clone(),
            rows: prepared.manifest.rows,
        }],
    }
}

fn report_too_long(prepared: &Prepared, missing: &[ImageTask]) {
    let mut jobs: Vec<_> = missing.iter().map(|task| &task.job).collect();
    jobs.dedup_by_key(|job| job.row);
    report_truncations(&prepared.truncations(&jobs));
}
