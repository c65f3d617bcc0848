//! Manifests that are edited between runs, and runs that want something else of the same folder (workflow R11, R12).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nightshift::output::{parquet_shard, webdataset};
use support::night::{Dice, LAYOUTS, dataset, fast_tempdir, night, night_to, times};

const SHARDS: [&str; 2] = ["--shard-size", "100"];

fn flags<'a>(layout: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--format", layout][..], &SHARDS, more].concat()
}

/// A row: prompt, seed (if it has one), steps.
type Row = (String, Option<u64>, usize);

fn write(path: &Path, rows: &[Row]) -> PathBuf {
    let seed = |seed: &Option<u64>| seed.map(|seed| seed.to_string()).unwrap_or_default();
    let lines = rows.iter().map(|(prompt, own, steps)| format!("{prompt},{},{steps}\n", seed(own)));
    fs::write(path, format!("prompt,seed,num_inference_steps\n{}", lines.collect::<String>())).expect("writable");
    path.to_path_buf()
}

/// Returns every picture that a loader of the dataset sees, by key.
fn pictures(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, bytes: Vec<u8>| {
        if let Some(key) = name.strip_suffix(".png") {
            assert!(found.insert(key.to_string(), bytes).is_none(), "{key} is there twice");
        }
    };
    for (name, bytes) in dataset(out) {
        let path = out.join(&name);
        if name.ends_with(".tar") {
            webdataset::read(&path, &mut add).expect("a whole tar");
        } else if name.starts_with("data/") {
            parquet_shard::read(&path, &mut add).expect("a whole file");
        } else {
            add(name.rsplit('/').next().unwrap_or_default().to_string(), bytes);
        }
    }
    found
}

/// R11: a row on top, a shuffle, 1 % edited, 1 % deleted, some appended: only new and changed rows are made.
#[test]
fn only_new_and_changed_rows_are_made_and_moved_ones_are_renamed() {
    let mut dice = Dice::new("edits");
    let count = times(300, 2000);
    for (layout, seeds) in LAYOUTS.into_iter().flat_map(|layout| [(layout, true), (layout, false)]) {
        let folder = fast_tempdir();
        let (file, out) = (folder.path().join("rows.csv"), folder.path().join("out"));
        let seed = |row: usize| seeds.then_some(row as u64);
        let mut rows: Vec<Row> = (0..count).map(|row| (format!("picture {row}"), seed(row), 1 + row % 3)).collect();
        let summary = night_to(0, &write(&file, &rows), &out, &flags(layout, &[]));
        assert_eq!(summary["made"], count);
        let edit = |name: &str, rows: &[Row], made: usize, removed: usize| {
            let before: Vec<Vec<u8>> = pictures(&out).into_values().collect();
            let context = format!("{layout}, seeds {seeds}: {name}");
            let summary = night_to(0, &write(&file, rows), &out, &flags(layout, &[]));
            assert_eq!(
                (&summary["made"], &summary["failed"], &summary["left"]),
                (&made.into(), &0.into(), &0.into()),
                "{context}"
            );
            assert_eq!(summary["removed"], removed, "{context}");
            let after = pictures(&out);
            let kept = after.values().filter(|bytes| before.contains(bytes)).count();
            assert!(kept >= rows.len() - made, "{context}: {kept} of {} are as they were", rows.len());
            if seeds {
                let fresh = folder.path().join("fresh");
                night_to(0, &file, &fresh, &flags(layout, &[]));
                let fresh_pictures = pictures(&fresh);
                // An image folder keeps the files of rows that are gone; its metadata does not name them.
                assert!(fresh_pictures.iter().all(|(key, bytes)| after.get(key) == Some(bytes)), "{context}");
                assert!(layout == "imagefolder" || after.len() == fresh_pictures.len(), "{context}");
                fs::remove_dir_all(&fresh).expect("ours");
            }
            let summary = night_to(0, &file, &out, &flags(layout, &[]));
            assert_eq!(summary["made"], 0, "{context}: again");
        };
        rows.insert(0, ("a new one on top".into(), seed(9_000_000), 2));
        edit("a row on top", &rows, 1, 0);
        for at in (1..rows.len()).rev() {
            rows.swap(at, dice.below(at + 1));
        }
        edit("shuffled", &rows, 0, 0);
        for row in (0..count).step_by(100) {
            rows[row].0 += " in the rain";
        }
        edit("1 % edited", &rows, count.div_ceil(100), 0);
        rows.extend((0..5).map(|row| (format!("another {row}"), seed(10_000_000 + row), 1)));
        edit("appended", &rows, 5, 0);
        let gone = count / 100;
        rows.drain(10..10 + gone);
        edit("1 % deleted", &rows, 0, gone);
    }
}

/// A row that comes back finds its picture, and rows that are equal keep their own.
#[test]
fn what_left_the_manifest_is_not_lost() {
    for layout in LAYOUTS {
        let folder = fast_tempdir();
        let (file, out) = (folder.path().join("rows.csv"), folder.path().join("out"));
        let rows: Vec<Row> = (0..50).map(|row| (format!("picture {}", row / 2), Some(row), 2)).collect();
        night_to(0, &write(&file, &rows), &out, &flags(layout, &[]));
        let all = pictures(&out);
        let summary = night_to(0, &write(&file, &rows[..30]), &out, &flags(layout, &[]));
        assert_eq!((&summary["made"], &summary["removed"]), (&0.into(), &20.into()), "{layout}");
        let summary = night_to(0, &write(&file, &rows), &out, &flags(layout, &[]));
        assert_eq!((&summary["made"], &summary["removed"]), (&0.into(), &0.into()), "{layout}");
        assert_eq!(pictures(&out), all, "{layout}");
    }
}

/// R11 and R1 at once: killed while pictures are being renamed.
#[test]
fn a_kill_among_renames_loses_nothing() {
    let mut dice = Dice::new("renames");
    let folder = fast_tempdir();
    let (file, out) = (folder.path().join("rows.csv"), folder.path().join("out"));
    let mut rows: Vec<Row> = (0..2000).map(|row| (format!("picture {row}"), Some(row), 1)).collect();
    night_to(0, &write(&file, &rows), &out, &flags("imagefolder", &[]));
    for round in 0..times(6, 60) {
        rows.rotate_right(1 + dice.below(1500));
        write(&file, &rows);
        let mut child = support::night::start(&file, &out, &flags("imagefolder", &[]));
        std::thread::sleep(Duration::from_millis(20 + dice.below(100) as u64));
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        let summary = night_to(0, &file, &out, &flags("imagefolder", &[]));
        assert_eq!(summary["made"], 0, "round {round}: {summary}");
        let fresh = folder.path().join("fresh");
        night_to(0, &file, &fresh, &flags("imagefolder", &[]));
        assert_eq!(pictures(&out), pictures(&fresh), "round {round}");
        fs::remove_dir_all(&fresh).expect("ours");
    }
}

/// R12: what changes all pixels is another run, told before the model is loaded.
#[test]
fn another_model_or_other_defaults_are_another_run() {
    let folder = fast_tempdir();
    let rows: Vec<Row> = (0..20).map(|row| (format!("picture {row}"), None, 2)).collect();
    let (file, out) = (write(&folder.path().join("rows.csv"), &rows), folder.path().join("out"));
    night_to(0, &file, &out, &[]);
    let before = dataset(&out);
    let other = support::model();
    let model = other.to_str().expect("UTF-8");
    for (flags, field) in [
        (vec!["--model", model], "model_hash"),
        (vec!["--steps", "7"], "num_inference_steps"),
        (vec!["--width", "128"], "width"),
        (vec!["--scheduler", "ddim"], "scheduler"),
        (vec!["--seed", "5"], "seed"),
        (vec!["--noise", "numpy"], "noise"),
        (vec!["--format", "parquet"], "format"),
        (vec!["--shard-size", "10"], "shard_size"),
        (vec!["--image-format", "jpeg"], "image_format"),
    ] {
        let started = Instant::now();
        // A library that is not there: nothing is loaded.
        let model_given = flags.contains(&"--model");
        let mut command = support::nightshift();
        command.arg("run").arg(&file).arg("--out").arg(&out).args(["--ort-lib", "/nowhere"]).args(&flags);
        if !model_given {
            command.arg("--model").arg(support::night::null_model());
        }
        let output = command.output().expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(12), "{flags:?}: {said}");
        assert!(
            said.contains(&format!("`{field}`")) && started.elapsed() < Duration::from_secs(times(10, 2) as u64),
            "{flags:?}: {said}"
        );
    }
    assert_eq!(dataset(&out), before);
    let (code, said) = night(&file, &out, &[]);
    assert_eq!(code, 0, "{said}");
}

/// The name of a Parquet file says how many there are. A crash between a file's new name and the removal of the old one must not
/// leave its pictures there twice.
#[test]
fn a_file_under_a_former_name_goes() {
    let folder = fast_tempdir();
    let (file, out) = (folder.path().join("rows.csv"), folder.path().join("out"));
    let rows = |count: usize| (0..count).map(|row| (format!("picture {row}"), None, 1)).collect::<Vec<Row>>();
    let run = |count| night_to(0, &write(&file, &rows(count)), &out, &flags("parquet", &[]));
    let former = out.join("data/train-00000-of-00002.parquet");
    run(150);
    let bytes = fs::read(&former).expect("readable");
    run(250);
    assert!(!former.exists());
    fs::write(&former, bytes).expect("writable");
    run(251);
    assert_eq!(pictures(&out).len(), 251);
}
