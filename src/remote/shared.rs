//! What the run and the uploading threads share.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Store;
use super::names;
use super::queue::Queue;
use super::upload::Upload;
use crate::error::{Error, Result};

/// See the module's text.
pub struct Shared {
    /// The bucket.
    pub store: Store,
    /// The folder that is the output folder to the run.
    pub spool: PathBuf,
    /// What waits.
    pub queue: Queue,
    /// Held while a file gets its final name, or leaves.
    pub gate: Mutex<()>,
    /// Bytes that may wait before the run has to.
    pub limit: u64,
    /// Whether the run is to end, so that nothing may wait.
    pub is_urgent: Box<dyn Fn() -> bool + Send + Sync>,
    /// Files of the state folder that are not in the bucket as they are here.
    changed: Mutex<BTreeSet<String>>,
    /// Since when nothing could be uploaded, and why.
    trouble: Mutex<Option<(Instant, Error)>>,
}

impl Shared {
    /// Returns what is shared on `spool`, with nothing to do yet.
    pub fn new(store: Store, spool: PathBuf, limit: u64, is_urgent: Box<dyn Fn() -> bool + Send + Sync>) -> Shared {
        Shared {
            store,
            spool,
            queue: Queue::default(),
            gate: Mutex::default(),
            limit,
            is_urgent,
            changed: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Waits until the spool has room.
    pub fn wait_for_room(&self) {
        self.queue.wait_for_room(self.limit, &*self.is_urgent);
    }

    /// Notes that a file of the state folder is another now, or gone.
    pub fn note_changed(&self, name: &str) {
        self.changed().insert(name.to_string());
    }

    /// Takes the names of the files of the state folder that have changed.
    pub fn take_changed(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed())
    }

    /// Puts a small file as it is now into the bucket; removes it there if it is gone here.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn put_now(&self, name: &str) -> Result<()> {
        let path = names::path(&self.spool, name);
        match fs::read(&path) {
            Ok(bytes) => self.store.put(name, bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.store.delete(name),
            Err(error) => Err(Error::storage("read", &path, error)),
        }
    }

    /// Notes what came of a try; of failures in a row, the first says since when, the last says why.
    pub fn note_trouble(&self, error: Option<Error>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let since = trouble.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *trouble = error.map(|error| (since, error));
    }

    /// Returns since when nothing could be uploaded, and why.
    pub fn trouble(&self) -> Option<(Instant, Error)> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|(since, error)| (*since, error.again()))
    }

    /// Returns what uploading a file takes.
    pub fn upload(&self) -> Upload<'_> {
        Upload { store: &self.store, spool: &self.spool, gate: &self.gate }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("spool", &self.spool).finish_non_exhaustive()
    }
}
