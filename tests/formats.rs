//! Pictures as PNG, JPEG and WebP, from the command line to the disk.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use image::RgbImage;
use nightshift::output::picture::read_parameters;
use support::{fixtures, manifest, nightshift};
use tempfile::tempdir;

const ROWS: &str = "id,prompt,seed,num_inference_steps\n\
    a,\"a red heart, \"\"quoted\"\"\nsecond line 🦊\",1,2\n\
    b,a star,2,1\n\
    c,a ring,3,3\n";

/// Runs the null model; returns the exit code and standard error.
fn run(csv: &Path, out: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = nightshift();
    command.arg("run").arg(csv).arg("--model").arg(fixtures().join("null")).arg("--out").arg(out).args(flags);
    let output = command.output().expect("the binary starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Returns the files with this ending in the first folder of pictures, by stem.
fn files(out: &Path, ending: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(out.join("images/00000")).expect("it is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let ours = paths.filter(|path| path.extension().is_some_and(|extension| extension == ending));
    let stem = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    ours.map(|path| (stem(&path), fs::read(&path).expect("readable"))).collect()
}

fn pixels(bytes: &[u8]) -> RgbImage {
    image::load_from_memory(bytes).expect("a picture").into_rgb8()
}

/// Returns the mean difference of the channels of two pictures.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

#[test]
fn every_format_has_the_same_pictures_and_parameters() {
    let folder = tempdir().expect("a temporary folder");
    let csv = manifest(&folder, ROWS);
    let made = |name: &str, ending: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        let (code, stderr) = run(&csv, &out, flags);
        assert_eq!(code, Some(0), "{stderr}");
        let files = files(&out, ending);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        files
    };
    let png = made("png", "png", &[]);
    for (name, ending, flags, most) in [
        ("jpeg", "jpg", &["--image-format", "jpeg"][..], 4.0),
        ("webp", "webp", &["--image-format", "webp"], 12.0),
        ("lossless", "webp", &["--image-format", "webp", "--image-quality", "100"], 0.0),
    ] {
        for (key, bytes) in made(name, ending, flags) {
            let found = difference(&pixels(&bytes), &pixels(&png[&key]));
            assert!(found <= most, "{name} {key}: {found}");
            let parameters = read_parameters(&bytes);
            assert!(parameters.is_some());
            assert_eq!(parameters, read_parameters(&png[&key]), "{name} {key}");
        }
    }
}

#[test]
fn another_format_is_another_run() {
    let folder = tempdir().expect("a temporary folder");
    let (csv, out) = (manifest(&folder, ROWS), folder.path().join("out"));
    assert_eq!(run(&csv, &out, &["--image-format", "webp"]).0, Some(0));
    assert_eq!(run(&csv, &out, &["--image-format", "webp", "--image-quality", "90"]).0, Some(0), "90 is the default");
    let (code, stderr) = run(&csv, &out, &[]);
    assert_eq!(code, Some(12), "{stderr}");
    assert!(stderr.contains("`image_format` was `webp`, now `png`") && !stderr.contains("quality"), "{stderr}");
    let (code, stderr) = run(&csv, &out, &["--image-format", "webp", "--image-quality", "50"]);
    assert_eq!(code, Some(12), "{stderr}");
    assert!(stderr.contains("--image-quality 90"), "{stderr}");
    assert_eq!(run(&csv, &out, &["--image-format", "webp", "--image-quality", "0"]).0, Some(2));
}
