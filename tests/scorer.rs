//! The quality gate: scores as transformers', and pictures that are made again.
//!
//! `tests/golden/make_clip_goldens.py` made the goldens, and says how.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use ndarray::ArrayView1;
use nightshift::model::ScorerSpec;
use nightshift::onnx::{OnnxClip, Runtime, SessionOptions, TextInput};
use nightshift::output::picture;
use nightshift::pixels::read_rgb;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use serde_json::Value;

use support::{manifest, pictures, root, run, run_to};

#[derive(Deserialize)]
struct Goldens {
    prepared: Vec<Prepared>,
    scores: Vec<Score>,
}

#[derive(Deserialize)]
struct Prepared {
    picture: String,
    config: Value,
    shape: Vec<usize>,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Score {
    picture: String,
    text: String,
    score: f64,
}

fn clip() -> PathBuf {
    root().join("onnx/tiny-clip")
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/golden/clip").join(name)).unwrap()
}

fn goldens() -> Goldens {
    serde_json::from_slice(&golden("cases.json")).unwrap()
}

/// A copy of the scorer's folder with another `preprocessor_config.json`.
fn with_config(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.onnx", "tokenizer.json", "tokenizer_config.json"] {
        std::os::unix::fs::symlink(clip().join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("preprocessor_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn pictures_are_prepared_as_transformers_prepares_them() {
    let prepared = goldens().prepared;
    assert!(prepared.len() >= 16);
    for Prepared { picture, config, shape, values } in prepared {
        let preprocessor = nightshift::model::read_preprocessor(with_config(&config).path()).unwrap();
        let ours = preprocessor.pixel_values(&read_rgb(&golden(&picture)).unwrap());
        assert_eq!(ours.shape(), shape, "{picture} {config}");
        let worst = ours.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Whole values, 0 to 255, are equal: the order of scaling and shifting is all that may differ.
        assert!(
            worst <= 2e-6 || worst <= 1e-6 * values.iter().fold(0.0, |m: f32, v| m.max(v.abs())),
            "{picture} {config}: {worst}"
        );
    }
}

/// Returns 100 times the cosine between a picture and a text, at least 0.
fn score(spec: &ScorerSpec, clip: &mut OnnxClip, picture: &str, text: &str) -> f64 {
    let pixels = spec.preprocessor.pixel_values(&read_rgb(&golden(picture)).unwrap());
    let tokens = spec.prompt_tokenizer().unwrap().encode(text).unwrap();
    let length = tokens.count.min(tokens.input_ids.len());
    let text = TextInput { input_ids: ArrayView1::from(&tokens.input_ids), length };
    let (image, text) = clip.embed(pixels.view(), text).unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let (a, b) = (image.as_slice().unwrap(), text.as_slice().unwrap());
    (100.0 * dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).max(0.0)
}

#[test]
fn scores_are_those_of_transformers() {
    let runtime = Runtime::load(None).unwrap();
    let spec = ScorerSpec::open(clip()).unwrap();
    let mut clip = OnnxClip::load(&runtime, &spec, &SessionOptions::default()).unwrap();
    let scores = goldens().scores;
    assert!(scores.len() >= 50 && scores.iter().any(|golden| golden.score > 50.0));
    for golden in scores {
        let ours = score(&spec, &mut clip, &golden.picture, &golden.text);
        assert!(
            (ours - golden.score).abs() < 1e-3,
            "{} {:?}: {ours}, not {}",
            golden.picture,
            golden.text,
            golden.score
        );
    }
}

/// Prompts whose pictures, made in two steps, are good now and then.
fn prompts() -> String {
    let prompts = [
        "a red heart above a yellow ring on a blue background",
        "a green star left of a purple cross on a white background",
        "a large orange diamond on a black background",
        "a small pink triangle on a gray background",
    ];
    let rows = (0..12).map(|row| format!("r{row},{},{}\n", prompts[row % 4], 100 + row));
    String::from("id,prompt,seed\n") + &rows.collect::<String>()
}

const HASTY: [&str; 6] = ["--steps", "3", "--guidance-scale", "2", "--json", "--scorer"];

/// What a picture says of itself: seed, score, retries, and whether it is low.
fn told(bytes: &[u8]) -> (u64, f64, u32, bool) {
    let parameters = picture::read_parameters(bytes).unwrap();
    let scored = parameters.scored().unwrap();
    (parameters.seed, scored.clip_score.value(), scored.retries, scored.is_low)
}

fn all_told(out: &Path) -> BTreeMap<String, (u64, f64, u32, bool)> {
    pictures(out).into_iter().map(|(name, bytes)| (name, told(&bytes))).collect()
}

fn summary(manifest: &Path, out: &Path, flags: &[&str]) -> Value {
    let output = run(manifest, out, flags);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

struct Setting {
    folder: tempfile::TempDir,
    manifest: PathBuf,
    clip: String,
}

impl Setting {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(&folder, text);
        Setting { folder, manifest, clip: clip().display().to_string() }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&HASTY[..], &[self.clip.as_str()], more].concat()
    }

    fn run(&self, out: &str, more: &[&str]) -> Value {
        summary(&self.manifest, &self.out(out), &self.flags(more))
    }
}

/// Returns the score that a third of these are below.
fn bar(scores: impl Iterator<Item = f64>) -> String {
    let mut scores: Vec<f64> = scores.collect();
    scores.sort_by(f64::total_cmp);
    format!("{:.4}", scores[scores.len() / 3] + 0.0001)
}

#[test]
fn a_score_is_written_wherever_a_picture_is() {
    let setting = Setting::new(&prompts());
    let summary = setting.run("out", &[]);
    let told = all_told(&setting.out("out"));
    assert_eq!(told.len(), 12);
    assert!(told.values().all(|(_, score, retries, low)| *score > 0.0 && *retries == 0 && !low));
    let least = told.values().map(|told| told.1).fold(f64::INFINITY, f64::min);
    assert_eq!(summary["scores"]["min"].as_f64(), Some(least));
    assert_eq!((&summary["scores"]["low"], &summary["scores"]["retried"]), (&0.into(), &0.into()));
    // The same pixels as without.
    let plain = setting.out("plain");
    run_to(0, &setting.manifest, &plain, &HASTY[..5]);
    let pixels = |out: &Path| -> Vec<_> { pictures(out).into_values().map(|png| read_rgb(&png).unwrap()).collect() };
    assert_eq!(pixels(&plain), pixels(&setting.out("out")));
    // The table has the same, and a run without a scorer has no such columns.
    let table = metadata(&setting.out("out"));
    let scores = table.column_by_name("clip_score").unwrap().as_primitive::<Float64Type>();
    let keys = table.column_by_name("key").unwrap().as_string::<i32>();
    for (key, score) in keys.iter().zip(scores) {
        assert_eq!(score, Some(told[&format!("{}.png", key.unwrap())].1));
    }
    assert!(metadata(&plain).column_by_name("clip_score").is_none());
}

fn metadata(out: &Path) -> arrow_array::RecordBatch {
    let file = fs::File::open(out.join("images/00000/metadata.parquet")).unwrap();
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap()
}

#[test]
fn pictures_below_the_bar_are_made_again_and_the_best_is_kept() {
    let setting = Setting::new(&prompts());
    setting.run("first", &[]);
    let first = all_told(&setting.out("first"));
    let bar = bar(first.values().map(|told| told.1));
    let least: f64 = bar.parse().unwrap();
    let gate = ["--min-clip-score", bar.as_str(), "--retries", "3"];
    let summary = setting.run("out", &gate);
    let told = all_told(&setting.out("out"));
    let mut again = 0;
    for (name, (seed, score, retries, low)) in &told {
        let before = first[name];
        assert_eq!(*low, *score < least, "{name}");
        if before.1 >= least {
            assert_eq!((*seed, *score, *retries), (before.0, before.1, 0), "{name} was good enough");
        } else {
            again += u64::from(*retries);
            assert!((1..=3).contains(retries) && *score >= before.1, "{name}: {score} after {}", before.1);
            assert_eq!(*seed == before.0, *score == before.1, "{name}: another seed where it is better");
            assert!(!low || *retries == 3, "{name}: all tries were used");
        }
    }
    let retried = told.values().filter(|told| told.2 > 0).count();
    assert!(retried >= 3 && told.values().any(|told| told.2 > 0 && told.1 >= least), "some got better: {told:?}");
    let scores = &summary["scores"];
    assert_eq!((scores["retried"].as_u64(), scores["retries"].as_u64()), (Some(retried as u64), Some(again)));
    // The table says the same.
    let table = metadata(&setting.out("out"));
    let column = |name: &str| table.column_by_name(name).unwrap().clone();
    let (seeds, retries, status, keys) = (column("seed"), column("retries"), column("status"), column("key"));
    for row in 0..table.num_rows() {
        let (seed, _, tries, low) = told[&format!("{}.png", keys.as_string::<i32>().value(row))];
        assert_eq!(seeds.as_primitive::<Int64Type>().value(row), seed.cast_signed());
        assert_eq!(retries.as_primitive::<Int32Type>().value(row), tries as i32);
        assert_eq!(status.as_string::<i32>().value(row), if low { "low_score" } else { "ok" });
    }
    // A picture that was made again is what its own seed gives.
    let (name, (seed, ..)) = told.iter().find(|(name, told)| told.0 != first[*name].0).unwrap();
    let row = prompts()
        .lines()
        .find(|line| line.starts_with(&format!("{},", name.trim_end_matches(".png"))))
        .unwrap()
        .to_string();
    let alone = Setting::new(&format!("id,prompt,seed\nx,{},{seed}\n", row.split(',').nth(1).unwrap()));
    alone.run("out", &[]);
    let pixels = |out: &Path, name: &str| read_rgb(&pictures(out)[name]).unwrap();
    assert_eq!(pixels(&alone.out("out"), "x.png"), pixels(&setting.out("out"), name));
}

#[test]
fn the_gate_does_not_depend_on_lanes_threads_or_interruptions() {
    let setting = Setting::new(&prompts());
    setting.run("first", &[]);
    let bar = bar(all_told(&setting.out("first")).values().map(|told| told.1));
    let gate = |more: &[&'static str]| -> Vec<String> {
        ["--min-clip-score", bar.as_str(), "--retries", "2"].iter().chain(more).map(|flag| flag.to_string()).collect()
    };
    let run = |out: &str, more: &[&'static str]| {
        let flags = gate(more);
        setting.run(out, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        pictures(&setting.out(out))
    };
    let whole = run("whole", &["--lanes", "8"]);
    assert_eq!(run("one", &["--lanes", "1", "--threads", "1"]), whole);
    assert_eq!(run("two", &["--device", "cpu,cpu", "--lanes", "3"]), whole);
    // Five at a time, each a run of its own.
    for _ in 0..3 {
        let flags = gate(&["--limit", "5"]);
        let flags = setting.flags(&flags.iter().map(String::as_str).collect::<Vec<_>>()).join("\u{1f}");
        let flags: Vec<&str> = flags.split('\u{1f}').collect();
        support::run(&setting.manifest, &setting.out("parts"), &flags);
    }
    assert_eq!(pictures(&setting.out("parts")), whole);
    // Nothing is left to do, with or without the note that says so.
    for note in [true, false] {
        if !note {
            fs::remove_file(setting.out("whole").join(".nightshift/done.json")).unwrap();
        }
        let flags = gate(&["--lanes", "8"]);
        let again = setting.run("whole", &flags.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((again["made"].as_u64(), again["skipped"].as_u64()), (Some(0), Some(12)));
        assert!(again["scores"]["retried"].as_u64() >= Some(3) && again["scores"]["retries"] == 0);
        assert_eq!(pictures(&setting.out("whole")), whole);
    }
}

#[test]
fn equal_rows_are_scored_once_and_are_equal() {
    let text = "id,prompt,seed\na,a small blue ring on a red background,1\nb,a small blue ring on a red background,1\n";
    let setting = Setting::new(text);
    let summary = setting.run("out", &["--min-clip-score", "100", "--retries", "2"]);
    let told = all_told(&setting.out("out"));
    assert_eq!((summary["copied"].as_u64(), told["a.png"]), (Some(1), told["b.png"]));
    assert_eq!((told["a.png"].2, told["a.png"].3), (2, true), "nothing reaches 100");
    assert_eq!((summary["scores"]["low"].as_u64(), summary["scores"]["retries"].as_u64()), (Some(2), Some(2)));
}

#[test]
fn packed_layouts_and_repair_keep_scores() {
    let setting = Setting::new(&prompts());
    for format in ["webdataset", "parquet"] {
        setting.run(format, &["--min-clip-score", "100", "--retries", "1", "--format", format]);
        let out = setting.out(format);
        let verify = support::nightshift().arg("verify").arg(&out).arg("--deep").output().unwrap();
        assert_eq!(verify.status.code(), Some(0), "{}", String::from_utf8_lossy(&verify.stdout));
    }
    // Without its journal, a folder is known again by what its pictures say.
    let flags = ["--min-clip-score", "100", "--retries", "1"];
    setting.run("out", &flags);
    let (out, before) = (setting.out("out"), all_told(&setting.out("out")));
    let journal = out.join(".nightshift/journal");
    for file in fs::read_dir(&journal).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    fs::remove_file(out.join(".nightshift/done.json")).unwrap();
    support::nightshift().arg("repair").arg(&out).output().unwrap();
    let again = setting.run("out", &flags);
    assert_eq!((again["made"].as_u64(), again["scores"]["low"].as_u64()), (Some(0), Some(12)), "{again}");
    assert_eq!(all_told(&out), before);
}

#[test]
fn a_folder_with_scores_belongs_to_its_scorer_and_its_bar() {
    let setting = Setting::new("prompt\na red heart\n");
    setting.run("out", &["--min-clip-score", "5"]);
    let refused = |flags: &[&str]| {
        let message = run_to(12, &setting.manifest, &setting.out("out"), flags);
        message
            .lines()
            .filter(|line| line.starts_with("error") || line.starts_with("hint"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let message = refused(&HASTY[..5]);
    assert!(message.contains("`scorer_hash` was `") && message.contains("now `none`"), "{message}");
    let message = refused(&setting.flags(&["--min-clip-score", "6"]));
    assert!(
        message.contains("`min_clip_score` was `5.0`, now `6.0`") && message.contains("--min-clip-score 5.0"),
        "{message}"
    );
    let message = refused(&setting.flags(&["--min-clip-score", "5", "--retries", "9"]));
    assert!(message.contains("`retries` was `3`, now `9`"), "{message}");
    setting.run("out", &["--min-clip-score", "5.0"]);
    run_to(0, &setting.manifest, &setting.out("plain"), &HASTY[..5]);
    let message = run_to(12, &setting.manifest, &setting.out("plain"), &setting.flags(&[]));
    assert!(message.contains("`scorer_hash` was `none`") && message.contains("no --scorer"), "{message}");
}

#[test]
fn folders_that_are_no_scorer_are_told_so() {
    let setting = Setting::new("prompt\na red heart\n");
    let error = |dir: &Path| {
        let dir = dir.display().to_string();
        let message = run_to(10, &setting.manifest, &setting.out("out"), &["--scorer", &dir]);
        assert!(!setting.out("out").exists(), "nothing is made");
        message
    };
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path()).contains("optimum-cli export onnx"));
    let dry = ["--dry-run", "--scorer", empty.path().to_str().unwrap()];
    assert!(run_to(10, &setting.manifest, &setting.out("out"), &dry).contains("optimum-cli export onnx"));
    run_to(0, &setting.manifest, &setting.out("out"), &["--dry-run", "--scorer", &setting.clip]);
    let message = error(&root().join("onnx/tiny-shapes/text_encoder"));
    assert!(message.contains("the graph has no output `text_embeds`"), "{message}");
    let config = goldens().prepared[0].config.clone();
    let other_size = error(with_config(&config).path());
    assert!(other_size.contains("makes pictures 12 × 12"), "{other_size}");
    let mut odd = config.clone();
    odd["resample"] = 2.into();
    assert!(error(with_config(&odd).path()).contains("`resample` `2` is not supported"));
    odd["image_mean"] = "none".into();
    odd["resample"] = 3.into();
    assert!(error(with_config(&odd).path()).contains("`image_mean` must be a list of numbers"));
}

#[test]
fn flags_of_the_gate_need_each_other() {
    let setting = Setting::new("prompt\na red heart\n");
    let usage = |flags: &[&str]| run_to(2, &setting.manifest, &setting.out("out"), flags);
    assert!(usage(&["--min-clip-score", "20"]).contains("--scorer"));
    assert!(usage(&["--scorer", &setting.clip, "--retries", "2"]).contains("--min-clip-score"));
    assert!(usage(&setting.flags(&["--min-clip-score", "101"])).contains("a number from 0 to 100"));
}
