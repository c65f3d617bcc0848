//! The journal and the rest of the state folder, copied to the bucket now and then.
//!
//! One rule makes the copy worth having: **the bucket's journal never speaks of a file that is not in the bucket.** So its length is
//! read first, then everything that had become final by then is waited for, and only then that much of it is copied. It is looked at
//! several times a second, so that a bucket that is slow still gets to know what it has.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::names;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::output::STATE_FOLDER;

/// Between two copies, at least.
const PAUSE: Duration = Duration::from_secs(5);
/// Copying may take this share of the time: a journal grows, and goes as a whole.
const SHARE: u32 = 20;
/// Looks at the journal that may wait for what it spoke of: hours of them.
const LOOKS: usize = 100_000;
/// The last word of a run: it may not come before all that it speaks of.
const LAST: &str = "/done.json";

/// See the module's text.
pub struct Mirror {
    /// Name of this worker's journal.
    journal: String,
    /// How much of it is in the bucket.
    copied: u64,
    /// Lengths that the journal had, and the queue's marks before which all is that it spoke of then.
    looks: VecDeque<(u64, u64)>,
    due: Instant,
}

impl Mirror {
    /// Returns the mirror of the journal of `worker`. The first copy is due at once.
    pub fn new(worker: &str) -> Mirror {
        Mirror { journal: journal_name(worker), copied: 0, looks: VecDeque::new(), due: Instant::now() }
    }

    /// Does what is due, as far as it can be done without waiting for the queue; returns whether it copied anything.
    ///
    /// # Errors
    /// Kind `Storage`; the next call tries again.
    pub fn work(&mut self, shared: &Shared) -> Result<bool> {
        self.look(shared)?;
        if Instant::now() < self.due {
            return Ok(false);
        }
        let started = Instant::now();
        let copied = self.copy_what_may_go(shared);
        self.due = Instant::now() + PAUSE.max(started.elapsed() * SHARE);
        copied
    }

    /// Remembers how long the journal is, and what has to be in the bucket for so much of it.
    fn look(&mut self, shared: &Shared) -> Result<()> {
        // The length before the mark.
        let length = self.length(shared)?;
        let is_news = self.looks.back().map_or(self.copied, |(length, _)| *length) != length;
        if is_news && self.looks.len() < LOOKS {
            self.looks.push_back((length, shared.queue.mark()));
        }
        Ok(())
    }

    fn copy_what_may_go(&mut self, shared: &Shared) -> Result<bool> {
        let mut ready = None;
        while let Some((length, mark)) = self.looks.front().copied() {
            if !shared.queue.wait_until(mark, Duration::ZERO) {
                break;
            }
            ready = Some(length);
            self.looks.pop_front();
        }
        let state =
            self.copy_state(shared, &|name| !name.ends_with(LAST) && names::path(&shared.spool, name).exists())?;
        match ready {
            Some(length) => Ok(self.copy_journal(shared, length)? || state),
            None => Ok(state),
        }
    }

    /// Copies all there is; the queue has to be empty. Files first that are there, then the journal, then what is gone and what says that
    /// all is done: whoever finds the bucket in between finds what was true a moment ago.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn finish(&mut self, shared: &Shared) -> Result<()> {
        let length = self.length(shared)?;
        self.copy_state(shared, &|name| !name.ends_with(LAST) && names::path(&shared.spool, name).exists())?;
        self.copy_journal(shared, length)?;
        self.copy_state(shared, &|_| true).map(drop)
    }

    /// Copies the files of the state folder that have changed, but for journals, as far as they are `wanted` now; returns whether there
    /// were any.
    fn copy_state(&self, shared: &Shared, wanted: &dyn Fn(&str) -> bool) -> Result<bool> {
        let changed = shared.take_changed();
        let mut changed = changed.into_iter().filter(|name| !name.contains("/journal/"));
        let mut copied = false;
        while let Some(name) = changed.next() {
            let put = if wanted(&name) { shared.put_now(&name).map(|()| true) } else { Ok(false) };
            match put {
                Ok(true) => copied = true,
                Ok(false) => shared.note_changed(&name),
                Err(error) => {
                    [name].into_iter().chain(changed).for_each(|name| shared.note_changed(&name));
                    return Err(error);
                }
            }
        }
        Ok(copied)
    }

    fn copy_journal(&mut self, shared: &Shared, length: u64) -> Result<bool> {
        if length == self.copied {
            return Ok(false);
        }
        let path = self.path(shared);
        let failed = |error| Error::storage("read", &path, error);
        let mut bytes = Vec::new();
        let file = fs::File::open(&path).map_err(failed)?;
        file.take(length).read_to_end(&mut bytes).map_err(failed)?;
        // The writer may have been in the midst of a record.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        shared.store.put(&self.journal, bytes.into())?;
        self.copied = length;
        Ok(true)
    }

    fn length(&self, shared: &Shared) -> Result<u64> {
        match fs::metadata(self.path(shared)) {
            Ok(file) => Ok(file.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::storage("read", self.path(shared), error)),
        }
    }

    fn path(&self, shared: &Shared) -> PathBuf {
        names::path(&shared.spool, &self.journal)
    }
}

/// Returns the name of a worker's journal.
pub fn journal_name(worker: &str) -> String {
    format!("{STATE_FOLDER}/journal/{worker}.log")
}
