//! What the end-to-end tests share: the binary, the model that ships, manifests and output folders.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod disk;
pub mod night;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::RgbImage;
use ndarray::{Array, ArrayD};
use nightshift::job::Job;
use nightshift::onnx::Runtime;
use tempfile::TempDir;

/// Root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The model that ships.
pub fn model() -> PathBuf {
    root().join("onnx/tiny-shapes")
}

/// The binary, in the repository's root so that it finds `.ort/`, without any setting of the caller's.
pub fn nightshift() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NIGHTSHIFT_") {
            command.env_remove(name);
        }
    }
    command
}

/// A row for the null model: seed, steps, guidance and width follow from its number, of so many `widths`.
pub fn star(row: u64, widths: u32) -> Job {
    Job {
        row,
        prompt: format!("a star {row}").into(),
        seed: Some(row),
        scheduler: "euler_discrete".into(),
        num_inference_steps: 1 + row as u32 % 4,
        guidance_scale: [1.0, 5.0][row as usize % 2],
        width: 64 + 8 * (row as u32 % widths),
        height: 64,
        num_images_per_prompt: 1,
        ..Job::default()
    }
}

/// Writes `text` as a manifest.
pub fn manifest(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("manifest.csv");
    fs::write(&path, text).expect("a temporary folder is writable");
    path
}

/// Runs `nightshift run` with the model that ships.
pub fn run(manifest: &Path, out: &Path, flags: &[&str]) -> Output {
    let mut command = nightshift();
    command.arg("run").arg(manifest).arg("--model").arg(model()).arg("--out").arg(out).args(flags);
    command.output().expect("the binary starts")
}

/// Runs as [`run`] and checks the exit code; returns standard error.
pub fn run_to(code: i32, manifest: &Path, out: &Path, flags: &[&str]) -> String {
    let output = run(manifest, out, flags);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    stderr
}

/// Returns the bytes of every picture below `out`, by file name.
pub fn pictures(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(folders) = fs::read_dir(out.join("images")) else { return found };
    for folder in folders {
        for file in fs::read_dir(folder.expect("readable").path()).expect("readable") {
            let file = file.expect("readable");
            let name = file.file_name().to_string_lossy().into_owned();
            if name.ends_with(".png") {
                found.insert(name, fs::read(file.path()).expect("readable"));
            }
        }
    }
    found
}

/// Returns every path below `out` whose name starts with a dot, other than the state folder itself.
pub fn temporaries(out: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            let dotted = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if dotted && !path.ends_with(".nightshift") {
                found.push(path.clone());
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// Returns a manifest of `rows` rows that mix sizes, steps, guidance and schedulers, ids given.
pub fn mixed_manifest(rows: usize, most_steps: usize) -> String {
    let prompts = ["a red heart", "a small blue star on a white background", "a green ring left of a black cross", ""];
    let schedulers = ["DDIM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras"];
    let mut text = String::from("id,prompt,seed,num_inference_steps,guidance_scale,scheduler,width,negative_prompt\n");
    for row in 0..rows {
        let steps = 1 + row * 7 % most_steps;
        let guidance = [1.0, 4.0, 7.5][row % 3];
        let width = if row % 6 == 5 { 96 } else { 64 };
        let negative = if row % 4 == 1 { "a gray background" } else { "" };
        let (prompt, scheduler) = (prompts[row % 3], schedulers[row % 5]);
        text += &format!("r{row},{prompt},{row},{steps},{guidance},{scheduler},{width},{negative}\n");
    }
    text
}

/// Returns `manifest` with its data rows in another order (a fixed shuffle).
pub fn shuffled(manifest: &str) -> String {
    let mut lines: Vec<&str> = manifest.lines().collect();
    let rows = lines.len() - 1;
    let mut state = 12345_u64;
    for i in (1..rows).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        lines[1..].swap(i, (state >> 33) as usize % (i + 1));
    }
    lines.join("\n") + "\n"
}

/// Returns a picture's pixels.
pub fn open_picture(path: &Path) -> RgbImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8()
}

/// Returns the largest difference of any channel, and how many channels differ at all.
pub fn difference(ours: &RgbImage, theirs: &RgbImage) -> (u8, usize) {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let differences = ours.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b));
    (differences.clone().max().unwrap_or(0), differences.filter(|difference| *difference > 0).count())
}

/// The small graphs and model folders that the tests run.
pub fn fixtures() -> PathBuf {
    root().join("tests/fixtures")
}

/// Copies a folder and everything in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder is writable");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(drop).expect("a temporary folder is writable")
        }
    }
}

/// The inputs that the scripts of the fixtures gave Python's onnxruntime: i → ((i · 37) mod 101) / 50 − 1.
pub fn ramp(shape: &[usize]) -> ArrayD<f32> {
    let count: usize = shape.iter().product();
    let values = (0..count).map(|i| (((i * 37) % 101) as f64 / 50.0 - 1.0) as f32).collect();
    Array::from_shape_vec(shape, values).expect("as many values as the shape has")
}

/// The library as `make setup` provides it. A test that needs it fails without it: skipping would look like passing.
pub fn runtime() -> Runtime {
    match Runtime::load(None) {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}\nhint: {}", error.how_to_fix().unwrap_or_default()),
    }
}
