//! Numbers of a run for Prometheus: served at an address, written to a file, or both. They say what `status.json` says, and more,
//! under names that do not change.

mod address;
mod exposition;
mod families;
mod server;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use address::MetricsAddress;

use super::progress::Tally;
use super::summary::Summary;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::Durable;
use crate::output::status::{RunState, since_1970};
use server::Server;

/// Where metrics go.
#[derive(Debug, Clone, Default)]
pub struct MetricsOptions {
    /// Address to serve them at.
    pub address: Option<MetricsAddress>,
    /// File to keep them in.
    pub file: Option<PathBuf>,
}

/// The metrics of one run, from before the model is read to after the summary.
pub struct Metrics {
    shown: Arc<Shown>,
    /// Serves until the run is over.
    _server: Option<Server>,
    file: Option<PathBuf>,
    /// Whether it was told that the file cannot be written.
    told: AtomicBool,
}

/// What there is to see.
struct Shown {
    /// When the process began its work, since 1970.
    started: Duration,
    state: Mutex<RunState>,
    board: OnceLock<Board>,
    summary: OnceLock<Summary>,
}

/// What is known once the output folder is open.
pub struct Board {
    /// Counts of the run.
    pub tally: Arc<Tally>,
    /// Images of this worker.
    pub images: u64,
    /// Of which there already.
    pub skipped: u64,
    /// Rows that are bad to begin with.
    pub bad_rows: u64,
    /// The model's name.
    pub model: String,
    /// This worker's name.
    pub worker: String,
    /// When the work on images began.
    pub working_since: Instant,
}

impl Metrics {
    /// Opens the address and the file, so that what is wrong with them is known before the night.
    ///
    /// # Errors
    /// Kind `Usage`: the address cannot be listened at, or the file cannot be written.
    pub fn open(options: &MetricsOptions) -> Result<Metrics> {
        let (state, started) = (Mutex::new(RunState::Starting), since_1970());
        let shown = Arc::new(Shown { started, state, board: OnceLock::new(), summary: OnceLock::new() });
        let text = shown.clone();
        let serve = |address| Server::start(address, move || text.text());
        let server = options.address.map(serve).transpose()?;
        if let Some(server) = &server {
            tracing::info!("metrics at http://{}/metrics", server.address());
        }
        let metrics = Metrics { shown, _server: server, file: options.file.clone(), told: AtomicBool::new(false) };
        metrics.try_write().map_err(|(path, error)| {
            Error::new(ErrorKind::Usage, "metrics_file", format!("cannot write metrics here: {}", error.message()))
                .at(Location::file(path))
                .hint("give a file in a folder that is there and writable")
        })?;
        Ok(metrics)
    }

    /// Shows the counts of a run whose output folder is open.
    pub fn show(&self, board: Board) {
        let _ = self.shown.board.set(board);
        self.set(RunState::InProgress);
    }

    /// Writes the file anew; says once if that cannot be done, and never ends a run.
    pub fn write(&self) {
        if let Err((path, error)) = self.try_write()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{}: metrics cannot be written: {}", path.display(), error.message());
        }
    }

    /// Shows how the run ended.
    pub fn end(&self, ended: &Result<Summary>) {
        match ended {
            Ok(summary) => {
                self.set(if summary.left > 0 { RunState::Stopped } else { RunState::Completed });
                let _ = self.shown.summary.set(summary.clone());
            }
            Err(_) => self.set(RunState::Failed),
        }
        self.write();
    }

    fn set(&self, state: RunState) {
        *self.shown.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn try_write(&self) -> Result<(), (&Path, Error)> {
        let Some(path) = &self.file else { return Ok(()) };
        Durable::default().replace_unsynced(path, self.shown.text().as_bytes()).map_err(|error| (&**path, error))
    }
}
