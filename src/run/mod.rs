//! The one place that knows the order of things: prepare, open the output folder, load the networks, make what is
//! missing, write it down, sum up.

mod check;
mod ledger;
pub mod logging;
mod look;
mod make;
mod options;
mod prepare;
mod probing;
mod progress;
mod remembered;
mod report;
mod sheet;
mod stop;
mod summary;
mod tiling;
mod writer;

use std::time::Instant;

use indicatif::MultiProgress;

pub use check::{CheckReport, check};
pub use look::{doctor, inspect, schedule, status};
pub use options::{DefaultFlags, JobOptions, Lanes, MaxFailed, RunOptions, ScheduleOptions, VaeTiling};
pub use prepare::{Prepared, Truncation, prepare};
pub use summary::{Stages, Summary};

use crate::error::Result;
use crate::job::ImageTask;
use crate::journal::Journal;
use crate::output::{ManifestPrint, Provenance, RunFingerprint, RunFolder, status};
use crate::plan::tasks;
use ledger::Ledger;
use make::{Made, make};
use report::{report_bad_rows, report_truncations};

/// Name of this worker's journal file.
const WORKER: &str = "worker-0";

/// Makes the images of a manifest that are not there yet, and returns what came of it. `bars` is where progress is shown.
///
/// # Errors
/// Whatever keeps the run as a whole from being done: manifest structure, model, device, output folder, storage. Rows
/// that fail are no error here: they are in the summary, and in `failed.csv`.
pub fn run(options: RunOptions, bars: &MultiProgress) -> Result<Summary> {
    let started = Instant::now();
    let prepared = prepare(&options.job)?;
    report_bad_rows(&prepared.manifest);
    let provenance = provenance(&prepared, &options)?;
    let fingerprint = fingerprint(&prepared, &options, &provenance);
    let folder = RunFolder::open(&options.out, &fingerprint)?;
    let (mut journal, state) = Journal::open(&folder.journal_folder(), WORKER)?;
    let all = tasks(&prepared.jobs, prepared.defaults.seed);
    let columns = prepared.manifest.extra_columns.clone();
    let mut ledger = Ledger::new(&folder, &provenance, columns, all, &state);
    let manifest_changed = folder.previous().is_some_and(|former| former.manifests != fingerprint.manifests);
    ledger.mark_stale(manifest_changed);
    let missing = ledger.missing(options.job.limit.unwrap_or(usize::MAX));
    report_too_long(&prepared, &missing);
    let skipped = ledger.written();
    let mut stages = Stages { prepare: started.elapsed().as_secs_f64(), ..Stages::default() };
    let made = match missing.is_empty() {
        true => Made::default(),
        false => make(&prepared, &options, missing, &folder, &mut journal, &mut ledger, bars)?,
    };
    let finishing = Instant::now();
    ledger.write_stale_folders()?;
    let failed_rows = report::write_failed(&prepared, &ledger, &folder)?;
    let contact_sheet = sheet::write(&options, &ledger, made.images > 0)?;
    (stages.load, stages.generate, stages.write) = (made.load, made.generate, made.write);
    stages.finish = finishing.elapsed().as_secs_f64();
    let mut summary = Summary {
        out: options.out.clone(),
        rows: prepared.manifest.rows,
        images: ledger.images(),
        made: made.images,
        skipped,
        failed: ledger.failures().len() as u64,
        left: ledger.images() - ledger.written() - ledger.failures().len() as u64,
        failed_rows,
        removed: ledger.removed(),
        lane_occupancy: made.occupancy,
        unet_calls: made.unet_calls,
        seconds: started.elapsed().as_secs_f64(),
        stages,
        failed_csv: (failed_rows > 0).then(|| folder.failed_path()),
        contact_sheet,
        exit_code: 0,
    };
    summary.exit_code = exit_code(&summary, options.max_failed);
    let state = if summary.left > 0 { status::RunState::Stopped } else { status::RunState::Completed };
    report::write_status(&folder, &summary, state);
    Ok(summary)
}

fn exit_code(summary: &Summary, max_failed: Option<MaxFailed>) -> u8 {
    let tolerated = max_failed.is_some_and(|limit| limit.allows(summary.failed_rows, summary.rows));
    match summary {
        _ if summary.left > 0 => 75,
        _ if summary.failed_rows > 0 && !tolerated => 3,
        _ => 0,
    }
}

fn provenance(prepared: &Prepared, options: &RunOptions) -> Result<Provenance> {
    Ok(Provenance {
        model: prepared.spec.name.clone(),
        model_hash: prepared.spec.hash()?,
        version: env!("CARGO_PKG_VERSION").to_string(),
        noise: options.job.noise.to_string(),
    })
}

fn fingerprint(prepared: &Prepared, options: &RunOptions, provenance: &Provenance) -> RunFingerprint {
    let paths = options.job.manifests.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    RunFingerprint {
        version: provenance.version.clone(),
        model: provenance.model.clone(),
        model_hash: provenance.model_hash.clone(),
        defaults: prepared.defaults.clone(),
        noise: provenance.noise.clone(),
        prompt_syntax: options.job.prompts.syntax.to_string(),
        long_prompt: options.job.prompts.long.to_string(),
        vae_tiling: options.vae_tiling == VaeTiling::On,
        format: "imagefolder".to_string(),
        manifests: vec![ManifestPrint {
            path: paths.join(", "),
            hash: prepared.manifest.hash.clone(),
            rows: prepared.manifest.rows,
        }],
    }
}

fn report_too_long(prepared: &Prepared, missing: &[ImageTask]) {
    let mut jobs: Vec<_> = missing.iter().map(|task| &task.job).collect();
    jobs.dedup_by_key(|job| job.row);
    report_truncations(&prepared.truncations(&jobs));
}
