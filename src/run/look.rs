//! The commands that only look: `inspect`, `schedule`, `status`, `doctor`.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::bucket;
use super::options::ScheduleOptions;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::journal;
use crate::model::{Inspection, ModelSpec};
use crate::onnx::Doctor;
use crate::output::status::{self, Status};
use crate::output::{fingerprint, run_folder};
use crate::remote;
use crate::scheduler::{Schedule, ScheduleRequest, SchedulerConfig, custom_sigmas, custom_timesteps};

/// Describes the model folder `dir`.
///
/// # Errors
/// The folder is no model that can be read.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    Ok(Inspection::new(&ModelSpec::open(dir)?))
}

/// Looks at this machine: library, devices, what is missing.
pub fn doctor(ort_lib: Option<&Path>) -> Doctor {
    Doctor::examine(ort_lib)
}

/// Returns the schedule that `options` ask for.
///
/// # Errors
/// The config, `timesteps` or `sigmas` cannot be read, or the scheduler has no such schedule.
pub fn schedule(options: &ScheduleOptions) -> Result<Schedule> {
    let json = match (&options.model, &options.config) {
        (Some(dir), _) => ModelSpec::open(dir)?.scheduler_config,
        (None, Some(file)) => std::fs::read_to_string(file).map_err(|error| unreadable(file, error))?,
        (None, None) => "{}".to_string(),
    };
    let config = SchedulerConfig::from_json(&json)?;
    let config = match &options.scheduler {
        Some(name) => config.select(name)?,
        None => config,
    };
    config.schedule(&request(options)?)
}

fn request(options: &ScheduleOptions) -> Result<ScheduleRequest> {
    let timesteps = options.timesteps.as_deref().map(|text| custom_timesteps(text, options.steps)).transpose()?;
    let sigmas = options.sigmas.as_deref().map(|text| custom_sigmas(text, options.steps)).transpose()?;
    let default = ScheduleRequest::default();
    Ok(ScheduleRequest {
        num_inference_steps: options.steps.unwrap_or(default.num_inference_steps),
        strength: options.strength,
        timesteps,
        sigmas,
        image_seq_len: options.image_seq_len,
        ..default
    })
}

fn unreadable(file: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Usage, "config", format!("cannot be read: {error}")).at(Location::file(file)).source(error)
}

/// What `status` tells about an output folder.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// Output folder.
    pub out: String,
    /// Model that makes it.
    pub model: String,
    /// Who works on it right now, if anyone.
    pub live: Option<String>,
    /// Images that the journal knows as done.
    pub done: u64,
    /// Images whose last try failed.
    pub failed: u64,
    /// What the run itself last said.
    pub last: Option<Status>,
}

/// Returns how far the run in `out` is, without touching anything.
///
/// # Errors
/// `out` holds no run, or its journal is damaged.
pub fn status(out: &Path) -> Result<StatusReport> {
    let Some(url) = bucket::address(out)? else { return status_of(out) };
    let copy = std::env::temp_dir().join(format!("nightshift-status-{}", std::process::id()));
    let found = remote::fetch_state(&url, &copy).and_then(|live| Ok(StatusReport { live, ..status_of(&copy)? }));
    // What stays of it is small, and in a folder for such things.
    let _ = std::fs::remove_dir_all(&copy);
    let name = |error: Error| match error.code() {
        "no_run" => no_run(out),
        _ => error,
    };
    found.map(|report| StatusReport { out: url.to_string(), ..report }).map_err(name)
}

fn status_of(out: &Path) -> Result<StatusReport> {
    let Some(run) = fingerprint::RunFingerprint::read(&run_folder::run_file(out))? else {
        return Err(no_run(out));
    };
    let state = journal::read(&run_folder::journal_folder(out))?;
    Ok(StatusReport {
        out: out.display().to_string(),
        model: run.model,
        live: live(out)?,
        done: state.done_count() as u64,
        failed: state.failed_count() as u64,
        last: status::read(out)?,
    })
}

/// Returns the error that `out` is no output folder.
pub(super) fn no_run(out: &Path) -> Error {
    let error = Error::new(ErrorKind::Usage, "no_run", "holds no run of nightshift").at(Location::file(out));
    error.hint("give what was `--out` of `nightshift run`")
}

/// Returns the living workers, as text.
pub(super) fn live(out: &Path) -> Result<Option<String>> {
    let workers = run_folder::workers(out)?;
    let names = workers.iter().map(|(name, owner)| match name.as_str() {
        "worker-0-of-1" => owner.to_string(),
        name => format!("{name}: {owner}"),
    });
    Ok((!workers.is_empty()).then(|| names.collect::<Vec<_>>().join(", ")))
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "output  {}", self.out)?;
        writeln!(f, "model   {}", self.model)?;
        match (&self.live, &self.last) {
            (Some(holder), _) => writeln!(f, "state   running ({holder})")?,
            (None, Some(last)) => writeln!(f, "state   {}", state_text(last))?,
            (None, None) => writeln!(f, "state   not running")?,
        }
        let total = self.last.as_ref().map_or(String::new(), |last| format!(" of {}", last.total));
        write!(f, "images  {}{total} done, {} failed", self.done, self.failed)?;
        if let (Some(_), Some(last)) = (&self.live, &self.last) {
            write!(f, "\nrate    {:.2} images/s", last.rate)?;
            if let Some(eta) = last.eta {
                let left = std::time::Duration::from_secs(eta.max(0.0) as u64);
                write!(f, ", about {} to go", humantime::format_duration(left))?;
            }
            last.gpus.iter().try_for_each(|gpu| write!(f, "\ngpu     {gpu}"))?;
        }
        Ok(())
    }
}

fn state_text(last: &Status) -> &'static str {
    match last.state {
        status::RunState::Completed => "finished",
        status::RunState::Stopped => "stopped early; the same command again goes on",
        status::RunState::Failed => "ended by an error; the same command again goes on",
        // Nobody holds the lock, so whoever wrote this is gone.
        status::RunState::Starting | status::RunState::InProgress => {
            "killed while running; the same command again goes on"
        }
    }
}
