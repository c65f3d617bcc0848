//! `verify` and `repair` through the binary, on folders that the null model makes: every fault is found, none is imagined, and
//! after a repair the same command makes what is missing, to the byte.
//!
//! `CRASH_SEED=N` plays a test's faults again; each prints its seed. `TORTURE=1` (`make torture`) does the full counts of R5 and
//! R20. `--ignored a_million` looks at a million files.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use nightshift::journal::{Digest, Done, Journal, Record};
use serde_json::Value;
use support::night::{Dice, LAYOUTS, dataset, differences, fast_tempdir, null_model, times};
use support::{copy, manifest, nightshift};
use tempfile::TempDir;

/// Images of a shard.
const SHARD: usize = 8;

/// Rows with and without id, some with seeds; `word` may be one that the null model fails at.
fn rows(count: usize, word: impl Fn(usize) -> &'static str) -> String {
    let mut text = String::from("id,prompt,seed,num_inference_steps,label\n");
    for row in 0..count {
        let id = if row % 3 == 0 { String::new() } else { format!("cat_test_{row}") };
        let seed = if row % 4 == 0 { String::new() } else { row.to_string() };
        text += &format!("{id},a {} heart {row},{seed},1,l{}\n", word(row), row % 5);
    }
    text
}

fn plain(count: usize) -> String {
    rows(count, |_| "red")
}

/// An output folder and what it is made with.
struct Folder {
    root: TempDir,
    format: &'static str,
}

impl Folder {
    fn new(format: &'static str) -> Folder {
        Folder { root: fast_tempdir(), format }
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    /// Runs `rows`; returns the summary.
    fn run_to(&self, code: i32, rows: &str, flags: &[&str]) -> Value {
        let (code_now, summary, stderr) = self.run(rows, flags);
        assert_eq!(code_now, Some(code), "{}: {stderr}", self.format);
        summary
    }

    fn run(&self, rows: &str, flags: &[&str]) -> (Option<i32>, Value, String) {
        let mut command = nightshift();
        command.arg("run").arg(manifest(&self.root, rows)).arg("--model").arg(null_model());
        command.arg("--out").arg(self.out()).args(["--format", self.format, "--shard-size"]).arg(SHARD.to_string());
        let output = command.arg("--json").args(flags).output().unwrap();
        let summary = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code(), summary, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn ask(&self, args: &[&str]) -> (Option<i32>, Value, String) {
        let output = nightshift().args(&args[..1]).arg(self.out()).args(&args[1..]).arg("--json").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), stderr)
    }

    /// Returns what `verify --deep` finds: kinds and paths.
    fn found(&self) -> Vec<(String, String)> {
        self.verify(&["verify", "--deep"])
    }

    fn verify(&self, args: &[&str]) -> Vec<(String, String)> {
        let (code, report, stderr) = self.ask(args);
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{code:?}: {stderr}"));
        let findings: Vec<_> = findings.iter().map(|it| (text(&it["kind"]), text(&it["path"]))).collect();
        assert_eq!(code, Some(if findings.is_empty() { 0 } else { 3 }), "{report}");
        assert_eq!(report["exit_code"].as_i64(), code.map(i64::from));
        findings
    }

    fn assert_clean(&self, when: &str) {
        for args in [&["verify"][..], &["verify", "--deep"]] {
            let found = self.verify(args);
            assert!(found.is_empty(), "{} {when}, {args:?}: {found:?}", self.format);
        }
    }

    fn repair(&self) -> Value {
        self.repair_to(0, &["repair"])
    }

    fn repair_to(&self, code: i32, args: &[&str]) -> Value {
        let (code_now, report, stderr) = self.ask(args);
        assert_eq!(code_now, Some(code), "{}: {report} {stderr}", self.format);
        report
    }

    /// Returns every file that loaders see, with its bytes.
    fn data(&self) -> BTreeMap<String, Vec<u8>> {
        dataset(&self.out())
    }

    fn journal(&self) -> PathBuf {
        self.out().join(".nightshift/journal/worker-0-of-1.log")
    }
}

#[test]
fn a_clean_folder_of_any_sort_has_no_findings() {
    for format in LAYOUTS {
        let folder = Folder::new(format);
        folder.run_to(75, &plain(30), &["--limit", "11"]);
        folder.assert_clean("stopped early");
        folder.run_to(0, &plain(30), &[]);
        folder.assert_clean("finished");

        fs::write(folder.out().join("README.md"), "theirs").unwrap();
        fs::write(folder.out().join("output.jsonl"), "{}\n").unwrap();
        fs::write(folder.out().join("errors.jsonl"), "{}\n").unwrap();
        let mut fewer: Vec<&str> = plain_lines(30);
        fewer.drain(8..12);
        folder.run_to(0, &fewer.concat(), &[]);
        folder.assert_clean("with rows removed or moved");
        folder.run_to(0, &plain(33), &[]);
        folder.assert_clean("with rows back, and more");

        let edited = rows(33, |row| if row == 5 || row == 20 { "nan" } else { "blue" });
        folder.run_to(75, &edited, &["--limit", "9"]);
        folder.assert_clean("with rows edited, stopped early");
        let summary = folder.run_to(3, &edited, &[]);
        assert_eq!(summary["failed"], 2);
        folder.assert_clean("with rows edited, of which some fail");
        folder.run_to(3, &edited, &[]);
        folder.assert_clean("after another try");
    }
}

#[test]
fn rows_that_leave_and_come_back_cost_nothing_however_often() {
    let named = |rows: &[usize]| {
        let lines = rows.iter().map(|row| format!("k{row},a red heart {row},{row}\n")).collect::<String>();
        format!("id,prompt,seed\n{lines}")
    };
    let (all, few): (Vec<usize>, Vec<usize>) = ((0..24).collect(), (0..24).filter(|row| row % 10 != 7).collect());
    for format in LAYOUTS {
        let folder = Folder::new(format);
        assert_eq!(folder.run_to(0, &named(&all), &[])["made"], 24);
        let whole = folder.data();
        for _ in 0..3 {
            for rows in [&few, &all] {
                assert_eq!(folder.run_to(0, &named(rows), &[])["made"], 0, "{format}");
                folder.assert_clean("with rows gone or back");
            }
            assert_eq!(differences(&folder.data(), &whole), Vec::<String>::new(), "{format}");
        }
    }
}

/// Lines of a plain manifest, which live as long as the program.
fn plain_lines(count: usize) -> Vec<&'static str> {
    plain(count).leak().split_inclusive('\n').collect()
}

#[test]
fn suspects_and_failed_rows_and_a_contact_sheet_are_no_findings() {
    for format in LAYOUTS {
        let folder = Folder::new(format);
        let words = |row| ["red", "blank", "nan", "overflow"][row % 4];
        let sheet = folder.out().join("sheet.png").to_string_lossy().into_owned();
        let summary = folder.run_to(3, &rows(20, words), &["--contact-sheet", &sheet]);
        assert_eq!((summary["suspect"].as_u64(), summary["failed"].as_u64()), (Some(5), Some(5)));
        folder.assert_clean("with suspects and failures");
    }
}

#[test]
fn a_live_folder_has_no_findings() {
    for format in LAYOUTS {
        let folder = Folder::new(format);
        let csv = manifest(&folder.root, &rows(1500, |_| "red"));
        let mut command = nightshift();
        command.arg("run").arg(csv).arg("--model").arg(null_model()).arg("--out").arg(folder.out());
        command.args(["--format", format, "--shard-size", "50"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !folder.journal().is_file() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let mut seen_live = 0;
        let code = loop {
            for args in [&["verify"][..], &["verify", "--deep"]] {
                let (code, report, stderr) = folder.ask(args);
                assert_eq!(code, Some(0), "{format}: {report} {stderr}");
                seen_live += u32::from(report["live"].is_string());
            }
            if seen_live == 1 {
                assert_eq!(folder.ask(&["repair"]).0, Some(11), "a live folder is not repaired");
            }
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
        };
        assert_eq!(code, Some(0));
        assert!(seen_live > 0, "{format}: the run was over before it could be looked at");
    }
}

#[test]
#[ignore = "writes a million files; prints how long a look at them takes"]
fn a_million_files_are_looked_at_in_seconds() {
    let folder = Folder::new("imagefolder");
    folder.run_to(75, &plain(1), &["--limit", "0"]);
    let dir = folder.out().join(".nightshift/journal");
    let (mut journal, _) = Journal::open(&dir, "made-up").unwrap();
    let (blake3, row_hash) = (Digest(*blake3::hash(b"x").as_bytes()), Digest([1; 16]));
    for thousand in 0..1000 {
        fs::create_dir_all(folder.out().join(format!("images/{thousand:05}"))).unwrap();
        let done = |number: u32| {
            let key = format!("{number:09}");
            let file_name = format!("images/{thousand:05}/{key}.png");
            fs::write(folder.out().join(&file_name), "x").unwrap();
            Record::Done(Done {
                key,
                row_hash,
                file_name,
                bytes: 1,
                blake3,
                seed: 1,
                suspect: false,
                scored: None,
                spool: None,
            })
        };
        journal.append(&(thousand * 1000..(thousand + 1) * 1000).map(done).collect::<Vec<_>>()).unwrap();
    }
    journal.sync().unwrap();
    drop(journal);
    for args in [&["verify"][..], &["verify", "--deep"]] {
        let started = std::time::Instant::now();
        let mut command = std::process::Command::new("/usr/bin/env");
        command.args(["time", "-f", "%M kB at most"]).arg(env!("CARGO_BIN_EXE_nightshift"));
        let output = command.args(&args[..1]).arg(folder.out()).args(&args[1..]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        println!("{:.1} s: {} {}", started.elapsed().as_secs_f64(), text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("1000000 images, 1000000 files"));
    }
}

#[test]
fn what_is_no_output_folder_is_refused() {
    let folder = Folder::new("imagefolder");
    fs::create_dir(folder.out()).unwrap();
    for args in [["verify"], ["repair"]] {
        let (code, _, stderr) = folder.ask(&args);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("holds no run of nightshift"), "{stderr}");
    }
    folder.run_to(0, &plain(3), &[]);
    let run = folder.out().join(".nightshift/run.json");
    let text = fs::read_to_string(&run).unwrap();
    fs::write(&run, &text[1..]).unwrap();
    assert_eq!(folder.found(), [("unreadable".to_string(), ".nightshift/run.json".to_string())]);
    let (code, _, stderr) = folder.ask(&["repair"]);
    assert!(code == Some(13) && stderr.contains("run.json"), "{stderr}");
    fs::remove_file(&run).unwrap();
    assert_eq!(folder.found(), [("missing".to_string(), ".nightshift/run.json".to_string())]);
    assert_eq!(folder.ask(&["repair"]).0, Some(12));
    fs::write(&run, text).unwrap();
    folder.assert_clean("with run.json back");
}

fn pick<'a, T>(dice: &mut Dice, all: &'a [T]) -> &'a T {
    &all[dice.below(all.len())]
}

/// A fault, and what undoes it: files and their bytes, `None` for those that were not there.
struct Fault {
    kind: &'static str,
    path: String,
    before: Vec<(PathBuf, Option<Vec<u8>>)>,
}

/// A finished folder, and the files of shards as they were at an earlier stop.
struct Victim {
    folder: Folder,
    /// Files that loaders see, in order.
    files: Vec<String>,
    older: BTreeMap<String, Vec<u8>>,
}

impl Victim {
    fn new(format: &'static str) -> Victim {
        let folder = Folder::new(format);
        folder.run_to(75, &plain(60), &["--limit", "13"]);
        // Shard 1 had five of its eight images.
        let is_shard = |name: &String| name.ends_with(".parquet") || name.ends_with(".tar");
        let older: BTreeMap<_, _> = folder.data().into_iter().filter(|(name, _)| is_shard(name)).collect();
        folder.run_to(0, &plain(60), &[]);
        let now = folder.data();
        let older = older.into_iter().filter(|(name, bytes)| now[name] != *bytes).collect();
        Victim { files: now.into_keys().collect(), folder, older }
    }

    fn hurt(&self, dice: &mut Dice) -> Fault {
        let at = |name: &str| self.folder.out().join(name);
        let name = pick(dice, &self.files).clone();
        let bytes = fs::read(at(&name)).unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
        let mut before = vec![(at(&name), Some(bytes.clone()))];
        let (kind, path) = match dice.below(7) {
            0 => {
                fs::remove_file(at(&name)).unwrap();
                ("missing", name)
            }
            1 => {
                put(&name, &bytes[..dice.below(bytes.len())]);
                ("cut", name)
            }
            2 => {
                let mut bytes = bytes;
                let bit = dice.below(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                put(&name, &bytes);
                ("changed", name)
            }
            3 => {
                let folder = *pick(dice, &["images/00001/", "images/", "data/", "images/00099/", ""]);
                let new =
                    format!("{folder}stray-{}.{}", dice.below(1000), if folder.is_empty() { "tar" } else { "png" });
                fs::create_dir_all(at(&new).parent().unwrap()).unwrap();
                put(&new, &bytes);
                before = vec![(at(&new), None)];
                ("extra", new)
            }
            4 => {
                let other = pick(dice, &self.files).clone();
                if other == name {
                    return self.hurt(dice);
                }
                let others = fs::read(at(&other)).unwrap();
                before.push((at(&other), Some(others.clone())));
                put(&name, &others);
                put(&other, &bytes);
                ("swapped", name.min(other))
            }
            5 => {
                let more: Vec<u8> = (0..=dice.below(600)).map(|_| dice.below(256) as u8).collect();
                put(&name, &[bytes, more].concat());
                ("cut", name)
            }
            _ => {
                let older: Vec<_> = self.older.iter().collect();
                let Some((name, old)) = (!older.is_empty()).then(|| *pick(dice, &older)) else {
                    return self.hurt(dice);
                };
                before = vec![(at(name), Some(fs::read(at(name)).unwrap()))];
                put(name, old);
                ("stale", name.clone())
            }
        };
        Fault { kind, path, before }
    }
}

impl Fault {
    fn undo(&self) {
        for (path, bytes) in &self.before {
            match bytes {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
    }
}

#[test]
fn every_fault_is_found_by_kind_and_path_and_mended() {
    // Of R20's thousand every fourth is repaired, too.
    let (count, mended) = (times(60, 1000), times(3, 4));
    let mut dice = Dice::new("faults");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let per_format = count.div_ceil(3);
    for format in LAYOUTS {
        let victim = Victim::new(format);
        let whole = victim.folder.data();
        victim.folder.assert_clean("before any fault");
        for number in 0..per_format {
            let fault = victim.hurt(&mut dice);
            *kinds.entry(fault.kind).or_default() += 1;
            let expected = (fault.kind.to_string(), fault.path.clone());
            assert_eq!(victim.folder.found(), [expected], "{format}, fault {number}");
            if number % mended == 0 {
                mend(&victim.folder, &fault, &whole);
                let extra = victim.folder.data().into_keys().filter(|name| !whole.contains_key(name));
                extra.for_each(|name| fs::remove_file(victim.folder.out().join(name)).unwrap());
            } else {
                fault.undo();
            }
        }
        victim.folder.assert_clean("after all faults");
    }
    println!("{kinds:?}");
}

/// Repairs a fault, and runs: the folder is as it was.
fn mend(folder: &Folder, fault: &Fault, whole: &BTreeMap<String, Vec<u8>>) {
    let (format, Fault { kind, path, .. }) = (folder.format, fault);
    if *kind == "extra" {
        // In place of a file of ours, it may be the only one of its bytes; here it is a copy.
        let report = folder.repair_to(3, &["repair"]);
        assert_eq!(report["left"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(folder.repair_to(0, &["repair", "--quarantine-extra"])["quarantined"], 1);
        let kept = folder.out().join(".nightshift/quarantine").join(path);
        assert!(fs::metadata(&kept).is_ok(), "{}", kept.display());
    } else {
        let report = folder.repair();
        folder.assert_clean(&format!("after the repair of {kind} {path}"));
        let lost = report["lost"].as_u64().unwrap();
        let summary = folder.run_to(0, &plain(60), &[]);
        assert_eq!(summary["made"].as_u64(), Some(lost), "{format} {kind} {path}: {report}");
        if *kind == "swapped" {
            assert_eq!((report["put_back"].as_u64(), lost), (Some(2), 0));
        }
    }
    let now = folder.data();
    assert_eq!(differences(&now, whole), Vec::<String>::new(), "{format}: after {kind} {path}");
    folder.assert_clean(&format!("after {kind} {path}, repaired and run"));
}

#[test]
fn sizes_and_names_are_seen_without_reading() {
    for format in LAYOUTS {
        let victim = Victim::new(format);
        let name = victim.files[0].clone();
        let path = victim.folder.out().join(&name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[1..]).unwrap();
        assert_eq!(victim.folder.verify(&["verify"]), [("cut".to_string(), name.clone())]);
        fs::remove_file(&path).unwrap();
        assert_eq!(victim.folder.verify(&["verify"]), [("missing".to_string(), name)]);
        fs::write(&path, &bytes).unwrap();
        let (name, old) = victim.older.first_key_value().unwrap();
        fs::write(victim.folder.out().join(name), old).unwrap();
        assert_eq!(victim.folder.verify(&["verify"]), [("stale".to_string(), name.clone())]);
    }
}

#[test]
fn pictures_in_the_spool_are_looked_at_too() {
    for format in &LAYOUTS[1..] {
        let folder = Folder::new(format);
        folder.run_to(75, &plain(20), &["--limit", "5"]);
        let whole = folder.data();
        // Of an early stop, the shard's file and the spool both have them.
        fs::remove_file(folder.out().join(whole.keys().next().unwrap())).unwrap();
        assert_eq!(folder.found().len(), 1, "the file only");
        let spool = fs::read_dir(folder.out().join(".nightshift/spool")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&spool).unwrap();
        bytes[100] ^= 1;
        fs::write(&spool, bytes).unwrap();
        let (_, report, _) = folder.ask(&["verify", "--deep"]);
        assert_eq!(report["findings"][0]["images"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(folder.repair()["lost"], 1);
        folder.assert_clean("after the repair");
        folder.run_to(0, &plain(20), &[]);
        let other = Folder::new(format);
        other.run_to(0, &plain(20), &[]);
        assert!(folder.data() == other.data());
    }
}

#[test]
fn a_journal_with_a_flipped_bit_is_told_and_repaired() {
    let count = times(30, 1000);
    let mut dice = Dice::new("flipped journals");
    for format in LAYOUTS {
        let undisturbed = Folder::new(format);
        undisturbed.run_to(0, &plain(40), &[]);
        let whole = undisturbed.data();
        for stop in ["13", "40"] {
            let folder = Folder::new(format);
            folder.run_to(if stop == "40" { 0 } else { 75 }, &plain(40), &["--limit", stop]);
            let saved = folder.root.path().join("saved");
            copy(&folder.out(), &saved);
            for _ in 0..count.div_ceil(6) {
                fs::remove_dir_all(folder.out()).unwrap();
                copy(&saved, &folder.out());
                flip_and_repair(&folder, &mut dice, &whole);
            }
        }
    }
}

fn flip_and_repair(folder: &Folder, dice: &mut Dice, whole: &BTreeMap<String, Vec<u8>>) {
    let mut bytes = fs::read(folder.journal()).unwrap();
    let end = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let bit = dice.below(end * 8);
    let line = bytes[..bit / 8].iter().filter(|byte| **byte == b'\n').count() + 1;
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(folder.journal(), &bytes).unwrap();
    let verified = folder.ask(&["verify"]);
    let run = folder.run(&plain(40), &[]);
    for (code, _, stderr) in [verified, run] {
        assert_eq!(code, Some(13), "{stderr}");
        assert!(stderr.contains(&format!("worker-0-of-1.log: line {line}:")), "line {line}: {stderr}");
        assert!(stderr.contains("nightshift repair"), "{stderr}");
    }
    let report = folder.repair();
    assert_eq!(report["journal_files"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(fs::read(folder.out().join(".nightshift/journal/worker-0-of-1.log.damaged-1")).unwrap(), bytes);
    folder.assert_clean("after the journal's repair");
    folder.run_to(0, &plain(40), &[]);
    assert!(folder.data() == *whole, "{}, bit {bit}: {report}", folder.format);
    folder.assert_clean("after the journal's repair and a run");
}

#[test]
fn a_journal_that_is_gone_is_written_again_from_the_pictures() {
    let images = ["png", "jpeg", "webp"];
    for (format, image) in LAYOUTS.iter().flat_map(|format| images.map(|image| (format, image))) {
        let folder = Folder::new(format);
        let words = |row| if row == 7 { "blank" } else { "red" };
        folder.run_to(0, &rows(30, words), &["--image-format", image]);
        let whole = folder.data();
        fs::remove_dir_all(folder.out().join(".nightshift/journal")).unwrap();
        let found = folder.found();
        assert!(found.contains(&("missing".to_string(), ".nightshift/journal".to_string())), "{found:?}");
        assert_eq!(folder.repair()["adopted"], 30);
        folder.assert_clean("after the repair");
        let summary = folder.run_to(0, &rows(30, words), &["--image-format", image]);
        assert_eq!((summary["made"].as_u64(), summary["suspect"].as_u64()), (Some(0), Some(1)), "{format} {image}");
        assert!(folder.data() == whole, "{format} {image}");
        folder.assert_clean("after the run");
    }
}

#[test]
fn a_picture_that_is_not_whole_is_not_taken_in() {
    let folder = Folder::new("imagefolder");
    folder.run_to(0, &plain(10), &[]);
    let whole = folder.data();
    fs::remove_dir_all(folder.out().join(".nightshift/journal")).unwrap();
    let path = folder.out().join("images/00000/000000003.png");
    let mut bytes = fs::read(&path).unwrap();
    let text = bytes.windows(10).position(|window| window == b"parameters").unwrap() + 20;
    bytes[text] ^= 1;
    fs::write(&path, bytes).unwrap();
    let report = folder.repair_to(3, &["repair"]);
    assert_eq!(
        (report["adopted"].as_u64(), report["left"][0]["path"].as_str()),
        (Some(9), Some("images/00000/000000003.png"))
    );
    assert_eq!(folder.run_to(0, &plain(10), &[])["made"], 1);
    assert!(folder.data() == whole);
}

#[test]
fn a_renamed_file_goes_back_and_nothing_is_made() {
    for format in LAYOUTS {
        let folder = Folder::new(format);
        folder.run_to(0, &plain(20), &[]);
        let whole = folder.data();
        let name = whole.keys().next().unwrap();
        let stray = if format == "parquet" { "data/stray.parquet" } else { "stray.tar" };
        fs::rename(folder.out().join(name), folder.out().join(stray)).unwrap();
        assert_eq!(folder.found().len(), 2);
        assert_eq!(folder.repair()["put_back"], 1);
        folder.assert_clean("after the repair");
        assert_eq!(folder.run_to(0, &plain(20), &[])["made"], 0);
        assert!(folder.data() == whole);
    }
}

/// A killed run may leave files that are older than their images, and nothing worse.
#[test]
fn a_killed_run_leaves_nothing_that_a_repair_cannot_mend() {
    let mut dice = Dice::new("killed runs");
    for format in LAYOUTS {
        let undisturbed = Folder::new(format);
        undisturbed.run_to(0, &plain(300), &[]);
        let whole = undisturbed.data();
        for _ in 0..times(4, 60) {
            let folder = Folder::new(format);
            kill(&folder, &mut dice);
            kill(&folder, &mut dice);
            let found = folder.found();
            assert!(found.iter().all(|(kind, _)| kind == "stale"), "{format}: {found:?}");
            folder.repair();
            folder.assert_clean("killed and repaired");
            folder.run_to(0, &plain(300), &[]);
            assert_eq!(differences(&folder.data(), &whole), Vec::<String>::new(), "{format}");
            folder.assert_clean("killed, repaired and run");
        }
    }
}

fn kill(folder: &Folder, dice: &mut Dice) {
    let mut command = nightshift();
    command.arg("run").arg(manifest(&folder.root, &plain(300))).arg("--model").arg(null_model());
    command.arg("--out").arg(folder.out()).args(["--format", folder.format, "--shard-size"]).arg(SHARD.to_string());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !folder.journal().is_file() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    std::thread::sleep(std::time::Duration::from_millis(dice.below(250) as u64));
    child.kill().unwrap();
    child.wait().unwrap();
}
