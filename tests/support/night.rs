//! What the tests of whole nights share: the null model, rows, output folders as bytes, random numbers that can be played again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use clap::Parser;
use nightshift::cli::{Cli, Command as Verb};
use nightshift::error::Result;
use nightshift::output::disk::Disk;
use nightshift::run::events::Events;
use nightshift::run::{Summary, Watchers, run_on};

use super::{fixtures, nightshift};

/// The three layouts.
pub const LAYOUTS: [&str; 3] = ["imagefolder", "webdataset", "parquet"];

/// The model whose graphs take next to no time.
pub fn null_model() -> PathBuf {
    fixtures().join("null")
}

/// Returns a folder in memory where there is one: these tests sync thousands of times, and what they check is the order.
pub fn fast_tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

/// Writes a manifest of `rows` rows that differ, into `folder`.
pub fn rows(folder: &Path, rows: usize) -> PathBuf {
    let path = folder.join("rows.csv");
    let mut text = String::from("prompt,seed,num_inference_steps,guidance_scale\n");
    for row in 0..rows {
        text += &format!("a picture of {row},{row},{},{}\n", 1 + row % 4, [1, 4][row % 2]);
    }
    fs::write(&path, text).expect("a temporary folder is writable");
    path
}

/// Returns `nightshift run` with the null model.
pub fn command(rows: &Path, out: &Path, flags: &[&str]) -> Command {
    let mut command = nightshift();
    command.arg("run").arg(rows).arg("--model").arg(null_model()).arg("--out").arg(out).args(flags);
    command
}

/// Runs it and returns its exit code and what it said.
pub fn night(rows: &Path, out: &Path, flags: &[&str]) -> (i32, String) {
    let output = command(rows, out, flags).output().expect("the binary starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs it, checks the exit code, and returns the summary.
pub fn night_to(code: i32, rows: &Path, out: &Path, flags: &[&str]) -> serde_json::Value {
    let output = command(rows, out, flags).arg("--json").output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{} {flags:?}\n{said}", out.display());
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Starts it in the background.
pub fn start(rows: &Path, out: &Path, flags: &[&str]) -> Child {
    let mut command = command(rows, out, flags);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
}

/// Runs it in this process, writing through `disk`.
pub fn night_on(disk: Arc<dyn Disk>, rows: &Path, out: &Path, flags: &[&str]) -> Result<Summary> {
    let model = null_model();
    let fixed = ["nightshift", "run", text(rows), "--model", text(&model), "--out", text(out), "--threads", "1"];
    let cli = Cli::parse_from(fixed.iter().chain(flags));
    let Verb::Run(args) = cli.command else { unreachable!("it was told to run") };
    run_on(
        disk,
        args.into_options()?,
        &Watchers {
            bars: indicatif::MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden()),
            events: Events::default(),
        },
    )
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// Returns every file of the dataset in `out`, by its path: all but the state folder.
pub fn dataset(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("readable").path();
            if path.ends_with(".nightshift") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(out).expect("below it").to_string_lossy().into_owned();
                files.insert(name, fs::read(path).expect("readable"));
            }
        }
    }
    files
}

/// Says in which files two datasets differ; empty if they are equal.
pub fn differences(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).cloned().collect()
}

/// Checks that nothing temporary is left anywhere in `out`.
pub fn assert_tidy(out: &Path) {
    let mut left: Vec<PathBuf> = Vec::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let temporary = name.starts_with('.') && name != ".nightshift" || name.ends_with(".spool");
            let lease = folder.ends_with("locks");
            if path.is_dir() {
                folders.push(path.clone());
            }
            if temporary || lease {
                left.push(path);
            }
        }
    }
    assert!(left.is_empty(), "left over: {left:?}");
}

/// How often a test does what it does: `few` in CI, `many` where `TORTURE` is set (`make torture`).
pub fn times(few: usize, many: usize) -> usize {
    if std::env::var_os("TORTURE").is_some() { many } else { few }
}

/// Random numbers: the seed is printed, and `CRASH_SEED` gives it again.
pub struct Dice(u64);

impl Dice {
    /// Returns dice for a test.
    pub fn new(test: &str) -> Dice {
        let given = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64)
        };
        let seed = given.unwrap_or_else(clock);
        println!("{test}: CRASH_SEED={seed}");
        Dice(seed)
    }

    /// Returns a number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        // SplitMix64 (Steele et al. 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}
