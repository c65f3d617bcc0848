//! A million rows (workflow R18, R19), and the driver's own speed. Measurements, so nothing here runs in CI: `make torture`, or
//! `TORTURE=1 cargo test --release --test millions -- --nocapture`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::night::{command, night_to, times};

fn rows(folder: &Path, count: usize) -> PathBuf {
    let path = folder.join("rows.csv");
    let mut text = String::from("prompt,seed,num_inference_steps,guidance_scale\n");
    for row in 0..count {
        text += &format!("a picture of a thing number {row} in the style of {},{row},{},1\n", row % 97, 1 + row % 2);
    }
    fs::write(&path, text).expect("writable");
    path
}

/// What a process did: seconds, peak memory in MiB, and memory and open files at each number of images done.
struct Watched {
    code: Option<i32>,
    seconds: f64,
    peak: u64,
    samples: Vec<(u64, u64, usize)>,
}

fn watch(rows: &Path, out: &Path, flags: &[&str]) -> Watched {
    let mut command = command(rows, out, flags);
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let kib = |name: &str| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_string();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let (mut peak, mut samples, mut next) = (0, Vec::new(), Instant::now());
    let code = loop {
        if let Some(status) = child.try_wait().expect("ours") {
            break status.code();
        }
        peak = peak.max(kib("VmHWM"));
        if Instant::now() >= next {
            let status = fs::read_to_string(out.join(".nightshift/status.json")).unwrap_or_default();
            let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            let files = fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
            samples.push((status["done"].as_u64().unwrap_or(0), kib("VmRSS") / 1024, files));
            next = Instant::now() + Duration::from_secs(1);
        }
        sleep(Duration::from_millis(2));
    };
    Watched { code, seconds: started.elapsed().as_secs_f64(), peak: peak / 1024, samples }
}

/// R18, R19: a million rows through the null model into tars: planning, speed, memory, and the next start.
#[test]
fn a_million_rows() {
    if times(0, 1) == 0 {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (rows, out) = (rows(folder.path(), 1_000_000), folder.path().join("out"));
    let flags = ["--format", "webdataset"];
    let first = watch(&rows, &out, &[&flags[..], &["--limit", "1"]].concat());
    println!("planned 1,000,000 rows and made one in {:.1} s, peak {} MiB", first.seconds, first.peak);
    assert!(first.seconds < 10.0 && first.peak <= 500);
    let whole = watch(&rows, &out, &flags);
    assert_eq!(whole.code, Some(0));
    let early = whole.samples.iter().find(|(done, ..)| *done >= 10_000).expect("it takes longer than that");
    let late = whole.samples.last().expect("it takes longer than that");
    let files = whole.samples.iter().map(|(_, _, files)| *files).max().unwrap_or(0);
    println!(
        "made them in {:.0} s ({:.0} images/s), memory {} MiB at {} images and {} MiB at {}, peak {} MiB, {files} files open",
        whole.seconds,
        1e6 / whole.seconds,
        early.1,
        early.0,
        late.1,
        late.0,
        whole.peak
    );
    assert!(late.1 as f64 <= 1.05 * early.1 as f64 && files <= 256);
    let again = watch(&rows, &out, &flags);
    println!("recognised as done in {:.2} s, peak {} MiB", again.seconds, again.peak);
    assert!(again.code == Some(0) && again.seconds < 5.0 && again.peak <= 500);
    fs::remove_file(out.join(".nightshift/done.json")).expect("the note");
    let closer = watch(&rows, &out, &flags);
    println!("without the note, by manifest and journal: {:.1} s, peak {} MiB", closer.seconds, closer.peak);
}

/// The driver's own speed, everything durable.
#[test]
fn the_drivers_own_speed() {
    if times(0, 1) == 0 {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows(folder.path(), 40_000);
    for (layout, bar) in [("webdataset", 2000.0), ("parquet", 2000.0), ("imagefolder", 600.0)] {
        let out = folder.path().join(layout);
        let summary = night_to(0, &rows, &out, &["--format", layout]);
        let rate = 40_000.0 / summary["seconds"].as_f64().expect("a time");
        println!("{layout}: {rate:.0} images/s, all included (bar {bar})");
        assert!(rate >= bar);
    }
}
