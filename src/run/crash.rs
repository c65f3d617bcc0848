//! A last word of a process that dies of a signal of its own, such as a segmentation fault in a driver: one record at the end of
//! its journal. By it a process that a picture kills is told from one that somebody else killed.

use std::fs::OpenOptions;
use std::path::Path;

use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};
use signal_hook::low_level::{emulate_default_handler, unregister};
use signal_hook_registry::{SigId, register_signal_unchecked};

use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Record, line};
use crate::output::durable::storage_error;

/// Watches for such signals until it is dropped.
pub struct CrashMark {
    handlers: Vec<SigId>,
}

impl CrashMark {
    /// Watches; the last word goes to the end of the file `journal`.
    ///
    /// # Errors
    /// The journal cannot be opened, or a handler cannot be installed.
    pub fn install(journal: &Path) -> Result<CrashMark> {
        let mut mark = CrashMark { handlers: Vec::new() };
        for signal in [SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE] {
            let file = OpenOptions::new().append(true).open(journal);
            let file = file.map_err(|error| storage_error("open", journal, 0, error))?;
            let word = line(&Record::Crashed);
            let handler = move || {
                // Nobody is left to tell of a failure.
                let _ = rustix::io::write(&file, &word);
                let _ = emulate_default_handler(signal);
            };
            let installed = install(signal, handler).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "signals", format!("cannot install signal handlers: {error}"))
                    .source(error)
            })?;
            mark.handlers.push(installed);
        }
        Ok(mark)
    }
}

impl Drop for CrashMark {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}

#[allow(unsafe_code, reason = "a handler of a fatal signal can be installed in no other way")]
fn install(signal: i32, handler: impl Fn() + Send + Sync + 'static) -> std::io::Result<SigId> {
    // SAFETY: the handler must only do what is safe in a signal's context. Ours makes one system call with bytes that were made
    // before, and then dies of the signal; it allocates nothing and takes no lock. `unchecked` allows the signals that mean a
    // broken process, to which it never returns.
    unsafe { register_signal_unchecked(signal, handler) }
}
