//! Faults of networks and of memory, through the real ONNX Runtime: the null models' graphs have them built in
//! (`tests/fixtures/make_null.py`).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use support::{copy, fixtures, manifest, nightshift, pictures};
use tempfile::{TempDir, tempdir};

/// Rows of one and two steps, guided or not; row `i` has the prompt `a WORD heart` where `words` gives one.
fn rows(count: usize, words: &[(usize, &str)]) -> String {
    let mut text = String::from("id,prompt,seed,num_inference_steps,guidance_scale\n");
    for row in 0..count {
        let word = words.iter().find(|(place, _)| *place == row).map_or("red", |(_, word)| word);
        let (steps, guidance) = (1 + row % 2, [1.0, 7.5][row / 2 % 2]);
        text += &format!("r{row:03},a {word} heart {row},{row},{steps},{guidance}\n");
    }
    text
}

/// Runs a null model; returns the exit code and standard error.
fn run(model: &Path, csv: &Path, out: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = nightshift();
    command.arg("run").arg(csv).arg("--model").arg(model).arg("--out").arg(out).args(flags);
    let output = command.output().expect("the binary starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

struct Ran {
    _folder: TempDir,
    csv: PathBuf,
    out: PathBuf,
    code: Option<i32>,
    stderr: String,
    pictures: BTreeMap<String, Vec<u8>>,
}

impl Ran {
    fn new(model: &Path, rows: &str, flags: &[&str]) -> Self {
        let folder = tempdir().expect("a temporary folder");
        let (csv, out) = (manifest(&folder, rows), folder.path().join("out"));
        let (code, stderr) = run(model, &csv, &out, flags);
        let pictures = pictures(&out);
        Ran { _folder: folder, csv, out, code, stderr, pictures }
    }

    /// Returns what `failed.csv` says, line by line, without its header.
    fn failed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.out.join(".nightshift/failed.csv")).unwrap_or_default();
        text.lines().skip(1).map(str::to_string).collect()
    }
}

/// Checks that `ran` has the pictures of `healthy` but for those of the rows `but`.
fn same_but(ran: &Ran, healthy: &Ran, but: &[usize]) {
    let others = |pictures: &BTreeMap<String, Vec<u8>>| {
        let mut pictures = pictures.clone();
        but.iter().for_each(|row| drop(pictures.remove(&format!("r{row:03}.png"))));
        pictures
    };
    assert!(others(&ran.pictures) == others(&healthy.pictures));
}

#[test]
fn what_is_not_a_number_fails_alone_after_a_second_try() {
    let model = fixtures().join("null");
    let healthy = Ran::new(&model, &rows(48, &[]), &["--lanes", "8"]);
    let ran = Ran::new(&model, &rows(48, &[(5, "nan"), (18, "nan"), (47, "nan")]), &["--lanes", "8"]);
    assert_eq!((healthy.code, ran.code), (Some(0), Some(3)), "{}", ran.stderr);
    assert_eq!((ran.pictures.len(), ran.failed().len()), (45, 3));
    assert!(ran.failed().iter().all(|line| line.contains("not_a_number")), "{:?}", ran.failed());
    same_but(&ran, &healthy, &[5, 18, 47]);
}

#[test]
fn what_overflows_in_float16_is_decoded_in_float32() {
    let model = fixtures().join("null");
    let healthy = Ran::new(&model, &rows(24, &[]), &[]);
    let ran = Ran::new(&model, &rows(24, &[(3, "overflow"), (12, "overflow")]), &[]);
    assert_eq!((ran.code, ran.pictures.len()), (Some(0), 24), "{}", ran.stderr);
    same_but(&ran, &healthy, &[3, 12]);
    assert!(!ran.stderr.contains("of one colour"), "{}", ran.stderr);

    let folder = tempdir().expect("a temporary folder");
    let without = folder.path().join("null");
    copy(&model, &without);
    fs::remove_dir_all(without.join("vae_decoder_fp32")).expect("removed");
    let failed = Ran::new(&without, &rows(24, &[(3, "overflow"), (12, "overflow")]), &[]);
    assert_eq!((failed.code, failed.pictures.len()), (Some(3), 22), "{}", failed.stderr);
    assert!(failed.failed().iter().all(|line| line.contains("not_a_number")), "{:?}", failed.failed());
    same_but(&failed, &healthy, &[3, 12]);

    copy(&model.join("vae_decoder_fp32"), &without.join("vae_decoder_fp32"));
    let (code, stderr) = run(&without, &failed.csv, &failed.out, &[]);
    assert_eq!(code, Some(0), "who adds the decoder goes on with the same run: {stderr}");
    assert!(pictures(&failed.out) == ran.pictures);
}

#[test]
fn pictures_of_one_colour_are_kept_and_told() {
    let model = fixtures().join("null");
    let healthy = Ran::new(&model, &rows(12, &[]), &[]);
    let ran = Ran::new(&model, &rows(12, &[(7, "blank")]), &[]);
    assert_eq!((ran.code, ran.pictures.len()), (Some(0), 12), "{}", ran.stderr);
    let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains("of one colour")).collect();
    assert!(matches!(told[..], [line] if line.contains("r007")), "{}", ran.stderr);
    same_but(&ran, &healthy, &[7]);
}

#[test]
fn calls_too_large_for_the_memory_are_made_smaller_and_that_is_remembered() {
    let model = fixtures().join("null-oom");
    let four = Ran::new(&model, &rows(60, &[]), &["--lanes", "4"]);
    let ran = Ran::new(&model, &rows(60, &[]), &["--lanes", "16"]);
    assert_eq!((four.code, ran.code), (Some(0), Some(0)), "{}", ran.stderr);
    assert_eq!(ran.pictures.len(), 60);
    assert!(ran.pictures == four.pictures);
    let told = |stderr: &str| stderr.lines().filter(|line| line.contains("the UNet runs out of memory")).count();
    assert_eq!((told(&ran.stderr), told(&four.stderr)), (1, 0), "{}", ran.stderr);
    let limits = fs::read_to_string(ran.out.join(".nightshift/limits.json")).expect("it is there");
    let limits: serde_json::Value = serde_json::from_str(&limits).expect("JSON");
    let now: Vec<_> = limits["limits"].as_array().expect("a list").iter().map(|limit| limit["now"].as_u64()).collect();
    assert_eq!(now, [Some(4), Some(2)], "lanes, pictures");

    fs::write(&ran.csv, rows(80, &[])).expect("written");
    let (code, stderr) = run(&model, &ran.csv, &ran.out, &["--lanes", "16"]);
    assert_eq!((code, told(&stderr)), (Some(0), 0), "a run that resumes knows: {stderr}");
    assert_eq!(pictures(&ran.out).len(), 80);
}

#[test]
fn an_image_that_no_memory_suffices_for_fails_alone() {
    let model = fixtures().join("null-oom");
    let healthy = Ran::new(&model, &rows(40, &[]), &["--lanes", "4"]);
    let ran = Ran::new(&model, &rows(40, &[(9, "huge")]), &["--lanes", "16"]);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert_eq!(ran.failed().len(), 1);
    assert!(ran.failed()[0].contains("out_of_memory"), "{:?}", ran.failed());
    same_but(&ran, &healthy, &[9]);
}
