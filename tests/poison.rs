//! Rows that cannot be made, and one that kills the process (workflow R6, R13, R14, R27).

mod support;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nightshift::error::ErrorKind;
use support::disk::HookedDisk;
use support::night::{LAYOUTS, dataset, fast_tempdir, night, night_on, night_to, rows, times};

/// R13: one row in a hundred is poison of some kind; all others are made.
#[test]
fn poison_rows_cost_nobody_else_anything() {
    let folder = fast_tempdir();
    let file = folder.path().join("rows.csv");
    let count = times(1000, 5000);
    let mut text = b"id,prompt,seed,width\n".to_vec();
    let mut expected: Vec<(String, &str)> = Vec::new();
    let long = "long ".repeat(60);
    for row in 0..count {
        let (prompt, width, code) = match (row % 100, row / 100 % 4) {
            (50, 0) => (b"bad \xff\xfe bytes".to_vec(), "64", "not_utf8"),
            (50, 1) => (b"too wide".to_vec(), "100000", "bad_width"),
            (50, 2) => (long.clone().into_bytes(), "64", "prompt_too_long"),
            (50, _) => (b"a picture that is nan".to_vec(), "64", "not_a_number"),
            _ => (format!("a picture of {row}").into_bytes(), "64", ""),
        };
        if !code.is_empty() {
            expected.push((format!("r{row}"), code));
        }
        text.extend(format!("r{row},").into_bytes());
        text.extend(prompt);
        text.extend(format!(",{row},{width}\n").into_bytes());
    }
    fs::write(&file, text).expect("writable");
    let out = folder.path().join("out");
    let flags = ["--steps", "2", "--long-prompt", "fail"];
    let summary = night_to(3, &file, &out, &flags);
    let bad = expected.len() as u64;
    assert_eq!(
        (summary["made"].as_u64(), summary["failed_rows"].as_u64()),
        (Some(count as u64 - bad), Some(bad)),
        "{summary}"
    );
    let mut failed = csv::Reader::from_path(out.join(".nightshift/failed.csv")).expect("rows failed");
    let told: Vec<(String, String)> = failed
        .byte_records()
        .map(|row| {
            let row = row.expect("a row");
            let cell = |at: usize| String::from_utf8_lossy(&row[at]).into_owned();
            assert!(!cell(1).is_empty(), "a reason");
            (cell(2), cell(0))
        })
        .collect();
    let expected: Vec<(String, String)> = expected.into_iter().map(|(id, code)| (id, code.to_string())).collect();
    assert_eq!(told, expected);
    assert_eq!(
        summary["made"].as_u64(),
        Some(dataset(&out).keys().filter(|name| name.ends_with(".png")).count() as u64)
    );
    // What failed is tried again, and what was made is not.
    let again = night_to(3, &file, &out, &flags);
    assert_eq!((again["made"].as_u64(), again["failed_rows"].as_u64()), (Some(0), Some(bad)), "{again}");
    night_to(0, &file, &out, &[&flags[..], &["--max-failed", "2%"]].concat());
}

/// Returns a disk under which the process dies as soon as it has written down that work on the image `key` begins.
fn poison(key: &'static str) -> HookedDisk {
    HookedDisk(Arc::new(move |file, bytes| {
        file.write_all(bytes)?;
        let text = String::from_utf8_lossy(bytes);
        if text.contains("\"begin\"") && text.contains(&format!("\"{key}\"")) {
            std::process::abort();
        }
        Ok(())
    }))
}

/// The process that [`a_row_that_kills_the_process_is_made_alone_and_then_left_out`] starts.
#[test]
#[ignore = "started by another test"]
fn victim() {
    let Ok(out) = std::env::var("CRASH_OUT") else { return };
    let rows = PathBuf::from(std::env::var("CRASH_ROWS").expect("set by the other test"));
    let layout = std::env::var("CRASH_LAYOUT").expect("set by the other test");
    let limit = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, limit).expect("may be lowered");
    let summary = night_on(Arc::new(poison("000000017")), &rows, Path::new(&out), &["--format", &layout]);
    std::process::exit(i32::from(summary.expect("nothing else goes wrong").exit_code));
}

/// R14: after two crashes with it in flight it runs alone, after the third it is left out.
#[test]
fn a_row_that_kills_the_process_is_made_alone_and_then_left_out() {
    for layout in LAYOUTS {
        let folder = fast_tempdir();
        let (rows, base, out) = (rows(folder.path(), 100), folder.path().join("base"), folder.path().join("out"));
        night_to(0, &rows, &base, &["--format", layout]);
        let crash = || {
            let mut command = Command::new(std::env::current_exe().expect("this test"));
            command.args(["--ignored", "--exact", "victim"]).current_dir(support::root());
            command.env("CRASH_ROWS", &rows).env("CRASH_OUT", &out).env("CRASH_LAYOUT", layout);
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it starts").code()
        };
        let done = || nightshift::journal::read(&out.join(".nightshift/journal")).expect("whole").done_count();
        assert_eq!((crash(), crash()), (None, None), "{layout}: dies of it twice");
        assert!(done() < 99, "{layout}");
        assert_eq!(crash(), None, "{layout}: and once more, alone");
        // What was not in flight with it was made first; of the others, those before it.
        assert!(done() >= 50, "{layout}: {} were made", done());
        assert_eq!(crash(), Some(3), "{layout}: then no more");
        assert_eq!(crash(), Some(3), "{layout}: nor later");
        let failed = fs::read_to_string(out.join(".nightshift/failed.csv")).expect("it failed");
        assert!(failed.contains("kills_the_process,") && failed.contains("000000017"), "{failed}");
        assert_eq!(failed.lines().count(), 2, "{failed}");
        // Asked for it gets another chance, here with a disk that does not kill.
        let summary = night_to(0, &rows, &out, &["--format", layout, "--retry-failed"]);
        assert_eq!(summary["made"], 1, "{layout}");
        assert_eq!(dataset(&out), dataset(&base), "{layout}");
    }
}

/// Returns a disk with room for so many bytes.
fn small(room: u64) -> HookedDisk {
    let left = AtomicU64::new(room);
    HookedDisk(Arc::new(move |file, bytes| {
        let fits = left.load(Ordering::SeqCst).min(bytes.len() as u64);
        left.fetch_sub(fits, Ordering::SeqCst);
        file.write_all(&bytes[..fits as usize])?;
        match fits == bytes.len() as u64 {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
        }
    }))
}

/// R6: the disk becomes full; what is there is whole, and when there is room again the same command ends well.
#[test]
fn a_full_disk_ends_the_run_and_spoils_nothing() {
    for layout in LAYOUTS {
        let folder = fast_tempdir();
        let (rows, base) = (rows(folder.path(), 600), folder.path().join("base"));
        let flags = ["--format", layout, "--shard-size", "50"];
        night_to(0, &rows, &base, &flags);
        let expected = dataset(&base);
        for room in [3_000, 60_000, 500_000, 900_000] {
            let out = folder.path().join("out");
            let error = night_on(Arc::new(small(room)), &rows, &out, &flags).expect_err("it does not fit");
            assert_eq!((error.kind(), error.code()), (ErrorKind::Storage, "disk_full"), "{layout}, {room}: {error}");
            assert!(error.message().contains("bytes are free"), "{error}");
            for (name, bytes) in dataset(&out) {
                let is_picture =
                    name.ends_with(".png") && !name.rsplit('/').next().unwrap_or_default().starts_with('.');
                assert!(!is_picture || expected[&name] == bytes, "{layout}, {room}: {name}");
            }
            fs::remove_dir_all(out.join(".nightshift/locks")).expect("as the death of this process would");
            night_to(0, &rows, &out, &flags);
            assert_eq!(dataset(&out), expected, "{layout}, {room}");
            fs::remove_dir_all(&out).expect("ours");
        }
    }
}

/// R6 on a real disk of 64 MB, where one may be mounted.
#[test]
fn a_real_disk_that_is_full_exits_13_within_ten_seconds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).expect("writable");
    let mount = |verb: &str, flags: &[&str]| {
        let status = Command::new(verb).args(flags).arg(&disk).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=8m", "tmpfs"]) {
        println!("not allowed to mount a disk here: left to the disk of the test above");
        return;
    }
    let (rows, out) = (rows(folder.path(), 20_000), disk.join("out"));
    let started = std::time::Instant::now();
    let (code, said) = night(&rows, &out, &[]);
    let unmounted_later = || mount("umount", &["-l"]);
    assert_eq!(code, 13, "{said}");
    assert!(said.contains("the disk will be full before the end"), "{said}");
    assert!(said.contains("bytes are free") && said.contains("free some space"), "{said}");
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
    for (name, bytes) in dataset(&out).iter().filter(|(name, _)| name.ends_with(".png") && !name.contains("/.")) {
        image::load_from_memory(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(mount("mount", &["-o", "remount,size=200m"]), "more room");
    let (code, said) = night(&rows, &out, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(unmounted_later());
}
