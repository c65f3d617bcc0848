//! The journal under crashes: cut at every byte, bits flipped, several files, a million records.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use nightshift::error::ErrorKind;
use nightshift::journal::{self, Digest, Done, Failed, Journal, Record, State};

fn done(number: u32) -> Record {
    let key = format!("{number:09}");
    Record::Done(Done {
        file_name: format!("images/{:05}/{key}.png", number / 1000),
        key,
        row_hash: Digest([number as u8; 16]),
        bytes: 100 + u64::from(number),
        blake3: Digest([number as u8; 32]),
        seed: u64::MAX - u64::from(number),
        suspect: false,
        scored: None,
        spool: None,
    })
}

fn begin(number: u32) -> Record {
    Record::Begin { keys: vec![format!("{number:09}")], alone: false }
}

fn is_done(state: &State, number: u32) -> bool {
    state.is_done(&format!("{number:09}"), Digest([number as u8; 16]))
}

/// Returns a folder in memory where there is one: these tests sync thousands of times, and what they check is the order.
fn fast_tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Returns the bytes of a journal whose last `unsynced` records have not been synced.
fn journal_of(dir: &Path, records: u32, unsynced: u32) -> Vec<u8> {
    let (mut journal, _) = Journal::open(dir, "0").unwrap();
    for number in 0..records {
        journal.append(&[begin(number), done(number)]).unwrap();
        if number + unsynced < records {
            journal.sync().unwrap();
        }
    }
    drop(journal);
    fs::read(dir.join("0.log")).unwrap()
}

#[test]
fn what_was_written_reads_back() {
    let dir = fast_tempdir();
    journal_of(dir.path(), 5, 0);
    let failed = Failed {
        key: "bad".into(),
        row_hash: Digest([9; 16]),
        code: "nan".into(),
        message: "line\nbreak, \"quote\", 🦊".into(),
    };
    let (mut journal, state) = Journal::open(dir.path(), "0").unwrap();
    assert_eq!(state.done_count(), 5);
    journal.append(&[begin(77), Record::Failed(failed.clone())]).unwrap();
    journal.sync().unwrap();
    let state = journal::read(dir.path()).unwrap();
    let image = state.done("000000003").unwrap();
    assert_eq!((&*image.file_name, image.bytes, image.seed), ("images/00000/000000003.png", 103, u64::MAX - 3));
    assert_eq!(image.blake3, Digest([3; 32]));
    assert_eq!(state.failed("bad"), Some(&failed));
    assert_eq!(state.in_flight().collect::<Vec<_>>(), ["000000077"]);
    assert_eq!(journal::read(&dir.path().join("none")).unwrap().done_count(), 0);
}

#[test]
fn a_cut_at_any_byte_loses_at_most_what_was_cut() {
    let dir = fast_tempdir();
    let whole = journal_of(dir.path(), 6, 3);
    let path = dir.path().join("0.log");
    let lines: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] == b'\n').map(|i| i + 1).collect();
    for cut in lines[1]..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let text = String::from_utf8_lossy(&whole[..lines.iter().copied().filter(|&end| end <= cut).max().unwrap()])
            .into_owned();
        let expected = text.matches("\"done\"").count();
        let state = journal::read(dir.path()).unwrap();
        assert_eq!(state.done_count(), expected, "cut at {cut}");
        if cut % 11 > 0 && !lines.contains(&cut) {
            continue; // Opening syncs, and a few hundred syncs are enough.
        }
        let (mut journal, state) = Journal::open(dir.path(), "0").unwrap();
        assert_eq!(state.done_count(), expected);
        journal.append(&[done(99)]).unwrap();
        journal.sync().unwrap();
        let state = journal::read(dir.path()).unwrap();
        assert!(is_done(&state, 99) && state.done_count() == expected + 1, "cut at {cut}, then appended");
    }
}

#[test]
fn garbage_after_the_last_mark_is_a_torn_tail() {
    let dir = fast_tempdir();
    let whole = journal_of(dir.path(), 4, 0);
    let path = dir.path().join("0.log");
    for garbage in [vec![0; 4096], b"\n\n\n".to_vec(), vec![0xff; 10], whole[..50].to_vec()] {
        fs::write(&path, [whole.clone(), garbage].concat()).unwrap();
        let (_, state) = Journal::open(dir.path(), "0").unwrap();
        assert_eq!(state.done_count(), 4);
        assert!(fs::read(&path).unwrap().starts_with(&whole));
    }
}

#[test]
fn every_flipped_bit_of_what_was_synced_is_found() {
    let dir = fast_tempdir();
    let whole = journal_of(dir.path(), 3, 0);
    let path = dir.path().join("0.log");
    let last_mark = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    for bit in 0..last_mark * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let error = journal::read(dir.path()).expect_err(&format!("bit {bit}"));
        assert_eq!((error.kind(), error.code()), (ErrorKind::Storage, "journal_damaged"), "bit {bit}");
        let line = whole[..bit / 8].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
        let location = error.location().unwrap();
        assert_eq!((&location.path, location.line), (&path, Some(line)));
        assert!(error.how_to_fix().unwrap().contains("nightshift repair"));
        if bit % 1000 == 0 {
            Journal::open(dir.path(), "0").unwrap_err();
            assert_eq!(fs::read(&path).unwrap(), flipped, "a damaged file is left as it is");
        }
    }
    for bit in last_mark * 8..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        assert_eq!(journal::read(dir.path()).unwrap().done_count(), 3, "bit {bit} of the last mark");
    }
}

#[test]
fn a_lost_block_among_unsynced_records_is_no_damage() {
    let dir = fast_tempdir();
    let mut whole = journal_of(dir.path(), 6, 4);
    let third = whole.windows(9).position(|window| window == b"000000003").unwrap();
    whole[third..third + 40].fill(0);
    fs::write(dir.path().join("0.log"), &whole).unwrap();
    let (_, state) = Journal::open(dir.path(), "0").unwrap();
    assert_eq!(state.done_count(), 3, "what follows the hole was never promised");
}

#[test]
fn several_workers_make_one_state_and_only_the_own_tail_is_cut() {
    let dir = fast_tempdir();
    for worker in ["0", "1"] {
        let (mut journal, _) = Journal::open(dir.path(), worker).unwrap();
        journal.append(&[done(worker.parse().unwrap())]).unwrap();
    }
    let torn = dir.path().join("1.log");
    let cut = fs::metadata(&torn).unwrap().len() - 5;
    fs::File::options().write(true).open(&torn).unwrap().set_len(cut).unwrap();
    fs::write(dir.path().join("notes.txt"), "not a log").unwrap();
    let (_, state) = Journal::open(dir.path(), "0").unwrap();
    assert!(is_done(&state, 0) && !is_done(&state, 1));
    assert_eq!(fs::metadata(&torn).unwrap().len(), cut, "another worker's file is left as it is");
}

#[test]
fn a_newer_record_stops_the_run() {
    let dir = fast_tempdir();
    let json = "{\"quarantined\":{\"key\":\"x\"}}";
    fs::write(dir.path().join("0.log"), format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))).unwrap();
    assert_eq!(Journal::open(dir.path(), "0").unwrap_err().kind(), ErrorKind::Usage);
}

/// Run with `--ignored`; prints how long it takes and how much memory a million images need.
#[test]
#[ignore = "a quarter of a gigabyte on disk"]
fn a_million_records_read_fast_and_small() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), "0").unwrap();
    for thousand in 0..1000 {
        for batch in 0..100 {
            let numbers = (0..10).map(|i| thousand * 1000 + batch * 10 + i);
            let keys = numbers.clone().map(|number| format!("{number:09}")).collect();
            journal.append(&[Record::Begin { keys, alone: false }]).unwrap();
            journal.append(&numbers.map(done).collect::<Vec<_>>()).unwrap();
        }
    }
    journal.sync().unwrap();
    let before = resident();
    let start = (Instant::now(), processor_seconds());
    let state = journal::read(dir.path()).unwrap();
    let (wall, processor) = (start.0.elapsed().as_secs_f64(), processor_seconds() - start.1);
    let (memory, bytes) = (resident() - before, fs::metadata(dir.path().join("0.log")).unwrap().len());
    println!("{bytes} bytes of log: {wall:.2} s, {processor:.2} s of processor, {memory} MB");
    assert_eq!(state.done_count(), 1_000_000);
    assert!(memory < 300, "{memory} MB");
}

/// Returns the resident memory of this process in megabytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Returns how long this thread has run on a processor.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}
