//! What the user sees while a run goes on: a bar on a terminal, else a plain line every 30 s.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::clock::Clock;
use super::watch::GpuWatch;
use crate::engine::Counters;
use crate::onnx::{Device, gpu_state};
use crate::output::status::since_1970;
use crate::remote;

/// Counts of one run, written by the writer, read by whoever shows them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Images to make in this run.
    pub planned: u64,
    /// Lane evaluations that they take together: images differ in length, so time is told from these.
    pub planned_evaluations: u64,
    /// Images on disk and in the journal.
    pub done: AtomicU64,
    /// Images that could not be made.
    pub failed: AtomicU64,
    /// Images that equal others, and were copied.
    pub copied: AtomicU64,
    /// Bytes of the pictures.
    pub bytes: AtomicU64,
    /// When pictures were last made durable, in seconds since 1970; 0 before.
    pub last_commit: AtomicU64,
    /// Images that could not be made, by the names of the errors.
    pub failures: Mutex<BTreeMap<&'static str, u64>>,
    /// How long the networks take.
    pub clock: Clock,
    /// What the engines do, one a device, once the networks are being loaded.
    pub engines: OnceLock<Vec<EngineTally>>,
    /// What the GPUs do.
    pub gpus: GpuWatch,
    /// What was uploaded, where the output is in a bucket.
    pub uploads: Option<Arc<remote::Counts>>,
}

/// What one device does.
#[derive(Debug)]
pub struct EngineTally {
    /// Where it runs.
    pub device: Device,
    /// What it has done.
    pub counters: Counters,
}

impl Tally {
    /// Returns the images that are dealt with.
    pub fn settled(&self) -> u64 {
        self.done.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }

    /// Notes that pictures of so many `bytes` are on disk and in the journal.
    pub fn made(&self, pictures: u64, bytes: u64) {
        self.done.fetch_add(pictures, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if pictures > 0 {
            self.last_commit.store(since_1970().as_secs(), Ordering::Relaxed);
        }
    }

    /// Notes that an image could not be made, by the name of its error.
    pub fn failed_by(&self, code: &'static str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// Returns how many images could not be made, by the names of the errors.
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().map(|(code, count)| (code.to_string(), *count)).collect()
    }

    /// Returns a tally for each device; those of the first call, if it was called before.
    pub fn open_engines(&self, devices: &[Device]) -> &[EngineTally] {
        let open = |device: &Device| EngineTally { device: *device, counters: Counters::default() };
        self.engines.get_or_init(|| devices.iter().map(open).collect())
    }

    /// Returns the tally of each device; none before any was opened.
    pub fn engines(&self) -> &[EngineTally] {
        self.engines.get().map_or(&[], |engines| engines)
    }

    /// Looks at the GPUs of the engines.
    pub fn look_at_gpus(&self) {
        self.gpus.look(self.engines().iter().filter_map(|engine| engine.device.gpu()), &gpu_state);
    }

    /// Returns the UNet calls of all devices.
    pub fn unet_calls(&self) -> u64 {
        self.sum(|counters| &counters.unet_calls)
    }

    /// Returns the pictures that were made again because of their scores.
    pub fn retried(&self) -> u64 {
        self.sum(|counters| &counters.retried)
    }

    /// Returns the lanes used in them.
    pub fn lanes_used(&self) -> u64 {
        self.sum(|counters| &counters.lanes_used)
    }

    /// Returns the lanes that they could have used.
    pub fn lanes_offered(&self) -> u64 {
        self.sum(|counters| &counters.lanes_offered)
    }

    /// Returns which share of the lanes was used so far, 0 to 1.
    pub fn occupancy(&self) -> f64 {
        let offered = self.lanes_offered();
        if offered == 0 { 0.0 } else { self.lanes_used() as f64 / offered as f64 }
    }

    fn sum(&self, counter: fn(&Counters) -> &AtomicU64) -> u64 {
        self.engines().iter().map(|engine| counter(&engine.counters).load(Ordering::Relaxed)).sum()
    }
}

/// When the first estimate is told.
const ESTIMATE_AFTER: Duration = Duration::from_secs(5);

/// Shows the tally until `over` is set, also in a line of its own when `asked`; calls `every` five seconds.
pub fn show(
    tally: &Tally,
    bars: &MultiProgress,
    over: &AtomicBool,
    asked: &dyn Fn() -> bool,
    every: &mut dyn FnMut(&Tally),
) {
    let bar = bars.add(ProgressBar::new(tally.planned));
    let mut is_narrow = is_narrow();
    bar.set_style(style(is_narrow));
    let terminal = !bar.is_hidden();
    let mut estimated = false;
    let (started, mut spoken, mut ticked) = (Instant::now(), Instant::now(), Instant::now());
    while !over.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(100));
        if is_narrow != self::is_narrow() {
            is_narrow = !is_narrow;
            bar.set_style(style(is_narrow));
        }
        bar.set_position(tally.settled());
        bar.set_message(message(tally, started));
        // The first steps tell how long the night will be; after that a line every half minute will do.
        let early = !estimated && started.elapsed() >= ESTIMATE_AFTER && tally.lanes_used() > 0;
        estimated |= early;
        if asked() || early || !terminal && spoken.elapsed() >= Duration::from_secs(30) {
            tracing::info!("{}", plain_line(tally, started));
            spoken = Instant::now();
        }
        if ticked.elapsed() >= Duration::from_secs(5) {
            every(tally);
            ticked = Instant::now();
        }
    }
    bar.finish_and_clear();
}

/// Columns below which there is no room for a bar.
const NARROW: u16 = 90;

/// Returns whether the terminal is narrow right now.
fn is_narrow() -> bool {
    rustix::termios::tcgetwinsize(std::io::stderr()).is_ok_and(|size| size.ws_col < NARROW)
}

/// Returns how the bar looks. A line that is too long for the terminal is cut: one that wraps cannot be drawn over.
fn style(is_narrow: bool) -> ProgressStyle {
    let template = match is_narrow {
        true => "{pos}/{len} {wide_msg}",
        false => "{elapsed_precise} {bar:24.green} {pos}/{len} images  {wide_msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    style.progress_chars("=> ")
}

/// Returns the images a second that are dealt with.
pub fn rate(tally: &Tally, started: Instant) -> f64 {
    tally.settled() as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

fn message(tally: &Tally, started: Instant) -> String {
    let failed = tally.failed.load(Ordering::Relaxed);
    let failures = if failed > 0 { format!("  {failed} failed") } else { String::new() };
    let busy = 100.0 * tally.occupancy();
    let gpus: String = tally.gpus.now().iter().map(|gpu| format!("  {gpu}")).collect();
    format!("{}  {:.1}/s  lanes {busy:.0}%{failures}{gpus}", left(tally, started), rate(tally, started))
}

fn left(tally: &Tally, started: Instant) -> String {
    let Some(seconds) = seconds_left(tally, started) else { return "ETA -".to_string() };
    format!("ETA {}", humantime::format_duration(Duration::from_secs(seconds.ceil() as u64)))
}

/// Tells the time left from the lane evaluations done, since the longest images come first; `None` before the first ones.
pub fn seconds_left(tally: &Tally, started: Instant) -> Option<f64> {
    let done = tally.lanes_used() as f64;
    let rate = done / started.elapsed().as_secs_f64().max(1e-9);
    // As many retries will be needed as so far.
    let settled = tally.settled().max(1) as f64;
    let planned = tally.planned_evaluations as f64 * (settled + tally.retried() as f64) / settled;
    (done > 0.0).then(|| (planned - done).max(0.0) / rate)
}

fn plain_line(tally: &Tally, started: Instant) -> String {
    format!("{}/{} images  {}", tally.settled(), tally.planned, message(tally, started))
}
