//! The output folder as a whole: lock, fingerprint, images, metadata, and every single effect on the disk failing in turn.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use image::{Rgb, RgbImage};
use nightshift::error::{ErrorKind, Result};
use nightshift::job::{Defaults, Extra, ImageTask, Job};
use nightshift::journal::{self, Digest, Done, Journal, Record};
use nightshift::output::disk::{Disk, DiskFile, Lock, RealDisk};
use nightshift::output::imagefolder::EncodedImage;
use nightshift::output::metadata::MetadataRow;
use nightshift::output::{Durable, ManifestPrint, Parameters, Provenance, RunFingerprint, RunFolder};
use nightshift::output::{contact_sheet, failed, imagefolder, metadata, png, run_folder};
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
            eta: 0.0,
            strength: None,
            clip_skip: None,
            width: 64,
            height: 64,
            num_images_per_prompt: 1,
        },
        noise: "torch-cpu".into(),
        prompt_syntax: "plain".into(),
        long_prompt: "truncate".into(),
        vae_tiling: false,
        format: "imagefolder".into(),
        manifests: vec![ManifestPrint { path: "jobs/a.csv".into(), hash: "ff".into(), rows: 3 }],
    }
}

fn provenance() -> Provenance {
    let (model, model_hash) = ("tiny-shapes".into(), "0123456789abcdef".into());
    Provenance { model, model_hash, version: "0.1.0".into(), noise: "torch-cpu".into() }
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

/// Does what a run does with every image of `PROMPTS` that is not done yet, and returns how many it made.
fn small_run(durable: Durable, out: &Path) -> Result<usize> {
    let folder = RunFolder::open_on(durable, out, &fingerprint())?;
    let (mut journal, mut state) = Journal::open_on(folder.durable(), &folder.journal_folder(), "0")?;
    let tasks: Vec<_> = PROMPTS.iter().enumerate().map(|(row, prompt)| task(row as u64, prompt)).collect();
    let wanted = |task: &&ImageTask| !state.is_done(&task.key, task.row_hash().parse().unwrap());
    let missing: Vec<_> = tasks.iter().filter(wanted).cloned().collect();
    for batch in missing.chunks(4) {
        journal.append(&[Record::Begin { keys: batch.iter().map(|task| task.key.clone()).collect() }])?;
        let encode = |task: &ImageTask| {
            let parameters = Parameters::new(task, &provenance(), "Euler");
            let bytes = png::encode(&picture(task.job.row), &parameters)?;
            Ok(EncodedImage { ordinal: task.ordinal, key: task.key.clone(), bytes })
        };
        let images = batch.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let written = imagefolder::write_batch(folder.durable(), out, &images)?;
        let record = |(task, image): (&ImageTask, imagefolder::WrittenImage)| {
            Record::Done(Done {
                key: image.key,
                row_hash: task.row_hash().parse().unwrap(),
                file_name: image.file_name,
                bytes: image.bytes,
                blake3: Digest(image.blake3),
                seed: task.seed,
            })
        };
        let records: Vec<_> = batch.iter().zip(written).map(record).collect();
        journal.append(&records)?;
        journal.sync()?;
        records.into_iter().for_each(|record| state.apply(record));
    }
    let row = |task: &ImageTask| {
        let image = state.done(&task.key).unwrap();
        let (file_name, blake3) = (image.file_name.to_string(), image.blake3.to_string());
        MetadataRow { task: task.clone(), file_name, bytes: image.bytes, blake3 }
    };
    let rows: Vec<_> = tasks.iter().map(row).collect();
    metadata::write(folder.durable(), out, &provenance(), &["label".into()], &rows)?;
    failed::write(folder.durable(), &folder.failed_path(), &["prompt".into()], &[])?;
    journal.append(&[Record::Stopped])?;
    journal.sync()?;
    Ok(missing.len())
}

/// Returns every file below `folder` with its bytes, except the lock and the journal.
fn data_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "journal" {
            files.extend(data_files(&path));
        } else if path.is_file() && name != "lock" {
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
fn a_run_leaves_images_metadata_and_no_temps_and_a_second_has_nothing_to_do() {
    let out = tempfile::tempdir().unwrap();
    assert_eq!(small_run(Durable::default(), out.path()).unwrap(), 6);
    let files = relative_files(out.path());
    let names: Vec<_> = files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            ".nightshift/run.json",
            "images/00000/000000000.png",
            "images/00000/000000002.png",
            "images/00000/000000004.png",
            "images/00000/cat_1.png",
            "images/00000/cat_3.png",
            "images/00000/cat_5.png",
            "images/00000/metadata.parquet",
        ]
    );
    for (path, bytes) in files.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "png")) {
        let parameters = png::read_parameters(bytes).unwrap().unwrap();
        assert!(PROMPTS.contains(&&*parameters.prompt), "{path:?}");
    }
    assert_eq!(small_run(Durable::default(), out.path()).unwrap(), 0);
    assert_eq!(relative_files(out.path()), files, "the same bytes");
}

#[test]
fn metadata_keeps_types_and_every_text_as_it_is() {
    let out = tempfile::tempdir().unwrap();
    small_run(Durable::default(), out.path()).unwrap();
    let table = read_parquet(&out.path().join("images/00000/metadata.parquet"));
    let column = |name: &str| table.column_by_name(name).unwrap().clone();
    let text = |name: &str| -> Vec<String> {
        column(name).as_string::<i32>().iter().map(|value| value.unwrap().to_string()).collect()
    };
    assert_eq!(text("text"), PROMPTS);
    assert_eq!(text("file_name")[..2], ["000000000.png", "cat_1.png"]);
    assert_eq!(text("id")[..2], ["", "cat_1"]);
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
fn metadata_is_sorted_by_ordinal_and_refuses_two_columns_of_one_name() {
    let out = tempfile::tempdir().unwrap();
    let durable = Durable::default();
    let row = |row: u64| MetadataRow {
        task: task(row, "x"),
        file_name: format!("images/{:05}/{row}.png", row % 2),
        bytes: 1,
        blake3: String::new(),
    };
    metadata::write(&durable, out.path(), &provenance(), &[], &[row(4), row(0), row(3)]).unwrap();
    let table = read_parquet(&out.path().join("images/00000/metadata.parquet"));
    assert_eq!(table.column_by_name("row_index").unwrap().as_primitive::<Int64Type>().values(), &[0, 4]);
    assert!(out.path().join("images/00001/metadata.parquet").exists());
    let error = metadata::write(&durable, out.path(), &provenance(), &["seed".into()], &[row(0)]).unwrap_err();
    assert!(error.message().contains("`seed`"));
}

#[test]
fn a_second_opener_is_told_who_has_the_folder() {
    let out = tempfile::tempdir().unwrap();
    let first = RunFolder::open(out.path(), &fingerprint()).unwrap();
    let error = RunFolder::open(out.path(), &fingerprint()).unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::Locked, 11));
    let us = format!("process {} on {}", std::process::id(), run_folder::host());
    assert!(error.message().contains(&us), "{error}");
    assert_eq!(run_folder::holder(out.path()).unwrap(), Some(us));
    drop(first);
    assert_eq!(run_folder::holder(out.path()).unwrap(), None);
    RunFolder::open(out.path(), &fingerprint()).unwrap();
}

#[test]
fn another_run_is_refused_with_every_field_that_differs() {
    let out = tempfile::tempdir().unwrap();
    drop(RunFolder::open(out.path(), &fingerprint()).unwrap());
    let before = relative_files(out.path());
    let mut other = fingerprint();
    other.model_hash = "fedcba".into();
    other.noise = "torch-cuda".into();
    other.defaults.guidance_scale = 9.5;
    other.defaults.scheduler = "ddim".into();
    let error = RunFolder::open(out.path(), &other).unwrap_err();
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
    small_run(Durable::default(), out.path()).unwrap();
    let before = relative_files(out.path());
    for temp in ["images/00000/.x.png.nightshift.tmp", ".nightshift/.run.json.nightshift.tmp", ".y.nightshift.tmp"] {
        fs::write(out.path().join(temp), "half").unwrap();
    }
    drop(RunFolder::open(out.path(), &fingerprint()).unwrap());
    assert_eq!(relative_files(out.path()), before);
}

#[test]
fn manifests_and_versions_may_change() {
    let out = tempfile::tempdir().unwrap();
    assert_eq!(RunFolder::open(out.path(), &fingerprint()).unwrap().previous(), None);
    let mut edited = fingerprint();
    edited.manifests[0].rows = 4;
    edited.version = "0.2.0".into();
    assert_eq!(RunFolder::open(out.path(), &edited).unwrap().previous().unwrap().manifests[0].rows, 3);
    let read = RunFingerprint::read(&run_folder::run_file(out.path())).unwrap();
    assert_eq!(read.unwrap().manifests, edited.manifests);
}

#[test]
fn foreign_data_is_refused_and_a_readme_is_not() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("README.md"), "hello").unwrap();
    fs::create_dir(out.path().join("images")).unwrap();
    let error = RunFolder::open(out.path(), &fingerprint()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::OtherRun, "foreign_output"));
    assert!(!out.path().join(".nightshift").exists());
    fs::remove_dir(out.path().join("images")).unwrap();
    RunFolder::open(out.path(), &fingerprint()).unwrap();
}

#[test]
fn damaged_missing_and_newer_run_files_stop_the_run() {
    let out = tempfile::tempdir().unwrap();
    small_run(Durable::default(), out.path()).unwrap();
    let path = run_folder::run_file(out.path());
    let json = fs::read_to_string(&path).unwrap();
    let kind_with = |text: &str| {
        fs::write(&path, text).unwrap();
        RunFolder::open(out.path(), &fingerprint()).unwrap_err().kind()
    };
    assert_eq!(kind_with(&json[..json.len() / 2]), ErrorKind::Storage);
    assert_eq!(kind_with(&json.replace("\"layout\": 1", "\"layout\": 2")), ErrorKind::Usage);
    fs::remove_file(&path).unwrap();
    let error = RunFolder::open(out.path(), &fingerprint()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::OtherRun, "run_json_missing"));
}

/// A disk on which the `at`-th effect fails, and all later ones too where `sticky`.
#[derive(Debug)]
struct FailingDisk {
    calls: Arc<AtomicUsize>,
    at: usize,
    sticky: bool,
    errno: i32,
}

struct FailingFile {
    file: Box<dyn DiskFile>,
    disk: FailingDisk,
}

impl FailingDisk {
    fn try_call(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call == self.at || (self.sticky && call > self.at) {
            return Err(io::Error::from_raw_os_error(self.errno));
        }
        Ok(())
    }

    fn same(&self) -> FailingDisk {
        FailingDisk { calls: self.calls.clone(), ..*self }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FailingFile { file, disk: self.same() })
    }
}

impl DiskFile for FailingFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.disk.try_call() {
            self.file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.try_call()?;
        self.file.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.disk.try_call()?;
        self.file.cut(length)
    }
}

impl Disk for FailingDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.try_call()?;
        RealDisk.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.try_call()?;
        Ok(self.file(RealDisk.create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.try_call()?;
        Ok(self.file(RealDisk.append(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.try_call()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.try_call()?;
        RealDisk.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.try_call()?;
        RealDisk.sync_folder(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Lock> {
        self.try_call()?;
        RealDisk.lock(path, holder)
    }
}

/// Returns a folder in memory where there is one: these tests sync thousands of times, and what they check is the order.
fn fast_tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Every effect on the disk fails once, alone or with all that follow: the run says so, no file under a final name is
/// half, and the next run ends with the same bytes as one that was never disturbed.
#[test]
fn any_single_failure_of_the_disk_is_told_and_mended_by_the_next_run() {
    let undisturbed = fast_tempdir();
    small_run(Durable::default(), undisturbed.path()).unwrap();
    let expected = relative_files(undisturbed.path());
    let whole = |bytes: &[u8]| expected.iter().any(|(_, expected)| expected == bytes);
    let nospc = rustix::io::Errno::NOSPC.raw_os_error();
    for (sticky, errno) in [(false, rustix::io::Errno::IO.raw_os_error()), (true, nospc)] {
        let mut failures = 0;
        for at in 0.. {
            let out = fast_tempdir();
            let disk = FailingDisk { calls: Arc::default(), at, sticky, errno };
            let calls = disk.calls.clone();
            let result = small_run(Durable::on(Arc::new(disk)), out.path());
            if calls.load(Ordering::SeqCst) <= at {
                result.unwrap();
                break;
            }
            if let Err(error) = &result {
                assert_eq!(error.kind(), ErrorKind::Storage, "call {at}: {error}");
                failures += 1;
            }
            let files = relative_files(out.path());
            let final_names = files.iter().filter(|(path, _)| !path.to_string_lossy().contains(".nightshift.tmp"));
            assert!(final_names.clone().all(|(_, bytes)| whole(bytes)), "call {at} left half a file");
            let state = journal::read(&run_folder::journal_folder(out.path())).unwrap();
            for (key, image) in state.all_done() {
                let bytes = fs::read(out.path().join(&*image.file_name)).unwrap();
                assert_eq!(Digest(blake3::hash(&bytes).into()), image.blake3, "{key} is done but not whole");
            }
            small_run(Durable::default(), out.path()).unwrap();
            assert_eq!(relative_files(out.path()), expected, "after call {at} failed");
        }
        assert!(failures > 50, "{failures} failures only: is everything going through the disk?");
    }
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

/// Writes an output folder to the path in `SAMPLE_OUT`, to be loaded by other programs.
#[test]
#[ignore = "for other programs"]
fn sample_folder_for_other_programs() {
    small_run(Durable::default(), Path::new(&std::env::var("SAMPLE_OUT").unwrap())).unwrap();
}
