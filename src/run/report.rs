//! What a run tells people apart from its summary: bad rows, cut prompts, status, the list of failed rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::catalogue::{Catalogue, Failure};
use super::prepare::{Prepared, Truncations};
use super::progress::Tally;
use super::sharding::Share;
use super::summary::Summary;
use crate::error::Result;
use crate::job::{ImageInput, ImageTask, Job};
use crate::manifest::Manifest;
use crate::output::failed::{self, FailedRow};
use crate::output::status::{self, RunState, Status};
use crate::output::{ImageFormat, RunFolder, durable, run_folder};

/// Rows that are named one by one; of more, only the number is told.
const NAMED: usize = 20;
/// Cut prompts that are named one by one.
const NAMED_CUTS: usize = 5;

/// Logs what the manifest's reader noticed, and the first bad rows.
pub fn report_bad_rows(manifest: &Manifest) {
    for notice in &manifest.notices {
        tracing::info!("{notice}");
    }
    for error in manifest.errors.iter().flat_map(|row| &row.errors).take(NAMED) {
        let hint = error.how_to_fix().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        tracing::warn!("{error}{hint}");
    }
    let bad = manifest.errors.len();
    if bad > 0 {
        tracing::warn!("{bad} of {} rows cannot be made; the others can", manifest.rows);
    }
}

/// Logs which texts are longer than the text encoder takes.
pub fn report_truncations(truncations: &Truncations) {
    for cut in truncations.first.iter().take(NAMED_CUTS) {
        let shown: String = cut.cut.chars().take(60).collect();
        tracing::warn!("{}: {} tokens, the model reads {}: `{shown}` is cut off", cut.key, cut.count, cut.limit);
    }
    if truncations.first.len() > NAMED_CUTS {
        let about = if truncations.is_estimate { "about " } else { "" };
        tracing::warn!("{about}{} texts are longer than what the model reads", truncations.count);
    }
}

/// Says so where the pictures to come may not fit on the disk. Their size is guessed from those that are there, else from what
/// such pictures mostly take.
pub fn warn_of_full_disk(folder: &RunFolder, catalogue: &Catalogue, to_make: &[ImageTask], format: ImageFormat) {
    let pixels = |task: &ImageTask| u64::from(task.job.width) * u64::from(task.job.height);
    let there = catalogue.images().iter().filter_map(|image| Some((pixels(&image.task), image.made.as_ref()?.bytes)));
    let (made_pixels, made_bytes) = there.take(1000).fold((0, 0), |(p, b), (pixels, bytes)| (p + pixels, b + bytes));
    let per_pixel = if made_pixels > 0 { made_bytes as f64 / made_pixels as f64 } else { format.bytes_per_pixel() };
    let kept_twice =
        if catalogue.layout().format.is_packed() { 8 * u64::from(catalogue.layout().shard_size) } else { 0 };
    let all: u64 = to_make.iter().map(pixels).sum();
    let twice: u64 = to_make.iter().take(kept_twice as usize).map(pixels).sum();
    let needed = ((all + twice) as f64 * per_pixel) as u64;
    let Some(free) = durable::free_bytes(folder.path()) else { return };
    if needed > free {
        let mib = |bytes: u64| bytes >> 20;
        tracing::warn!(
            "{} more pictures take about {} MiB, and {} MiB are free: the disk will be full before the end",
            to_make.len(),
            mib(needed),
            mib(free)
        );
    }
}

/// Writes `failed.csv` (or removes it where nothing failed); returns how many rows failed.
///
/// # Errors
/// Storage fails.
pub fn write_failed(prepared: &Prepared, catalogue: &Catalogue, folder: &RunFolder) -> Result<u64> {
    let manifest = &prepared.manifest;
    let mut rows: BTreeMap<u64, FailedRow> = BTreeMap::new();
    for row in &manifest.errors {
        if let Some(error) = row.errors.first() {
            let (code, message) = (error.code().to_string(), error.to_string());
            rows.insert(row.row, FailedRow { key: row.key.clone(), cells: row.cells.clone(), code, message });
        }
    }
    let mut failures: Vec<_> = catalogue.failures().iter().collect();
    failures.sort_unstable_by_key(|(ordinal, _)| **ordinal);
    for (ordinal, Failure { code, message }) in failures {
        let job = &catalogue.images()[*ordinal as usize].task.job;
        let cells = manifest.columns.iter().map(|column| cell(job, column)).collect();
        let row = FailedRow { key: job.key(), cells, code: code.clone(), message: message.clone() };
        rows.entry(job.row).or_insert(row);
    }
    let rows: Vec<FailedRow> = rows.into_values().collect();
    failed::write(folder.durable(), &folder.failed_path(), &manifest.columns, &rows)?;
    Ok(rows.len() as u64)
}

/// Returns what stands in `column` for `job`, defaults filled in. A derived seed stays empty: it is derived again.
fn cell(job: &Job, column: &str) -> String {
    match column {
        "id" => job.key(),
        "prompt" => job.prompt.to_string(),
        "negative_prompt" => job.negative_prompt.to_string(),
        "seed" => job.seed.map(|seed| seed.to_string()).unwrap_or_default(),
        "scheduler" => job.scheduler.to_string(),
        "num_inference_steps" => job.num_inference_steps.to_string(),
        "guidance_scale" => job.guidance_scale.to_string(),
        "guidance_rescale" => job.rare().guidance_rescale.to_string(),
        "guidance_start" => job.rare().guidance_start.to_string(),
        "guidance_stop" => job.rare().guidance_stop.to_string(),
        "eta" => job.rare().eta.to_string(),
        "width" => job.width.to_string(),
        "height" => job.height.to_string(),
        "size" => format!("{}x{}", job.width, job.height),
        "image" => path(&job.rare().image),
        "mask_image" => path(&job.rare().mask_image),
        "strength" if job.rare().image.is_some() => job.rare().strength.to_string(),
        "num_images_per_prompt" => job.num_images_per_prompt.to_string(),
        other => rare(job, other).unwrap_or_else(|| pass_through(job, other)),
    }
}

/// Returns the path of a picture so that it is found from the folder of `failed.csv`.
fn path(image: &Option<ImageInput>) -> String {
    let full = |image: &ImageInput| std::path::absolute(&image.path).unwrap_or_else(|_| image.path.clone());
    image.as_ref().map(|image| full(image).display().to_string()).unwrap_or_default()
}

/// Returns one of the settings that few rows have, as a manifest writes it.
fn rare(job: &Job, column: &str) -> Option<String> {
    let rare = job.rare();
    let size = |(width, height): (u32, u32)| format!("{width}x{height}");
    let list = |levels: &Arc<[f64]>| levels.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    let (texts, micro) = (&rare.texts, &rare.micro);
    match column {
        "prompt_2" => texts.prompt_2.clone(),
        "prompt_3" => texts.prompt_3.clone(),
        "negative_prompt_2" => texts.negative_prompt_2.clone(),
        "negative_prompt_3" => texts.negative_prompt_3.clone(),
        "image_guidance_scale" if rare.image.is_some() => Some(rare.image_guidance_scale.to_string()),
        "cache_interval" => Some(rare.cache_interval.to_string()),
        "clip_skip" => (rare.clip_skip > 0).then(|| rare.clip_skip.to_string()),
        "original_size" => micro.original_size.map(size),
        "crops_coords_top_left" => micro.crops_coords_top_left.map(size),
        "target_size" => micro.target_size.map(size),
        "aesthetic_score" => micro.aesthetic_score.map(|score| score.to_string()),
        "negative_aesthetic_score" => micro.negative_aesthetic_score.map(|score| score.to_string()),
        "timesteps" => rare.timesteps.as_ref().map(list),
        "sigmas" => rare.sigmas.as_ref().map(list),
        _ => None,
    }
}

fn pass_through(job: &Job, column: &str) -> String {
    let renamed = format!("src_{column}");
    let cell = job.extra.iter().find(|(name, _)| ***name == *column || ***name == *renamed);
    cell.map(|(_, value)| value.to_string()).unwrap_or_default()
}

/// Replaces `status.json` while the run goes on. A status that cannot be written never ends a run.
pub fn write_progress(folder: &RunFolder, tally: &Tally, there: u64, total: u64, started: Instant) {
    let settled = tally.settled();
    let rate = settled as f64 / started.elapsed().as_secs_f64().max(1e-9);
    let eta = (settled > 0).then(|| tally.planned.saturating_sub(settled) as f64 / rate);
    let done = there + tally.done.load(Ordering::Relaxed);
    let failed = tally.failed.load(Ordering::Relaxed);
    let gpus = tally.gpus.now();
    write(folder, Status { total, done, failed, rate, eta, gpus, ..status_of(RunState::InProgress) });
}

/// Replaces `status.json` after an error that ended the run.
pub fn write_failure(folder: &RunFolder, tally: &Tally, there: u64, total: u64) {
    let done = there + tally.done.load(Ordering::Relaxed);
    let failed = tally.failed.load(Ordering::Relaxed);
    write(folder, Status { total, done, failed, gpus: tally.gpus.now(), ..status_of(RunState::Failed) });
}

/// Replaces `status.json` at the end.
pub fn write_status(folder: &RunFolder, summary: &Summary, state: RunState) {
    let rate = if summary.stages.generate > 0.0 { summary.made as f64 / summary.stages.generate } else { 0.0 };
    let (total, done, failed) = (summary.images, summary.skipped + summary.made, summary.failed);
    write(folder, Status { total, done, failed, rate, ..status_of(state) });
}

/// Returns the status of this process before anything is counted.
fn status_of(state: RunState) -> Status {
    let (pid, host) = (std::process::id(), run_folder::host());
    Status { state, total: 0, done: 0, failed: 0, rate: 0.0, eta: None, pid, host, gpus: Vec::new(), updated: 0 }
}

fn write(folder: &RunFolder, status: Status) {
    let written = match folder.worker() {
        worker if worker == Share::WHOLE.worker() => status::write(folder.durable(), folder.path(), &status),
        worker => status::write_share(folder.durable(), folder.path(), worker, &status),
    };
    if let Err(error) = written {
        tracing::warn!("{error}");
    }
}
