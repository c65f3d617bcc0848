//! When to stop: signals, time limits, and a watchdog for what cannot be interrupted.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::unregister;

use crate::engine::Pace;
use crate::error::{Error, ErrorKind, Result};

/// Exit code of a run that stopped early and can be resumed.
pub const STOPPED: u8 = 75;
/// Beyond the time for finishing images: what writing them down may take, and a call of a network that had begun.
const GRACE: Duration = Duration::from_millis(1500);
/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(50);

/// Watches for signals and for the end of the time allowed, until it is dropped.
pub struct Stop {
    asked: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    end: Option<Instant>,
    drain_timeout: Duration,
    drained_since: OnceLock<Instant>,
    handlers: Vec<signal_hook::SigId>,
}

impl Stop {
    /// Starts to watch. SIGTERM, SIGINT and SIGUSR1 ask for a stop, and so does SIGHUP if there is a terminal to hang up (else
    /// it is ignored); a second SIGINT ends the process with exit code 130 (what is in the journal stays done). A stop that
    /// takes longer than `drain_timeout` and a little, in a call that cannot be interrupted, ends the process with code 75.
    /// SIGUSR2 asks for a line of progress.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn watch(max_runtime: Option<Duration>, drain_timeout: Duration) -> Result<Self> {
        let mut stop = Stop {
            asked: Arc::default(),
            broken: Arc::default(),
            told: Arc::default(),
            over: Arc::default(),
            end: max_runtime.map(|limit| Instant::now() + limit),
            drain_timeout,
            drained_since: OnceLock::new(),
            handlers: Vec::new(),
        };
        stop.install().map_err(|error| {
            Error::new(ErrorKind::Unexpected, "signals", format!("cannot install signal handlers: {error}"))
                .source(error)
        })?;
        stop.guard();
        Ok(stop)
    }

    /// Returns a switch that halts the run at once, for when writing has failed.
    pub fn breaker(&self) -> Arc<AtomicBool> {
        self.broken.clone()
    }

    /// Returns whether the run was asked to stop early.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0 || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Returns whether a line of progress was asked for since the last time.
    pub fn asked_to_tell(&self) -> bool {
        self.told.swap(false, Ordering::Relaxed)
    }

    /// Returns a question that threads may ask: whether the run was asked to stop early.
    pub fn asker(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (asked, end) = (self.asked.clone(), self.end);
        move || asked.load(Ordering::Relaxed) > 0 || end.is_some_and(|end| Instant::now() >= end)
    }

    /// Returns how long a run that was asked to stop may still take; `None` where it was not.
    pub fn time_left(&self) -> Option<Duration> {
        let since = self.asked().then(|| self.drained_since.get_or_init(Instant::now))?;
        Some(self.drain_timeout.saturating_sub(since.elapsed()))
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

    fn install(&mut self) -> std::io::Result<()> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // The order matters: the conditional exit looks at the flag before this very signal sets it.
        let handlers = &mut self.handlers;
        handlers.push(signal_hook::flag::register_conditional_shutdown(SIGINT, 130, interrupted.clone())?);
        handlers.push(signal_hook::flag::register(SIGINT, interrupted)?);
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            handlers.push(signal_hook::flag::register_usize(signal, self.asked.clone(), 1)?);
        }
        handlers.push(match std::io::stderr().is_terminal() {
            true => signal_hook::flag::register_usize(SIGHUP, self.asked.clone(), 1)?,
            false => signal_hook::flag::register(SIGHUP, Arc::default())?,
        });
        handlers.push(signal_hook::flag::register(SIGUSR2, self.told.clone())?);
        Ok(())
    }

    /// Ends the process when a stop takes too long. Nothing is lost by it: the journal is whole after every record.
    fn guard(&self) {
        let (asked, over, end) = (self.asked.clone(), self.over.clone(), self.end);
        let patience = self.drain_timeout + GRACE;
        thread::spawn(move || {
            let mut since = None;
            while !over.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
                if asked.load(Ordering::Relaxed) > 0 || end.is_some_and(|end| Instant::now() >= end) {
                    let since: &Instant = since.get_or_insert_with(Instant::now);
                    if since.elapsed() > patience && !over.load(Ordering::Relaxed) {
                        tracing::warn!("what was under way takes too long: stopped; the same command again goes on");
                        std::process::exit(i32::from(STOPPED));
                    }
                }
            }
        });
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}
