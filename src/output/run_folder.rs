//! Opening `OUT`: its folders, its lock, and the check that it belongs to this run.
//!
//! A folder that is not ours may hold other files (a README, a job script), but nothing that we would write or that a
//! loader would mix with our images.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::disk::Lock;
use super::durable::{Durable, WholeFile, storage_error};
use super::fingerprint::{RunFingerprint, other_run};
use crate::error::{Error, ErrorKind, Location, Result};

/// The folder of everything that is not data. Loaders ignore a name with a dot.
pub const STATE_FOLDER: &str = ".nightshift";

/// Tries for the lock: `nightshift status` holds it for a moment to see whether a run does.
const LOCK_TRIES: u32 = 5;

/// An output folder that is ours until this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    out: PathBuf,
    durable: Durable,
    previous: Option<RunFingerprint>,
    _lock: File,
}

impl RunFolder {
    /// Opens or creates the output folder `out` for the run that `fingerprint` describes: takes its lock, removes what a
    /// crash left half-written, and writes `run.json` where it is missing or only manifests, model name or version changed.
    ///
    /// # Errors
    /// Kind `Locked`: a live run has it. Kind `OtherRun`: it belongs to another run, or holds images that are not ours.
    /// Kind `Usage`: a newer nightshift wrote it. Kind `Storage`.
    pub fn open(out: &Path, fingerprint: &RunFingerprint) -> Result<RunFolder> {
        RunFolder::open_on(Durable::default(), out, fingerprint)
    }

    /// Does what [`RunFolder::open`] does, writing through `durable`.
    ///
    /// # Errors
    /// As [`RunFolder::open`].
    pub fn open_on(durable: Durable, out: &Path, fingerprint: &RunFingerprint) -> Result<RunFolder> {
        let state = out.join(STATE_FOLDER);
        if !state.is_dir() {
            refuse_foreign_data(out)?;
        }
        durable.make_folder(&state)?;
        let lock = take_lock(&durable, out)?;
        let previous = check_fingerprint(out, fingerprint)?;
        remove_temps(&durable, out)?;
        let journal = journal_folder(out);
        if previous.is_none() && has_records(&journal)? {
            return Err(missing_run_file(out));
        }
        if previous.as_ref() != Some(fingerprint) {
            let json = fingerprint.to_json();
            durable.commit(&[WholeFile { path: run_file(out), bytes: json.as_bytes() }])?;
        }
        durable.make_folder(&journal)?;
        Ok(RunFolder { out: out.to_path_buf(), durable, previous, _lock: lock })
    }

    /// Returns the output folder itself.
    pub fn path(&self) -> &Path {
        &self.out
    }

    /// Returns the writer that everything of this run goes through.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Returns what `run.json` said before this run, or `None` for a new folder.
    pub fn previous(&self) -> Option<&RunFingerprint> {
        self.previous.as_ref()
    }

    /// Returns the folder of the journal.
    pub fn journal_folder(&self) -> PathBuf {
        journal_folder(&self.out)
    }

    /// Returns the path of the list of rows that failed.
    pub fn failed_path(&self) -> PathBuf {
        failed_path(&self.out)
    }
}

/// Returns the folder of the journal of `out`.
pub fn journal_folder(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("journal")
}

/// Returns the path of `out`'s list of rows that failed.
pub fn failed_path(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("failed.csv")
}

/// Returns the path of `out`'s `run.json`.
pub fn run_file(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("run.json")
}

/// Returns who holds `out` right now, or `None` if no live run does.
///
/// # Errors
/// Kind `Storage`: the lock file cannot be read.
pub fn holder(out: &Path) -> Result<Option<String>> {
    let path = lock_path(out);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| storage_error("read", &path, 0, error))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(fs::TryLockError::WouldBlock) => {
            fs::read_to_string(&path).map(Some).map_err(|error| storage_error("read", &path, 0, error))
        }
        Err(fs::TryLockError::Error(error)) => Err(storage_error("look at the lock", &path, 0, error)),
    }
}

/// Returns the name of this machine.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    let name = name.map(|name| name.trim().to_string()).unwrap_or_default();
    if name.is_empty() { "unknown host".to_string() } else { name }
}

fn lock_path(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("lock")
}

/// Refuses a folder without our state that holds what we would write, or what a loader would mix with our images.
fn refuse_foreign_data(out: &Path) -> Result<()> {
    let entries = match fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| storage_error("list the folder", out, 0, error))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| storage_error("list the folder", out, 0, error))?.file_name();
        let name = name.to_string_lossy();
        if is_foreign_data(&name) {
            let message = format!("the folder holds `{name}`, which no run of nightshift has made there");
            return Err(Error::new(ErrorKind::OtherRun, "foreign_output", message)
                .at(Location::file(out))
                .hint("give a new or empty folder as --out"));
        }
    }
    Ok(())
}

fn is_foreign_data(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    ["images", "data"].contains(&name) || stem == "metadata" || name.ends_with(".tar") || name.ends_with(".png")
}

/// Removes what a crash left half-written, in the folders that are ours.
fn remove_temps(durable: &Durable, out: &Path) -> Result<()> {
    durable.remove_temps(out, 0)?;
    for ours in [STATE_FOLDER, "images"].map(|name| out.join(name)).iter().filter(|folder| folder.is_dir()) {
        durable.remove_temps(ours, 1)?;
    }
    Ok(())
}

fn take_lock(durable: &Durable, out: &Path) -> Result<File> {
    let path = lock_path(out);
    let us = format!("process {} on {}", std::process::id(), host());
    let mut them = String::new();
    for attempt in 0..LOCK_TRIES {
        if attempt > 0 {
            thread::sleep(Duration::from_millis(20));
        }
        match durable.disk().lock(&path, &us).map_err(|error| storage_error("lock", &path, 0, error))? {
            Lock::Held(file) => return Ok(file),
            Lock::Busy(holder) => them = holder,
        }
    }
    let them = if them.is_empty() { "another process".to_string() } else { them };
    Err(Error::new(ErrorKind::Locked, "locked", format!("a live run has this folder: {them}"))
        .at(Location::file(out))
        .hint("wait for it or stop it; or give another --out"))
}

/// Returns what `run.json` says, if it is this run; `None` if there is none.
fn check_fingerprint(out: &Path, now: &RunFingerprint) -> Result<Option<RunFingerprint>> {
    let Some(was) = RunFingerprint::read(&run_file(out))? else { return Ok(None) };
    let differences = was.differences(now);
    if differences.is_empty() { Ok(Some(was)) } else { Err(other_run(out, &differences)) }
}

fn has_records(journal: &Path) -> Result<bool> {
    let failed = |error| storage_error("list the folder", journal, 0, error);
    let entries = match fs::read_dir(journal) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        if entry.and_then(|entry| entry.metadata()).map_err(failed)?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `run.json` is written before any record, so its absence beside records is damage. It cannot be guessed again.
fn missing_run_file(out: &Path) -> Error {
    Error::new(ErrorKind::OtherRun, "run_json_missing", "the folder has a journal but no `run.json`")
        .at(Location::file(run_file(out)))
        .hint("put the file back; or move the folder `.nightshift/journal` away to make all images again")
}
