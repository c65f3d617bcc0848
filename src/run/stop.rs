//! When to stop: signals and time limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::engine::Pace;
use crate::error::{Error, ErrorKind, Result};

/// Watches for signals and for the end of the time allowed.
pub struct Stop {
    asked: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    started: Instant,
    max_runtime: Option<Duration>,
    drain_timeout: Duration,
    drained_since: std::sync::OnceLock<Instant>,
}

impl Stop {
    /// Starts to watch. SIGTERM, SIGINT and SIGUSR1 ask for a stop; a second SIGINT ends the process with exit code 130
    /// (what is in the journal stays done).
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn watch(max_runtime: Option<Duration>, drain_timeout: Duration) -> Result<Self> {
        let asked = Arc::new(AtomicUsize::new(0));
        let interrupted = Arc::new(AtomicBool::new(false));
        install(&asked, &interrupted).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "signals", format!("cannot install signal handlers: {error}"))
                .source(error)
        })?;
        let broken = Arc::new(AtomicBool::new(false));
        let drained_since = std::sync::OnceLock::new();
        Ok(Stop { asked, broken, started: Instant::now(), max_runtime, drain_timeout, drained_since })
    }

    /// Returns a switch that halts the run at once, for when writing has failed.
    pub fn breaker(&self) -> Arc<AtomicBool> {
        self.broken.clone()
    }

    /// Returns whether the run was asked to stop early.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0 || self.max_runtime.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    /// Returns how to go on.
    pub fn pace(&self) -> Pace {
        if self.broken.load(Ordering::Relaxed) {
            return Pace::Halt;
        }
        if !self.asked() {
            return Pace::Go;
        }
        let since = self.drained_since.get_or_init(|| {
            tracing::info!("stopping: finishing the images under way (at most {:?})", self.drain_timeout);
            Instant::now()
        });
        if since.elapsed() < self.drain_timeout { Pace::Drain } else { Pace::Halt }
    }
}

fn install(asked: &Arc<AtomicUsize>, interrupted: &Arc<AtomicBool>) -> std::io::Result<()> {
    // The order matters: the conditional exit looks at the flag before this very signal sets it.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, interrupted.clone())?;
    signal_hook::flag::register(SIGINT, interrupted.clone())?;
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        signal_hook::flag::register_usize(signal, asked.clone(), 1)?;
    }
    Ok(())
}
