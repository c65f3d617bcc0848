//! Disks that fail, processes that die at any call, power that goes: R2, R3, R4 and R23 of the workflow. Each effect on the disk
//! goes through `nightshift::output::disk::Disk`, so each can be the one. `TORTURE=1` (`make torture`) does all of them.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nightshift::error::ErrorKind;
use nightshift::journal;
use nightshift::output::{parquet_shard, spool, webdataset};
use rustix::io::Errno;
use support::disk::{Effect, Fault, FaultyDisk, RecordingDisk};
use support::night::{
    Dice, LAYOUTS, assert_tidy, dataset, differences, fast_tempdir, night_on, night_to, null_model, rows, times,
};

const ROWS: usize = 12;

fn flags(layout: &str) -> [&str; 4] {
    ["--format", layout, "--shard-size", "5"]
}

/// Returns the dataset of a night that nothing disturbs.
fn undisturbed(rows: &Path, layout: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = fast_tempdir();
    night_to(0, rows, &folder.path().join("out"), &flags(layout));
    dataset(&folder.path().join("out"))
}

/// Returns every picture in a file of a dataset by its hash; panics if the file is not whole.
fn pictures_in(path: &Path) -> Vec<blake3::Hash> {
    let mut found = Vec::new();
    let name = path.to_string_lossy();
    if name.ends_with(".png") {
        image::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        found.push(blake3::hash(&fs::read(path).expect("readable")));
    } else if name.ends_with(".tar") {
        let each = |_: String, bytes: Vec<u8>| found.push(blake3::hash(&bytes));
        webdataset::read(path, each).unwrap_or_else(|error| panic!("{name}: {error}"));
    } else if name.contains("/data/") {
        let each = |_: String, bytes: Vec<u8>| found.push(blake3::hash(&bytes));
        parquet_shard::read(path, each).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    found
}

/// Checks that every image which the journal calls done is there, whole.
fn assert_done_is_there(out: &Path, context: &str) {
    let state = journal::read(&out.join(".nightshift/journal")).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut shards: HashMap<PathBuf, Vec<blake3::Hash>> = HashMap::new();
    for (key, done) in state.all_done() {
        let expected = blake3::Hash::from_bytes(done.blake3.0);
        let in_spool = done.spool.as_ref().is_some_and(|(file, offset)| {
            let bytes = spool::read(&out.join(".nightshift/spool").join(&**file), *offset, done.bytes);
            bytes.is_some_and(|bytes| blake3::hash(&bytes) == expected)
        });
        let mut in_shard = || {
            let path = out.join(&*done.file_name);
            if path.is_file() {
                return fs::read(path).is_ok_and(|bytes| blake3::hash(&bytes) == expected);
            }
            let parent = path.parent().expect("a shard").to_string_lossy().into_owned();
            let starts = |path: &PathBuf| path.to_string_lossy().starts_with(&parent);
            let folder = Path::new(&parent).parent().expect("the output folder").to_path_buf();
            let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            files
                .filter(starts)
                .any(|file| shards.entry(file.clone()).or_insert_with(|| pictures_in(&file)).contains(&expected))
        };
        assert!(in_spool || in_shard(), "{context}: {key} is done, and its picture is nowhere");
    }
}

/// Plays the death of the process that this test would be.
fn die(out: &Path) {
    let _ = fs::remove_dir_all(out.join(".nightshift/locks"));
}

/// R3, R23: the n-th call fails, once or with all that follow, with each error number.
#[test]
fn any_call_of_the_disk_may_fail() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), ROWS);
    let numbers = [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ACCESS, Errno::ROFS, Errno::MFILE, Errno::STALE];
    let kinds: Vec<(Errno, bool)> = numbers.iter().flat_map(|number| [(*number, false), (*number, true)]).collect();
    for layout in LAYOUTS {
        let expected = undisturbed(&rows, layout);
        let (mut nights, mut failures, mut at) = (0, 0, 0);
        loop {
            // In CI each call fails in one way, in turn; else in all.
            let ways = if times(0, 1) == 1 { &kinds[..] } else { std::slice::from_ref(&kinds[at % kinds.len()]) };
            let mut reached = false;
            for (number, sticky) in ways {
                let context = format!("{layout}, call {at}, {number:?}, sticky {sticky}");
                let out = folder.path().join("out");
                let disk = FaultyDisk::new(at, *sticky, Fault::Errno(number.raw_os_error()));
                let calls = disk.calls.clone();
                let result = night_on(Arc::new(disk), &rows, &out, &flags(layout));
                reached |= calls.load(Ordering::SeqCst) > at;
                nights += 1;
                match &result {
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Storage, "{context}: {error}");
                        failures += 1;
                    }
                    Ok(summary) => assert_eq!((summary.exit_code, summary.left), (0, 0), "{context}"),
                }
                for (name, bytes) in dataset(&out) {
                    let whole = expected.values().any(|expected| *expected == bytes);
                    if !name.rsplit('/').next().unwrap_or_default().starts_with('.') && !whole {
                        pictures_in(&out.join(&name));
                    }
                }
                if out.join(".nightshift/journal").is_dir() {
                    assert_done_is_there(&out, &context);
                }
                die(&out);
                night_to(0, &rows, &out, &flags(layout));
                assert_eq!(differences(&dataset(&out), &expected), Vec::<String>::new(), "{context}");
                assert_tidy(&out);
                fs::remove_dir_all(&out).expect("ours");
            }
            if !reached {
                break;
            }
            at += 1;
        }
        println!("{layout}: {at} calls, {nights} nights, {failures} ended with exit code 13");
        assert!(failures * 3 > nights, "is everything going through the disk?");
    }
}

/// The process that [`a_process_may_die_at_any_call`] lets die.
#[test]
#[ignore = "started by another test"]
fn victim() {
    let Ok(at) = std::env::var("CRASH_AT") else { return };
    let path = |name: &str| PathBuf::from(std::env::var(name).expect("set by the other test"));
    let layout = std::env::var("CRASH_LAYOUT").expect("set by the other test");
    let limit = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, limit).expect("may be lowered");
    let disk = FaultyDisk::new(at.parse().expect("a number"), true, Fault::Abort);
    night_on(Arc::new(disk), &path("CRASH_ROWS"), &path("CRASH_OUT"), &flags(&layout))
        .expect("nothing else goes wrong");
    println!("survived");
}

/// R2: the process dies at the n-th call, in the middle of it where it is a write.
#[test]
fn a_process_may_die_at_any_call() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), ROWS);
    let mut dice = Dice::new("deaths");
    for layout in LAYOUTS {
        let expected = undisturbed(&rows, layout);
        let (mut deaths, mut at) = (0, dice.below(times(4, 1)));
        loop {
            let out = folder.path().join("out");
            let mut command = Command::new(std::env::current_exe().expect("this test"));
            command.args(["--ignored", "--exact", "victim", "--nocapture"]).current_dir(support::root());
            command.env("CRASH_AT", at.to_string()).env("CRASH_LAYOUT", layout);
            command.env("CRASH_ROWS", &rows).env("CRASH_OUT", &out);
            let output = command.stderr(Stdio::null()).output().expect("it starts");
            if String::from_utf8_lossy(&output.stdout).contains("survived") {
                fs::remove_dir_all(&out).expect("ours");
                break;
            }
            deaths += 1;
            let context = format!("{layout}, died at call {at}");
            assert_done_is_there(&out, &context);
            // Nobody takes the dead process for a living one; a lease that it died of writing is waited for.
            night_to(0, &rows, &out, &flags(layout));
            assert_eq!(differences(&dataset(&out), &expected), Vec::<String>::new(), "{context}");
            assert_tidy(&out);
            fs::remove_dir_all(&out).expect("ours");
            at += times(4, 1);
        }
        println!("{layout}: died at {deaths} calls");
        assert!(deaths > 10);
    }
}

/// R4: the power goes after any effect; what was not synced is there, gone, torn or full of zeros, each by itself.
#[test]
fn the_power_may_go_at_any_moment() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), ROWS);
    let mut dice = Dice::new("power");
    for layout in LAYOUTS {
        let expected = undisturbed(&rows, layout);
        let out = folder.path().join("out");
        let disk = RecordingDisk::default();
        night_on(Arc::new(disk.clone()), &rows, &out, &flags(layout)).expect("nothing goes wrong");
        let effects = disk.effects.lock().expect("not poisoned").clone();
        let states = times(400, 3400);
        for number in 0..states {
            let until = dice.below(effects.len() + 1);
            let cut = folder.path().join("cut");
            PowerCut::after(&effects[..until], &mut dice).build(&out, &cut);
            let context = format!("{layout}, state {number}, after {until} of {} effects", effects.len());
            assert_done_is_there(&cut, &context);
            if number % times(80, 34) == 0 {
                night_to(0, &rows, &cut, &flags(layout));
                assert_eq!(differences(&dataset(&cut), &expected), Vec::<String>::new(), "{context}");
            }
            fs::remove_dir_all(&cut).expect("ours");
        }
        println!("{layout}: {states} states of {} effects", effects.len());
        fs::remove_dir_all(&out).expect("ours");
    }
}

/// What is on the disk after a power cut.
#[derive(Default)]
struct PowerCut {
    folders: Vec<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    files: HashMap<usize, Vec<u8>>,
}

impl PowerCut {
    fn after(effects: &[Effect], dice: &mut Dice) -> PowerCut {
        let mut cut = PowerCut::default();
        cut.fill(effects, dice);
        cut.name(effects, dice);
        cut
    }

    /// What is in the files: all that was synced, and of the rest what luck leaves.
    fn fill(&mut self, effects: &[Effect], dice: &mut Dice) {
        let mut synced: HashMap<usize, usize> = HashMap::new();
        for (at, effect) in effects.iter().enumerate() {
            if let Effect::Sync(file) = effect {
                synced.insert(*file, at);
            }
        }
        let mut luck: HashMap<usize, usize> = HashMap::new();
        for (at, effect) in effects.iter().enumerate() {
            match effect {
                Effect::Create(_, file) => drop(self.files.entry(*file).or_default()),
                Effect::Cut(file, length) => self.files.entry(*file).or_default().truncate(*length as usize),
                Effect::Write(file, bytes) => {
                    let content = self.files.entry(*file).or_default();
                    if synced.get(file).is_some_and(|synced| *synced > at) {
                        content.extend(bytes);
                        continue;
                    }
                    // One kind of luck a file, so that a write may be kept and the ones before it not.
                    match luck.entry(*file).or_insert_with(|| dice.below(5)) {
                        0 => {}
                        1 => content.extend(bytes),
                        2 => content.extend(&bytes[..dice.below(bytes.len() + 1)]),
                        3 => content.extend(vec![0; bytes.len()]),
                        _ => match dice.below(2) {
                            0 => content.extend(bytes),
                            _ => content.extend(vec![0; bytes.len()]),
                        },
                    }
                }
                _ => {}
            }
        }
    }

    /// Which names there are: all changes whose folder was synced since, and of the rest what luck leaves.
    fn name(&mut self, effects: &[Effect], dice: &mut Dice) {
        let synced = |folder: &Path, at: usize| {
            effects[at..].iter().any(|effect| matches!(effect, Effect::SyncFolder(path) if path == folder))
        };
        let parent = |path: &Path| path.parent().expect("nobody writes to the root").to_path_buf();
        // What names what at the moment, whatever becomes of it.
        let mut now: HashMap<PathBuf, usize> = HashMap::new();
        for (at, effect) in effects.iter().enumerate() {
            match effect {
                Effect::Folder(path) => {
                    let stays = synced(&parent(path), at) || dice.below(2) == 0;
                    self.folders.extend(stays.then(|| path.clone()));
                }
                Effect::Create(path, file) => {
                    now.insert(path.clone(), *file);
                    if synced(&parent(path), at) || dice.below(2) == 0 {
                        self.names.insert(path.clone(), *file);
                    }
                }
                Effect::Rename(from, to) => {
                    let Some(file) = now.remove(from) else { continue };
                    now.insert(to.clone(), file);
                    if synced(&parent(to), at) || dice.below(2) == 0 {
                        self.names.remove(from);
                        self.names.insert(to.clone(), file);
                    }
                }
                Effect::Remove(path) => {
                    now.remove(path);
                    if synced(&parent(path), at) || dice.below(2) == 0 {
                        self.names.remove(path);
                    }
                }
                _ => {}
            }
        }
    }

    /// Writes it down in `into`, for what was in `out`.
    fn build(&self, out: &Path, into: &Path) {
        fs::create_dir_all(into).expect("a temporary folder is writable");
        let place = |path: &Path| into.join(path.strip_prefix(out).expect("nobody writes elsewhere"));
        for folder in self.folders.iter().filter(|folder| folder.starts_with(out)) {
            fs::create_dir_all(place(folder)).expect("a temporary folder is writable");
        }
        for (path, file) in &self.names {
            let path = place(path);
            // A name in a folder that is gone is gone.
            if path.parent().is_some_and(Path::is_dir) {
                fs::write(path, &self.files[file]).expect("a temporary folder is writable");
            }
        }
        let _ = fs::remove_dir_all(into.join(".nightshift/locks"));
        assert!(null_model().is_dir());
    }
}
