//! The loaded library: one a process, as ONNX Runtime wants it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider, TensorRT};
use ort::logging::LogLevel;

use super::library::{HOW_TO_GET, find_library};
use crate::error::{Error, ErrorKind, Location, Result};

/// The runtime of this process, once it is loaded. It is never taken down: `ort` cannot make a second one.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The last complaints of ONNX Runtime: what keeps a provider from loading is said there and nowhere else.
static COMPLAINTS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// ONNX Runtime, loaded and ready to make sessions.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
}

impl Runtime {
    /// Loads ONNX Runtime from `explicit` (`--ort-lib`) or where `find_library` finds it. A process loads one library:
    /// later calls return the same, and fail if they name another.
    ///
    /// # Errors
    /// Kind `Provider`: there is no library, it cannot be loaded, is not ONNX Runtime, or is older than 1.31.
    pub fn load(explicit: Option<&Path>) -> Result<Runtime> {
        let mut loaded = lock(&LOADED);
        if let Some(runtime) = &*loaded {
            return runtime.again(explicit);
        }
        let (library, _) = find_library(explicit)?;
        let runtime = Runtime { environment: environment(&library)?, library };
        Ok(loaded.insert(runtime).clone())
    }

    fn again(&self, explicit: Option<&Path>) -> Result<Runtime> {
        let other =
            explicit.map(|path| find_library(Some(path))).transpose()?.filter(|(other, _)| *other != self.library);
        match other {
            None => Ok(self.clone()),
            Some((other, _)) => {
                Err(bad_library(&other, format!("another library, `{}`, is already loaded", self.library.display()))
                    .hint("name one library a process"))
            }
        }
    }

    /// Returns the library's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Returns whether the library was built for CUDA.
    pub(super) fn has_cuda(&self) -> bool {
        CUDA::is_available().unwrap_or(false)
    }

    /// Returns whether the library was built for TensorRT.
    pub(super) fn has_tensorrt(&self) -> bool {
        TensorRT::is_available().unwrap_or(false)
    }

    /// Returns what the library says about its build.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Returns ONNX Runtime's environment, which sessions are made in.
    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }
}

fn environment(library: &Path) -> Result<Environment> {
    // `init_from` compares versions before it calls anything: an older library is an error, not an abort.
    let builder = ort::init_from(library).map_err(|error| refused(library, error))?;
    let environment = builder
        .with_name("nightshift")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, _category, _id, location, message| log(level, location, message)))
        .build()
        .map_err(|error| bad_library(library, format!("ONNX Runtime does not start: {error}")))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

fn refused(library: &Path, error: ort::LoadDynamicError) -> Error {
    use ort::LoadDynamicError::{BadVersion, Dlopen, InvalidVersionString, MissingApi};
    let message = match &error {
        Dlopen { error, .. } => format!("the library cannot be loaded: {error}"),
        MissingApi { .. } => "this library is not ONNX Runtime (it has no `OrtGetApiBase`)".to_string(),
        InvalidVersionString => "this library does not say its version".to_string(),
        BadVersion { version_str, .. } => {
            format!("this is ONNX Runtime {version_str}; nightshift needs 1.{} or newer", ort::MINOR_VERSION)
        }
    };
    bad_library(library, message).source(error)
}

fn bad_library(library: &Path, message: String) -> Error {
    Error::new(ErrorKind::Provider, "bad_onnxruntime", message).at(Location::file(library)).hint(HOW_TO_GET)
}

/// Passes a message of ONNX Runtime on. Its errors come back to us as results too, so they are no louder here.
fn log(level: LogLevel, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", location, "{message}"),
        LogLevel::Error | LogLevel::Warning => tracing::debug!(target: "onnxruntime", location, "{message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(target: "onnxruntime", location, "{message}"),
    }
    if matches!(level, LogLevel::Error | LogLevel::Fatal) {
        let mut complaints = lock(&COMPLAINTS);
        complaints.truncate(7);
        complaints.push_front(message.to_string());
    }
}

/// Runs `work` and returns its result with the complaints of ONNX Runtime in the meantime, oldest first.
pub(super) fn with_complaints<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    lock(&COMPLAINTS).clear();
    let result = work();
    let complaints = lock(&COMPLAINTS).drain(..).rev().collect();
    (result, complaints)
}

/// The guarded values are whole at every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
