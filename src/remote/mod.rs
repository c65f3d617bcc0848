//! Output that goes to a bucket, and manifests that come from one.
//!
//! The run works on a local folder, the **spool**, exactly as on any other output folder. [`SpooledDisk`] notices what becomes final
//! there, and [`Remote`]'s threads put it into the bucket under the same name, whole or not at all, and let go of it here. So the
//! spool always is what the bucket lacks, and a start has only to look at it. The `mirror` copies the journal, which never
//! speaks of more than is in the bucket; by it another machine goes on (`adopt`). A `lease` keeps two of them from doing so at once.

mod adopt;
mod disk;
mod fetch;
mod lease;
mod mirror;
mod names;
#[cfg(not(feature = "buckets"))]
mod no_store;
mod objects;
mod queue;
mod shared;
#[cfg(feature = "buckets")]
mod store;
mod threads;
mod upload;
mod url;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use adopt::spooled_for;
pub use disk::SpooledDisk;
pub use fetch::{fetch_file, fetch_state};
#[cfg(not(feature = "buckets"))]
pub use no_store::Store;
pub use queue::Counts;
#[cfg(feature = "buckets")]
pub use store::Store;
pub use url::BucketUrl;

use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::disk::Disk;
use lease::{Lease, Pulse};
use shared::Shared;
use threads::Threads;

/// What the caller decides.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// Where everything goes in the end.
    pub url: BucketUrl,
    /// Bytes that may wait to be uploaded before the run has to wait.
    pub spool_limit: u64,
    /// At the end of a run, so long without any success is given up.
    pub upload_timeout: Duration,
}

/// An output in a bucket, and its spool.
pub struct Remote {
    shared: Arc<Shared>,
    upload_timeout: Duration,
    lease: Option<Lease>,
    threads: Option<Threads>,
    /// Whether another has our place.
    lost: Arc<AtomicBool>,
    worker: String,
}

/// What was uploaded in a run, and what was not.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Uploads {
    /// Files that are in the bucket.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tries that failed, and were made again.
    pub failures: u64,
    /// Files that wait in the spool for the next start.
    pub waiting: u64,
}

impl Remote {
    /// Reaches the bucket, takes this worker's place there, and brings the spool up to it. `is_urgent` says whether the run is to
    /// end; `broken` is set where it has to.
    ///
    /// # Errors
    /// Kind `Storage`: the bucket cannot be reached. Kind `Locked`: another machine works there. Kind `OtherRun`: see `adopt`.
    pub fn open(
        options: &BucketOptions,
        spool: &Path,
        worker: &str,
        is_urgent: Box<dyn Fn() -> bool + Send + Sync>,
    ) -> Result<Remote> {
        let store = Store::open(&options.url)?;
        // The first to touch the bucket: what is wrong with it is told by reading, before anything is written.
        store.get(".nightshift/run.json")?;
        let lease = Lease::take(&store, worker, &lease::spool_name(spool))?;
        let taken = adopt::adopt(&store, spool, worker);
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                lease.release(&store);
                return Err(error);
            }
        };
        if taken > 0 {
            tracing::info!("{}: {taken} files of what was done elsewhere were taken over", options.url);
        }
        let shared = Arc::new(Shared::new(store, spool.to_path_buf(), options.spool_limit, is_urgent));
        let (upload_timeout, worker) = (options.upload_timeout, worker.to_string());
        Ok(Remote { shared, upload_timeout, lease: Some(lease), threads: None, lost: Arc::default(), worker })
    }

    /// Returns whether all that a finished run leaves is in the bucket: its last word is copied last.
    pub fn is_complete(&self) -> bool {
        let name = ".nightshift/done.json";
        let here = std::fs::read(names::path(&self.shared.spool, name)).ok();
        let there = self.shared.store.get(name).ok().flatten().map(|found| found.bytes);
        here.is_some() && here == there && names::files(&self.shared.spool, names::Role::Data).is_empty()
    }

    /// Returns the spool as a disk on top of `below`.
    pub fn disk(&self, below: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Arc::new(SpooledDisk::new(below, self.shared.clone()))
    }

    /// Returns what was uploaded, and what waits, for those who watch.
    pub fn counts(&self) -> Arc<Counts> {
        self.shared.queue.counts.clone()
    }

    /// Begins to upload: first what an earlier run left. The spool has to be ours by now. `broken` is set if another takes our place.
    ///
    /// # Errors
    /// Kind `Storage`: what a killed process had under way cannot be given up.
    pub fn start(&mut self, broken: Arc<AtomicBool>) -> Result<()> {
        self.shared.upload().abort_leftovers()?;
        for name in names::files(&self.shared.spool, names::Role::Data) {
            let bytes = std::fs::metadata(names::path(&self.shared.spool, &name)).map_or(0, |file| file.len());
            self.shared.queue.push(name, bytes);
        }
        names::files(&self.shared.spool, names::Role::State).iter().for_each(|name| self.shared.note_changed(name));
        if let Some(lease) = self.lease.take() {
            self.threads = Some(Threads::start(self.shared.clone(), lease, &self.worker, self.lost.clone(), broken));
        }
        Ok(())
    }

    /// Waits until all is in the bucket. Gives up what does not get there: when the run was asked to stop and `time_left` is over, or
    /// when nothing gets through for too long.
    ///
    /// # Errors
    /// Kind `Storage`: something is left in the spool, and no stop was asked for. Kind `Locked`: another took our place.
    pub fn finish(&mut self, time_left: &dyn Fn() -> Option<Duration>) -> Result<Uploads> {
        let shared = &self.shared;
        let drained = self.drain(time_left);
        let copied = match self.threads.take() {
            Some(threads) => threads.end(shared, drained.is_ok() && !self.lost.load(Ordering::Acquire)),
            None => Ok(()),
        };
        if self.lost.load(Ordering::Acquire) {
            return Err(taken_over(shared));
        }
        let uploads = self.uploads();
        match drained.and(copied) {
            Err(error) if time_left().is_none() => Err(left_behind(shared, &uploads, &error)),
            Err(_) => {
                let place = shared.spool.display();
                tracing::warn!("{} files wait in {place}: the same command again uploads them", uploads.waiting);
                Ok(uploads)
            }
            Ok(()) => Ok(uploads),
        }
    }

    fn drain(&self, time_left: &dyn Fn() -> Option<Duration>) -> Result<()> {
        let shared = &self.shared;
        let (began, mut told) = (Instant::now(), Instant::now());
        while !shared.queue.wait_until(shared.queue.mark(), Duration::from_millis(200)) {
            let trouble = shared.trouble();
            let is_over = time_left().is_some_and(|left| left.is_zero());
            let is_hopeless =
                trouble.as_ref().is_some_and(|(since, _)| (*since).max(began).elapsed() > self.upload_timeout);
            if is_over || is_hopeless || self.lost.load(Ordering::Acquire) {
                return Err(trouble.map_or_else(|| stopped(shared), |(_, error)| error));
            }
            if told.elapsed() > Duration::from_secs(30) {
                let Uploads { waiting, .. } = self.uploads();
                let why = trouble.map(|(_, error)| format!("; the last try failed: {error}")).unwrap_or_default();
                tracing::info!("all is made; {waiting} files are still to be uploaded{why}");
                told = Instant::now();
            }
        }
        Ok(())
    }

    fn uploads(&self) -> Uploads {
        let Counts { files, bytes, waiting_files, failures, .. } = &*self.shared.queue.counts;
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        Uploads { files: load(files), bytes: load(bytes), failures: load(failures), waiting: load(waiting_files) }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release(&self.shared.store);
        }
    }
}

fn stopped(shared: &Shared) -> Error {
    Error::new(ErrorKind::Storage, "uploads_left", "stopped before all was uploaded")
        .at(Location::file(shared.store.url().to_string()))
}

fn left_behind(shared: &Shared, uploads: &Uploads, error: &Error) -> Error {
    let count = uploads.waiting;
    let what = if count > 0 {
        format!("{count} files are not in the bucket")
    } else {
        "the journal is not in the bucket".into()
    };
    Error::new(ErrorKind::Storage, "uploads_left", format!("{what}: {error}"))
        .at(Location::file(shared.store.url().to_string()))
        .hint(format!(
            "they wait in {}: the same command again uploads them, and makes nothing twice",
            shared.spool.display()
        ))
}

fn taken_over(shared: &Shared) -> Error {
    Error::new(ErrorKind::Locked, "bucket_taken_over", "another run has taken this one's place")
        .at(Location::file(shared.store.url().to_string()))
        .hint("this one was silent for minutes; let the other go on")
}

/// What came of a heartbeat, for those who wait.
fn is_lost(lease: &mut Lease, shared: &Shared) -> bool {
    lease.beat(&shared.store) == Pulse::Lost
}
