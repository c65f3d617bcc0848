//! Nights that are killed, stopped and shared: whatever happens, the same command goes on to the same bytes (workflow R1, R7, R9,
//! R10). `TORTURE=1` (`make torture`) does each many times; `CRASH_SEED` plays a night again.

mod support;

use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::night::{
    Dice, LAYOUTS, assert_tidy, dataset, differences, fast_tempdir, night, night_to, rows, start, times,
};

const SHARDS: [&str; 2] = ["--shard-size", "100"];

fn flags<'a>(layout: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--format", layout][..], &SHARDS, more].concat()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a process id");
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// Returns how often the journal says that each image was begun.
fn begun(out: &Path) -> std::collections::HashMap<String, usize> {
    let mut counts = std::collections::HashMap::new();
    for entry in fs::read_dir(out.join(".nightshift/journal")).expect("a journal") {
        let text = fs::read(entry.expect("readable").path()).expect("readable");
        for line in String::from_utf8_lossy(&text).lines() {
            let record = line.get(9..).and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok());
            let keys = record.and_then(|record| record["begin"]["keys"].as_array().cloned());
            for key in keys.into_iter().flatten() {
                *counts.entry(key.as_str().unwrap_or_default().to_string()).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// R1: killed at random moments, resumed to the end.
#[test]
fn kill_9_at_any_time_loses_nothing_and_makes_nothing_twice() {
    let mut dice = Dice::new("kills");
    for layout in LAYOUTS {
        let folder = fast_tempdir();
        let rows = rows(folder.path(), 2000);
        let (base, out) = (folder.path().join("base"), folder.path().join("out"));
        night_to(0, &rows, &base, &flags(layout, &[]));
        let expected = dataset(&base);
        let kills = times(14, 200);
        for _ in 0..kills {
            let mut child = start(&rows, &out, &flags(layout, &["--lanes", "8"]));
            sleep(Duration::from_millis(30 + dice.below(times(220, 120)) as u64));
            signal(&child, Signal::KILL);
            child.wait().expect("it ends");
            for (name, bytes) in dataset(&out) {
                let name = name.rsplit('/').next().unwrap_or_default();
                let temporary = name.starts_with('.');
                // A folder's metadata may be there before all of its pictures are.
                let whole = temporary
                    || name.ends_with(".parquet")
                    || expected.values().any(|expected| *expected == bytes)
                    || name.ends_with(".tar");
                assert!(whole, "{layout}: {name} is not whole");
            }
        }
        let summary = night_to(0, &rows, &out, &flags(layout, &[]));
        assert_eq!(differences(&dataset(&out), &expected), Vec::<String>::new(), "{layout}");
        assert_tidy(&out);
        let counts = begun(&out);
        assert_eq!(counts.len(), 2000);
        let again: usize = counts.values().map(|count| count - 1).sum();
        // In flight: at most the lanes, what waits for decoder and writer, and the group that is being written.
        assert!(again <= kills * (8 + 16 + 64 + 512 + 256), "{layout}: {again} begun again after {kills} kills");
        println!("{layout}: {kills} kills, {again} images begun again, {} s in the last run", summary["seconds"]);
    }
}

/// R7: SIGTERM at random moments, with nobody to listen and a full disk for the log.
#[test]
fn sigterm_at_any_time_exits_75_within_ten_seconds() {
    let mut dice = Dice::new("terms");
    let folder = fast_tempdir();
    let rows = rows(folder.path(), 6000);
    let (mut slowest, mut stopped) = (Duration::ZERO, 0);
    for round in 0..times(12, 200) {
        let out = folder.path().join("out");
        let layout = LAYOUTS[round % 3];
        let mut command = support::night::command(&rows, &out, &flags(layout, &[]));
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("it is always there");
        let closed = {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            writer
        };
        let mut child = command.stdout(closed).stderr(full).spawn().expect("the binary starts");
        sleep(Duration::from_millis(60 + dice.below(700) as u64));
        let asked = Instant::now();
        signal(&child, [Signal::TERM, Signal::INT, Signal::USR1][round % 3]);
        let code = child.wait().expect("it ends").code();
        slowest = slowest.max(asked.elapsed());
        stopped += usize::from(code == Some(75));
        assert!(matches!(code, Some(75 | 0)), "{layout}: {code:?}");
        if code == Some(75) {
            let (code, said) = night(&rows, &out, &flags(layout, &["--limit", "1"]));
            assert!(matches!(code, 75 | 0), "{code}: {said}");
        }
        fs::remove_dir_all(&out).expect("ours");
    }
    println!("{stopped} stopped by a signal, the slowest within {slowest:?}");
    assert!(stopped > 0 && slowest < Duration::from_secs(10));
}

#[test]
fn a_second_interrupt_exits_130_and_a_limit_75() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), 60_000);
    let out = folder.path().join("out");
    let mut child = start(&rows, &out, &["--drain-timeout", "60s"]);
    while !out.join(".nightshift/status.json").exists() {
        sleep(Duration::from_millis(10));
    }
    // Both before the process looks again would be one.
    signal(&child, Signal::STOP);
    signal(&child, Signal::INT);
    signal(&child, Signal::CONT);
    sleep(Duration::from_millis(1));
    signal(&child, Signal::INT);
    let code = child.wait().expect("it ends").code();
    assert!(matches!(code, Some(130 | 75)), "{code:?}");
    let started = Instant::now();
    let summary = night_to(75, &rows, &out, &["--max-runtime", "700ms"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{summary}");
    assert!(summary["left"].as_u64() > Some(0), "{summary}");
}

/// R9: many workers at once; two of one name by mistake; one that dies.
#[test]
fn workers_share_a_folder_and_nothing_is_made_twice() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), 3000);
    for layout in LAYOUTS {
        let (base, out) = (folder.path().join(format!("base-{layout}")), folder.path().join(layout));
        night_to(0, &rows, &base, &flags(layout, &[]));
        let names: Vec<String> = (0..8).map(|worker| format!("{worker}/8")).collect();
        let mut workers: Vec<Child> =
            names.iter().map(|name| start(&rows, &out, &flags(layout, &["--shard", name, "--threads", "1"]))).collect();
        while !out.join(".nightshift/journal/worker-3-of-8.log").exists() {
            sleep(Duration::from_millis(5));
        }
        let started = Instant::now();
        let (code, said) = night(&rows, &out, &flags(layout, &["--shard", "3/8"]));
        // It may have finished in the meantime.
        let patience = Duration::from_secs(times(10, 2) as u64);
        assert!(code == 11 && started.elapsed() < patience || code == 0, "{code} {:?} {said}", started.elapsed());
        for worker in &mut workers {
            let code = worker.wait().expect("it ends").code();
            assert_eq!(code, Some(0), "{layout}");
        }
        let summary = night_to(0, &rows, &out, &flags(layout, &[]));
        assert_eq!(summary["made"], 0, "{layout}: the workers made all");
        assert_eq!(differences(&dataset(&out), &dataset(&base)), Vec::<String>::new(), "{layout}");
        let counts = begun(&out);
        assert!(counts.len() == 3000 && counts.values().all(|count| *count == 1), "{layout}: made twice");
    }
}

#[test]
fn what_a_dead_worker_left_is_taken_over() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), 4000);
    let (base, out) = (folder.path().join("base"), folder.path().join("out"));
    night_to(0, &rows, &base, &flags("webdataset", &[]));
    let mut dead = start(&rows, &out, &flags("webdataset", &["--shard", "1/2"]));
    let journal = out.join(".nightshift/journal/worker-1-of-2.log");
    while fs::metadata(&journal).map_or(0, |file| file.len()) < 50_000 {
        sleep(Duration::from_millis(5));
    }
    signal(&dead, Signal::KILL);
    dead.wait().expect("it ends");
    let summary = night_to(0, &rows, &out, &flags("webdataset", &["--shard", "0/2"]));
    assert!(summary["made"].as_u64() > Some(2000), "its own and the dead one's: {summary}");
    assert_eq!(differences(&dataset(&out), &dataset(&base)), Vec::<String>::new());
}

/// R10: four workers, all killed; seven, all killed; one to the end.
#[test]
fn the_number_of_workers_may_change_and_the_bytes_do_not() {
    let mut dice = Dice::new("elastic");
    for layout in LAYOUTS {
        let folder = fast_tempdir();
        let rows = rows(folder.path(), 4000);
        let (base, out) = (folder.path().join("base"), folder.path().join("out"));
        night_to(0, &rows, &base, &flags(layout, &[]));
        for count in [4, 7] {
            let names: Vec<String> = (0..count).map(|worker| format!("{worker}/{count}")).collect();
            let mut workers: Vec<Child> = names
                .iter()
                .map(|name| start(&rows, &out, &flags(layout, &["--shard", name, "--threads", "1"])))
                .collect();
            sleep(Duration::from_millis(400 + dice.below(800) as u64));
            for worker in &mut workers {
                signal(worker, Signal::KILL);
                worker.wait().expect("it ends");
            }
        }
        night_to(0, &rows, &out, &flags(layout, &[]));
        assert_eq!(differences(&dataset(&out), &dataset(&base)), Vec::<String>::new(), "{layout}");
        assert_tidy(&out);
    }
}
