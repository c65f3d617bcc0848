//! `OUT/.nightshift/status.json`: how far a run is, for `nightshift status` and for other programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::durable::{Durable, storage_error};
use super::run_folder::STATE_FOLDER;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::gpu::GpuState;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Loading the model.
    Starting,
    /// Making images.
    InProgress,
    /// Every row was tried.
    Completed,
    /// Stopped early; the same command goes on.
    Stopped,
    /// Ended by an error that is not one row's.
    Failed,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What the run is doing.
    pub state: RunState,
    /// Images of the manifest.
    pub total: u64,
    /// Images on disk, those of earlier starts among them.
    pub done: u64,
    /// Images that failed.
    pub failed: u64,
    /// Images a second, lately.
    pub rate: f64,
    /// Seconds to go, where a rate is known.
    pub eta: Option<f64>,
    /// The process.
    pub pid: u32,
    /// The machine.
    pub host: String,
    /// The GPUs as they were last seen, where the driver tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuState>,
    /// Seconds since 1970, in UTC, at which this was written; [`write()`] fills it in.
    pub updated: u64,
}

/// Returns the time since 1970, in UTC; nothing on a clock that stands before.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the path of `out`'s status.
pub fn path(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("status.json")
}

/// Replaces `out`'s status. It is worth nothing after a crash, so nothing is synced.
///
/// # Errors
/// Kind `Storage`.
pub fn write(durable: &Durable, out: &Path, status: &Status) -> Result<()> {
    let updated = since_1970().as_secs();
    let status = Status { updated, ..status.clone() };
    let json = serde_json::to_vec(&status)
        .map_err(|error| Error::new(ErrorKind::Unexpected, "status_json", "cannot encode the status").source(error))?;
    durable.replace_unsynced(&path(out), &json)
}

/// Replaces the status of one of several workers, and `out`'s, which is that of all of them together.
///
/// # Errors
/// Kind `Storage`.
pub fn write_share(durable: &Durable, out: &Path, worker: &str, status: &Status) -> Result<()> {
    let folder = out.join(STATE_FOLDER).join("status");
    durable.make_folder(&folder)?;
    let json = serde_json::to_vec(status)
        .map_err(|error| Error::new(ErrorKind::Unexpected, "status_json", "cannot encode the status").source(error))?;
    durable.replace_unsynced(&folder.join(format!("{worker}.json")), &json)?;
    let files = fs::read_dir(&folder).map_err(|error| storage_error("list the folder", &folder, 0, error))?;
    let texts = files.flatten().filter_map(|file| fs::read(file.path()).ok());
    let shares: Vec<Status> = texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect();
    write(durable, out, &together(&shares, status))
}

/// Adds up the shares; what cannot be added is the last writer's.
fn together(shares: &[Status], last: &Status) -> Status {
    let sum = |value: fn(&Status) -> u64| shares.iter().map(value).sum();
    let busy = shares.iter().filter(|share| share.state == RunState::InProgress);
    let state = [RunState::InProgress, RunState::Failed, RunState::Stopped];
    let state = state.into_iter().find(|state| shares.iter().any(|share| share.state == *state));
    Status {
        state: state.unwrap_or(last.state),
        total: sum(|share| share.total),
        done: sum(|share| share.done),
        failed: sum(|share| share.failed),
        rate: busy.clone().map(|share| share.rate).sum(),
        eta: busy.filter_map(|share| share.eta).reduce(f64::max),
        gpus: shares.iter().flat_map(|share| &share.gpus).cloned().collect(),
        ..last.clone()
    }
}

/// Returns `out`'s status, or `None` where no run has written one.
///
/// # Errors
/// Kind `Storage`: it cannot be read, or is not what we write.
pub fn read(out: &Path) -> Result<Option<Status>> {
    let path = path(out);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| storage_error("read", &path, 0, error))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::new(ErrorKind::Storage, "status_damaged", "this file is damaged")
            .at(Location::file(&path))
            .hint("remove it; the next run writes a new one")
            .source(error)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_status_reads_back_and_replaces_the_last() {
        let out = tempfile::tempdir().unwrap();
        assert_eq!(read(out.path()).unwrap(), None);
        let durable = Durable::default();
        durable.make_folder(&out.path().join(STATE_FOLDER)).unwrap();
        let mut status = Status {
            state: RunState::InProgress,
            total: 10,
            done: 4,
            failed: 1,
            rate: 2.5,
            eta: Some(2.0),
            pid: 7,
            host: "h".into(),
            gpus: Vec::new(),
            updated: 0,
        };
        for done in [4, 5] {
            status.done = done;
            write(&durable, out.path(), &status).unwrap();
            let read = read(out.path()).unwrap().unwrap();
            assert!(read.updated > 1_600_000_000);
            assert_eq!(Status { updated: 0, ..read }, status);
        }
    }

    #[test]
    fn several_workers_have_one_status() {
        let out = tempfile::tempdir().unwrap();
        let durable = Durable::default();
        durable.make_folder(&out.path().join(STATE_FOLDER)).unwrap();
        let status = |state, total, done| Status {
            state,
            total,
            done,
            failed: 1,
            rate: 2.0,
            eta: Some(total as f64),
            pid: 7,
            host: "h".into(),
            gpus: Vec::new(),
            updated: 0,
        };
        write_share(&durable, out.path(), "worker-0-of-2", &status(RunState::InProgress, 10, 4)).unwrap();
        write_share(&durable, out.path(), "worker-1-of-2", &status(RunState::Completed, 20, 20)).unwrap();
        let all = read(out.path()).unwrap().unwrap();
        assert_eq!((all.state, all.total, all.done, all.failed), (RunState::InProgress, 30, 24, 2));
        assert_eq!((all.rate, all.eta), (2.0, Some(10.0)));
    }
}
