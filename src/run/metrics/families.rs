//! Which numbers there are, by name. Counters are this process's own; gauges that speak of all images count those of earlier
//! starts too.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::exposition::{Exposition, Kind, Sample};
use super::{Board, Shown};
use crate::engine::Counters;
use crate::gpu::GpuState;
use crate::output::status::RunState;
use crate::run::progress::{self, Tally};

const STATES: [(RunState, &str); 5] = [
    (RunState::Starting, "starting"),
    (RunState::InProgress, "in_progress"),
    (RunState::Completed, "completed"),
    (RunState::Stopped, "stopped"),
    (RunState::Failed, "failed"),
];

impl Shown {
    /// Returns all metrics as they are now.
    pub(super) fn text(&self) -> String {
        let mut text = Exposition::default();
        self.run(&mut text);
        self.images(&mut text);
        if let Some(board) = self.board.get() {
            counters(&mut text, &board.tally);
            devices(&mut text, &board.tally);
            networks(&mut text, &board.tally);
            uploads(&mut text, &board.tally);
            gpus(&mut text, &board.tally.gpus.now());
        }
        text.into_text()
    }

    fn run(&self, text: &mut Exposition) {
        let (model, worker) =
            self.board.get().map(|board| (board.model.clone(), board.worker.clone())).unwrap_or_default();
        let labels = vec![("version", env!("CARGO_PKG_VERSION").to_string()), ("model", model), ("worker", worker)];
        text.family(Kind::Gauge, "nightshift_run_info", "What runs.", [(labels, 1.0)]);
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let states = STATES.map(|(of, name)| (vec![("state", name.to_string())], f64::from(u8::from(of == state))));
        text.family(Kind::Gauge, "nightshift_run_state", "1 for the state that the run is in.", states);
        let started = self.started.as_secs_f64();
        text.one(Kind::Gauge, "nightshift_start_time_seconds", "When the run began, in seconds since 1970.", started);
    }

    /// What is to be made, and how much of it is there.
    fn images(&self, text: &mut Exposition) {
        let (images, there, left) = match (self.summary.get(), self.board.get()) {
            (Some(summary), _) => (summary.images, summary.skipped + summary.made, summary.left),
            (None, Some(board)) => (board.images, board.there(), board.left()),
            (None, None) => return,
        };
        let gauge = |text: &mut Exposition, name, help, value: u64| text.one(Kind::Gauge, name, help, value as f64);
        gauge(text, "nightshift_images", "Images that the good rows ask for, of this worker.", images);
        gauge(text, "nightshift_images_there", "Of which on disk, those of earlier starts among them.", there);
        gauge(text, "nightshift_images_left", "Of which neither there nor failed.", left);
        let Some(board) = self.board.get() else { return };
        gauge(text, "nightshift_bad_rows", "Rows of the manifest that cannot be made.", board.bad_rows);
        gauge(text, "nightshift_images_planned", "Images to make in this run.", board.tally.planned);
        let eta = progress::seconds_left(&board.tally, board.working_since).filter(|_| self.summary.get().is_none());
        if let Some(eta) = eta {
            text.one(Kind::Gauge, "nightshift_eta_seconds", "Seconds to go, from the steps that are left.", eta);
        }
    }
}

impl Board {
    fn there(&self) -> u64 {
        self.skipped + load(&self.tally.done)
    }

    fn left(&self) -> u64 {
        self.images.saturating_sub(self.there() + load(&self.tally.failed))
    }
}

fn counters(text: &mut Exposition, tally: &Tally) {
    let counter = |text: &mut Exposition, name, help, value: &AtomicU64| {
        text.one(Kind::Counter, name, help, load(value) as f64);
    };
    counter(text, "nightshift_images_done_total", "Images made, on disk and in the journal.", &tally.done);
    let help = "Of which equal to others in all that changes pixels, and copied.";
    counter(text, "nightshift_images_copied_total", help, &tally.copied);
    counter(text, "nightshift_images_failed_total", "Images that could not be made.", &tally.failed);
    let reasons = tally.reasons();
    let reasons = reasons.into_iter().map(|(code, count)| (vec![("code", code)], count as f64));
    text.family(Kind::Counter, "nightshift_failures_total", "Images that could not be made, by their errors.", reasons);
    let help = "Bytes of pictures written.";
    counter(text, "nightshift_written_bytes_total", help, &tally.bytes);
    let last = load(&tally.last_commit);
    if last > 0 {
        let help = "When pictures were last made durable, in seconds since 1970.";
        text.one(Kind::Gauge, "nightshift_last_commit_time_seconds", help, last as f64);
    }
}

/// The lanes of the UNet, device by device.
fn devices(text: &mut Exposition, tally: &Tally) {
    let each = |value: fn(&Counters) -> &AtomicU64| -> Vec<Sample<'_>> {
        let sample = |engine: &progress::EngineTally| {
            (vec![("device", engine.device.to_string())], load(value(&engine.counters)) as f64)
        };
        tally.engines().iter().map(sample).collect()
    };
    let mut counter = |name, help, value: fn(&Counters) -> &AtomicU64| {
        text.family(Kind::Counter, name, help, together(each(value)));
    };
    counter("nightshift_unet_calls_total", "Calls of the UNet.", |counters| &counters.unet_calls);
    counter("nightshift_lanes_used_total", "Lanes of UNet calls that had an image.", |counters| &counters.lanes_used);
    counter("nightshift_lanes_offered_total", "Lanes of UNet calls.", |counters| &counters.lanes_offered);
    let help = "Images that came out as no numbers and were made once more.";
    counter("nightshift_images_repeated_total", help, |counters| &counters.repeated);
    let help = "Pictures that were made again with another seed because of their scores.";
    counter("nightshift_images_retried_total", help, |counters| &counters.retried);
}

/// Adds up samples of equal labels: `cpu,cpu` is two workers on one device, and a label may stand once only.
fn together(samples: Vec<Sample<'_>>) -> Vec<Sample<'_>> {
    let mut all: Vec<Sample<'_>> = Vec::new();
    for (labels, value) in samples {
        match all.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, sum)) => *sum += value,
            None => all.push((labels, value)),
        }
    }
    all
}

fn networks(text: &mut Exposition, tally: &Tally) {
    let times = tally.clock.times();
    let times = [
        ("text_encoder", times.text_encoder),
        ("unet", times.unet),
        ("vae_decoder", times.vae_decoder),
        ("scorer", times.scorer),
    ];
    let samples = times.map(|(network, time)| (vec![("network", network.to_string())], time.as_secs_f64()));
    text.family(Kind::Counter, "nightshift_network_seconds_total", "Seconds spent in each network.", samples);
}

/// What goes to the bucket, where there is one.
fn uploads(text: &mut Exposition, tally: &Tally) {
    let Some(counts) = &tally.uploads else { return };
    let mut one = |kind, name, help, value: &AtomicU64| text.one(kind, name, help, load(value) as f64);
    one(Kind::Counter, "nightshift_uploaded_files_total", "Files that are in the bucket.", &counts.files);
    one(Kind::Counter, "nightshift_uploaded_bytes_total", "Bytes of files that are in the bucket.", &counts.bytes);
    one(
        Kind::Counter,
        "nightshift_upload_failures_total",
        "Uploads that failed and are tried again.",
        &counts.failures,
    );
    one(Kind::Gauge, "nightshift_upload_waiting_files", "Files that wait for the bucket.", &counts.waiting_files);
    one(Kind::Gauge, "nightshift_upload_waiting_bytes", "Bytes that wait for the bucket.", &counts.waiting_bytes);
}

fn gpus(text: &mut Exposition, gpus: &[GpuState]) {
    let each = |value: fn(&GpuState) -> Option<f64>| -> Vec<Sample<'_>> {
        let labels = |gpu: &GpuState| vec![("gpu", gpu.index.to_string()), ("name", gpu.name.clone())];
        gpus.iter().filter_map(|gpu| Some((labels(gpu), value(gpu)?))).collect()
    };
    let mut gauge = |name, help, value| text.family(Kind::Gauge, name, help, each(value));
    let help = "Bytes of GPU memory in use, by all programs.";
    gauge("nightshift_gpu_memory_used_bytes", help, |gpu| gpu.memory_used.map(|bytes| bytes as f64));
    let help = "Bytes of GPU memory.";
    gauge("nightshift_gpu_memory_bytes", help, |gpu| gpu.memory_total.map(|bytes| bytes as f64));
    let help = "Share of the time in which the GPU worked, 0 to 1.";
    gauge("nightshift_gpu_utilization_ratio", help, |gpu| gpu.utilization.map(|percent| f64::from(percent) / 100.0));
    gauge("nightshift_gpu_temperature_celsius", "Temperature of the GPU.", |gpu| gpu.temperature.map(f64::from));
}

fn load(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}
