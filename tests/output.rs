//! The output folder as a whole: workers, fingerprint, images, metadata.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use image::{Rgb, RgbImage};
use nightshift::error::ErrorKind;
use nightshift::job::{Defaults, Extra, ImageTask, Job};
use nightshift::output::metadata::MetadataRow;
use nightshift::output::{ManifestPrint, Parameters, Provenance, RunFingerprint, RunFolder, WholeFile};
use nightshift::output::{contact_sheet, metadata, png, run_folder};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

fn fingerprint() -> RunFingerprint {
    RunFingerprint {
        version: "0.1.0".into(),
        model: "tiny-shapes".into(),
        model_hash: "0123456789abcdef".into(),
        defaults: Defaults {
            negative_prompt: String::new(),
            seed: u64::MAX,
            scheduler: "euler".into(),
            num_inference_steps: 20,
            guidance_scale: 7.1 + 0.2,
            guidance_rescale: 0.0,
            guidance_start: None,
            guidance_stop: None,
            eta: 0.0,
            strength: None,
            clip_skip: None,
            cache_interval: None,
            width: 64,
            height: 64,
            num_images_per_prompt: 1,
        },
        noise: "torch-cpu".into(),
        prompt_syntax: "plain".into(),
        long_prompt: "truncate".into(),
        vae_tiling: false,
        format: "imagefolder".into(),
        shard_size: 1000,
        image_format: "png".into(),
        image_quality: None,
        scorer_hash: None,
        min_clip_score: None,
        retries: None,
        manifests: vec![ManifestPrint { path: "jobs/a.csv".into(), hash: "ff".into(), rows: 3 }],
    }
}

fn provenance() -> Provenance {
    let (model, model_hash) = ("tiny-shapes".into(), "0123456789abcdef".into());
    Provenance { model, model_hash, version: "0.1.0".into(), noise: "torch-cpu".into(), scorer_hash: None }
}

fn task(row: u64, prompt: &str) -> ImageTask {
    let job = Job {
        row,
        line: row + 2,
        id: (row % 2 == 1).then(|| format!("cat_{row}").into()),
        prompt: prompt.into(),
        seed: (row == 0).then_some(u64::MAX),
        scheduler: "euler".into(),
        num_inference_steps: 20,
        guidance_scale: 4.5,
        width: 64,
        height: 48,
        num_images_per_prompt: 1,
        lanes: 2,
        extra: if row == 2 { Extra::default() } else { [("label", &*format!("{row:03}"))].into() },
        ..Job::default()
    };
    ImageTask::new(Arc::new(job), 0, row, 7)
}

fn picture(number: u64) -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| Rgb([(x * 4) as u8, (y * 5) as u8, number as u8]))
}

const PROMPTS: [&str; 6] = ["NA", "null", "雪の上の赤い狐 🦊", "a \"quoted\", line\nbreak", "test", "007"];

/// Writes the pictures of `PROMPTS` and their metadata, as a run lays them out.
fn small_folder(out: &Path) {
    let folder = RunFolder::open(out, &fingerprint(), WORKER).unwrap();
    let durable = folder.durable();
    let row = |(number, prompt): (usize, &&str)| {
        let task = task(number as u64, prompt);
        let parameters = Parameters::new(&task, &provenance(), "Euler");
        let bytes = png::encode(&picture(number as u64), &parameters).unwrap();
        let file_name = format!("images/00000/{}.png", task.key());
        durable.commit(&[WholeFile { path: out.join(&file_name), bytes: &bytes }]).unwrap();
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        MetadataRow { task, file_name, bytes: bytes.len() as u64, blake3, suspect: number == 3, scored: None }
    };
    let rows: Vec<_> = PROMPTS.iter().enumerate().map(row).collect();
    let bytes = metadata::encode(&provenance(), &["label".into()], &rows).unwrap();
    durable.commit(&[WholeFile { path: out.join("images/00000/metadata.parquet"), bytes: &bytes }]).unwrap();
}

const WORKER: &str = "worker-0-of-1";

/// Returns every file below `folder` with its bytes.
fn data_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(data_files(&path));
        } else {
            files.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

fn relative_files(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let strip = |(path, bytes): (PathBuf, Vec<u8>)| (path.strip_prefix(out).unwrap().to_path_buf(), bytes);
    data_files(out).into_iter().map(strip).collect()
}

fn read_parquet(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.len(), 1);
    batches.into_iter().next().unwrap()
}

#[test]
fn metadata_keeps_types_and_every_text_as_it_is() {
    let out = tempfile::tempdir().unwrap();
    small_folder(out.path());
    let table = read_parquet(&out.path().join("images/00000/metadata.parquet"));
    let column = |name: &str| table.column_by_name(name).unwrap().clone();
    let text = |name: &str| -> Vec<String> {
        column(name).as_string::<i32>().iter().map(|value| value.unwrap().to_string()).collect()
    };
    assert_eq!(text("text"), PROMPTS);
    assert_eq!(text("file_name")[..2], ["000000000.png", "cat_1.png"]);
    assert_eq!(text("id")[..2], ["", "cat_1"]);
    assert_eq!(text("status")[2..4], ["ok", "suspect"]);
    assert_eq!(text("label"), ["000", "001", "", "003", "004", "005"]);
    assert_eq!(column("seed").as_primitive::<Int64Type>().value(0), -1, "u64::MAX wraps");
    assert_eq!(column("row_index").as_primitive::<Int64Type>().values(), &[0, 1, 2, 3, 4, 5]);
    assert_eq!(column("height").as_primitive::<Int32Type>().value(5), 48);
    assert_eq!(column("guidance_scale").as_primitive::<Float64Type>().value(0), 4.5);
    for (name, hash) in text("file_name").iter().zip(text("blake3")) {
        let bytes = fs::read(out.path().join("images/00000").join(name)).unwrap();
        assert_eq!(blake3::hash(&bytes).to_hex().to_string(), hash);
    }
    assert!(table.columns().iter().all(|column| column.null_count() == 0));
}

#[test]
fn metadata_refuses_two_columns_of_one_name() {
    let (task, file_name) = (task(0, "x"), "images/00000/0.png".to_string());
    let row = MetadataRow { task, file_name, bytes: 1, blake3: String::new(), suspect: false, scored: None };
    let error = metadata::encode(&provenance(), &["seed".into()], &[row]).unwrap_err();
    assert!(error.message().contains("`seed`"));
}

#[test]
fn a_second_opener_is_told_who_has_the_folder() {
    let out = tempfile::tempdir().unwrap();
    let first = RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap();
    let error = RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::Locked, 11));
    let us = format!("process {} on {}", std::process::id(), run_folder::host());
    assert!(error.message().contains(&us), "{error}");
    let workers = run_folder::workers(out.path()).unwrap();
    assert_eq!(
        workers.iter().map(|(name, owner)| (name.as_str(), owner.to_string())).collect::<Vec<_>>(),
        [(WORKER, us)]
    );
    drop(first);
    assert!(run_folder::workers(out.path()).unwrap().is_empty());
    RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap();
}

#[test]
fn another_run_is_refused_with_every_field_that_differs() {
    let out = tempfile::tempdir().unwrap();
    drop(RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap());
    let before = relative_files(out.path());
    let mut other = fingerprint();
    other.model_hash = "fedcba".into();
    other.noise = "torch-cuda".into();
    other.defaults.guidance_scale = 9.5;
    other.defaults.scheduler = "ddim".into();
    let error = RunFolder::open(out.path(), &other, WORKER).unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::OtherRun, 12));
    assert!(error.message().contains("`model_hash` was `0123456789abcdef`, now `fedcba`"), "{error}");
    assert!(error.message().contains("`scheduler` was `euler`, now `ddim`"), "{error}");
    assert!(error.message().contains("`guidance_scale`") && error.message().contains("`noise`"), "{error}");
    assert!(!error.message().contains("width"), "{error}");
    assert!(error.how_to_fix().unwrap().contains("--noise torch-cpu"), "{error:?}");
    assert_eq!(relative_files(out.path()), before, "nothing was touched");
}

#[test]
fn what_a_crash_left_half_written_is_removed() {
    let out = tempfile::tempdir().unwrap();
    small_folder(out.path());
    let before = relative_files(out.path());
    for temp in [".000001.tar.nightshift.tmp", ".nightshift/.run.json.nightshift.tmp", ".y.nightshift.tmp"] {
        fs::write(out.path().join(temp), "half").unwrap();
    }
    drop(RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap());
    assert_eq!(relative_files(out.path()), before);
}

#[test]
fn manifests_and_versions_may_change() {
    let out = tempfile::tempdir().unwrap();
    assert_eq!(RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap().previous(), None);
    let mut edited = fingerprint();
    edited.manifests[0].rows = 4;
    edited.version = "0.2.0".into();
    assert_eq!(RunFolder::open(out.path(), &edited, WORKER).unwrap().previous().unwrap().manifests[0].rows, 3);
    let read = RunFingerprint::read(&run_folder::run_file(out.path())).unwrap();
    assert_eq!(read.unwrap().manifests, edited.manifests);
}

#[test]
fn foreign_data_is_refused_and_a_readme_is_not() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("README.md"), "hello").unwrap();
    fs::create_dir(out.path().join("images")).unwrap();
    let error = RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::OtherRun, "foreign_output"));
    assert!(!out.path().join(".nightshift").exists());
    fs::remove_dir(out.path().join("images")).unwrap();
    RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap();
}

#[test]
fn damaged_missing_and_newer_run_files_stop_the_run() {
    let out = tempfile::tempdir().unwrap();
    small_folder(out.path());
    let path = run_folder::run_file(out.path());
    let json = fs::read_to_string(&path).unwrap();
    let kind_with = |text: &str| {
        fs::write(&path, text).unwrap();
        RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap_err().kind()
    };
    assert_eq!(kind_with(&json[..json.len() / 2]), ErrorKind::Storage);
    assert_eq!(kind_with(&json.replace("\"layout\": 1", "\"layout\": 2")), ErrorKind::Usage);
    fs::remove_file(&path).unwrap();
    fs::write(run_folder::journal_folder(out.path()).join("x.log"), "a record").unwrap();
    let error = RunFolder::open(out.path(), &fingerprint(), WORKER).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::OtherRun, "run_json_missing"));
}

/// Writes a sheet to the path in `CONTACT_SHEET`, to be looked at.
#[test]
#[ignore = "for eyes"]
fn contact_sheet_to_look_at() {
    let captions =
        ["a small red heart above a yellow ring on a blue background", "雪の上 🦊 emoji", "short", &"long ".repeat(40)];
    let item = |i: u32| contact_sheet::SheetItem {
        image: RgbImage::from_fn([64, 128, 512, 96][i as usize % 4], 64, |x, y| {
            Rgb([(x * 3) as u8, (y * 4) as u8, (i * 30) as u8])
        }),
        caption: captions[i as usize % 4].to_string(),
        small: format!("seed {} · dpm++ 2m · 20 steps · cfg 4", i * 1_234_567),
    };
    let sheet = contact_sheet::render(&(0..8).map(item).collect::<Vec<_>>(), 4);
    fs::write(std::env::var("CONTACT_SHEET").unwrap(), png::encode_plain(&sheet).unwrap()).unwrap();
}
