//! The journal's files: reading them all, writing one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::record::{Line, Record, decode, encode, mark_at_end};
use super::state::State;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::disk::DiskFile;
use crate::output::durable::{Durable, storage_error};

/// Where a record stands. Records of a later session are newer, and those that follow in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    session: u32,
    line: u64,
}

/// The one writer of a worker's file.
pub struct Journal {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Bytes of the file that are whole records.
    length: u64,
    /// Bytes of the file that are known to be synced.
    synced: u64,
    /// A write or sync failed in a way that leaves the file's end unknown.
    broken: bool,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).field("length", &self.length).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens `<worker>.log` in the folder `dir` for writing, and returns it with what all files of the folder say. What a
    /// crash left of an unfinished record at the end of the worker's own file is cut off.
    ///
    /// # Errors
    /// Kind `Storage`: a file is damaged before its end (file, line and what to do are said), or cannot be read or
    /// written. Kind `Usage`: a newer nightshift wrote it.
    pub fn open(dir: &Path, worker: &str) -> Result<(Journal, State)> {
        Journal::open_on(&Durable::default(), dir, worker)
    }

    /// Does what [`Journal::open`] does, writing through `durable`.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(durable: &Durable, dir: &Path, worker: &str) -> Result<(Journal, State)> {
        durable.make_folder(dir)?;
        let path = dir.join(format!("{worker}.log"));
        let (mut state, length) = read_all(dir, Some(&path), &mut |_, _| {})?;
        let is_new = !path.exists();
        let file = durable.disk().append(&path).map_err(|error| storage_error("open", &path, 0, error))?;
        if is_new {
            durable.disk().sync_folder(dir).map_err(|error| storage_error("sync the folder", dir, 0, error))?;
        }
        let mut journal = Journal { path, file, length, synced: 0, broken: false };
        journal.file.cut(length).map_err(|error| storage_error("cut the torn end of", &journal.path, 0, error))?;
        let session = Record::Session { number: state.session() + 1 };
        journal.append(std::slice::from_ref(&session))?;
        journal.sync()?;
        state.apply(session);
        Ok((journal, state))
    }

    /// Returns the path of the worker's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes records at the end, without sync: a power cut may take them, a killed process does not.
    ///
    /// # Errors
    /// Kind `Storage`; none of the records is then in the file, or nothing more can be written to it.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        records.iter().for_each(|record| encode(record, &mut lines));
        self.write(&lines)
    }

    /// Returns once everything written is durable, and marks the file up to there.
    ///
    /// # Errors
    /// Kind `Storage`. If the sync itself fails nothing more can be written: the kernel may have dropped what it held, and
    /// another sync would not say so.
    pub fn sync(&mut self) -> Result<()> {
        self.refuse_if_broken()?;
        if self.synced == self.length {
            return Ok(());
        }
        if let Err(error) = self.file.sync() {
            self.broken = true;
            return Err(storage_error("sync", &self.path, 0, error));
        }
        let mut mark = Vec::new();
        encode(&Record::Synced { bytes: self.length }, &mut mark);
        self.write(&mark)?;
        // The mark itself needs no sync: without it the end counts as torn a little longer, no more.
        self.synced = self.length;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        self.refuse_if_broken()?;
        if let Err(error) = self.file.write_all(lines) {
            // Half a record in the middle would be damage; so it goes, or nothing may follow it.
            self.broken = self.file.cut(self.length).is_err();
            return Err(storage_error("write", &self.path, lines.len(), error));
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    fn refuse_if_broken(&self) -> Result<()> {
        if !self.broken {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Storage, "journal_broken", "an earlier write to this journal failed")
            .at(Location::file(&self.path))
            .hint("give the same command again"))
    }
}

/// Returns what all files of the journal folder `dir` say, and changes nothing. A folder that is not there says nothing.
///
/// # Errors
/// As [`Journal::open`].
pub fn read(dir: &Path) -> Result<State> {
    read_each(dir, |_, _| {})
}

/// Does what [`read`] does, and gives each record to `each` before.
///
/// # Errors
/// As [`Journal::open`].
pub fn read_each(dir: &Path, mut each: impl FnMut(Place, &Record)) -> Result<State> {
    read_all(dir, None, &mut each).map(|(state, _)| state)
}

/// Returns whether the journal folder `dir` has any file of a journal.
///
/// # Errors
/// Kind `Storage`: the folder cannot be listed.
pub fn exists(dir: &Path) -> Result<bool> {
    Ok(!log_files(dir)?.is_empty())
}

/// What is done with a record before it is taken in.
type Each<'a> = &'a mut dyn FnMut(Place, &Record);

/// Returns what all files of `dir` say, and how many bytes of the file `own` are whole records.
fn read_all(dir: &Path, own: Option<&Path>, each: Each<'_>) -> Result<(State, u64)> {
    let mut state = State::default();
    for path in log_files(dir)? {
        let read = read_file(&path, &mut |place, record| {
            each(place, &record);
            state.apply_from(place.session, record);
        })?;
        state.note_read(path, read);
    }
    let own_length = own.map_or(0, |own| state.read_up_to(own).bytes);
    Ok((state, own_length))
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ReadUpTo {
    /// Bytes that are whole records.
    pub(super) bytes: u64,
    /// Number of the last session in them.
    pub(super) session: u32,
}

/// What other workers write, read as it comes.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    own: PathBuf,
    /// What was read of each file.
    read: HashMap<PathBuf, ReadUpTo>,
    state: State,
}

impl Follower {
    /// Returns a follower of all files beside `own`, from where `state` ends.
    pub fn new(own: &Path, state: &State) -> Follower {
        let dir = own.parent().unwrap_or(Path::new("")).to_path_buf();
        Follower { dir, own: own.to_path_buf(), read: state.all_read().clone(), state: State::default() }
    }

    /// Reads what was added since, and returns all that was added since the beginning. A line that is not whole is read the next
    /// time: it may be in the making.
    ///
    /// # Errors
    /// Kind `Storage`: a file cannot be read.
    pub fn catch_up(&mut self) -> Result<&State> {
        for path in log_files(&self.dir)?.into_iter().filter(|path| *path != self.own) {
            let mut upto = self.read.get(&path).copied().unwrap_or_default();
            follow(&path, &mut upto, &mut self.state)?;
            self.read.insert(path, upto);
        }
        Ok(&self.state)
    }
}

/// Takes the whole records of a file from where it was read up to into `state`.
fn follow(path: &Path, upto: &mut ReadUpTo, state: &mut State) -> Result<()> {
    let failed = |error| storage_error("read", path, 0, error);
    let mut file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() <= upto.bytes {
        return Ok(());
    }
    file.seek(SeekFrom::Start(upto.bytes)).map_err(failed)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        let Line::Record(record) = decode(&line) else { break };
        if let Record::Session { number } = record {
            upto.session = number;
        }
        state.apply_from(upto.session, record);
        upto.bytes += line.len() as u64;
        line.clear();
    }
    Ok(())
}

/// Returns the journal's files, sorted by name.
pub(super) fn log_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| storage_error("list the folder", dir, 0, error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let mut logs: Vec<_> = paths.into_iter().filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
    logs.sort();
    Ok(logs)
}

/// A line that nobody has written: where it starts.
struct BadLine {
    number: u64,
    offset: u64,
}

/// Gives the records of one file to `each` and returns how far it is whole.
pub(super) fn read_file(path: &Path, each: &mut dyn FnMut(Place, Record)) -> Result<ReadUpTo> {
    let failed = |error| storage_error("read", path, 0, error);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
    let (mut line, mut number, mut offset, mut session) = (Vec::new(), 0, 0, 0);
    let mut bad: Option<BadLine> = None;
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        number += 1;
        match decode(&line) {
            Line::Bad => {
                let bad = bad.get_or_insert(BadLine { number, offset });
                refuse_if_synced(path, bad, mark_at_end(&line))?;
            }
            Line::Record(Record::Synced { bytes }) if bad.is_some() => {
                bad.iter().try_for_each(|bad| refuse_if_synced(path, bad, Some(bytes)))?;
            }
            // What follows a bad line was never promised.
            _ if bad.is_some() => {}
            Line::Unknown => return Err(newer(path, number)),
            Line::Record(record) => {
                if let Record::Session { number } = record {
                    session = number;
                }
                each(Place { session, line: number }, record);
            }
        }
        offset += line.len() as u64;
        line.clear();
    }
    Ok(ReadUpTo { bytes: bad.map_or(offset, |bad| bad.offset), session })
}

/// The code of the error that a file is damaged before its end.
pub(super) const DAMAGED: &str = "journal_damaged";

/// A bad line is damage if a mark behind it, up to `synced`, vouches for it; else it is the torn end.
fn refuse_if_synced(path: &Path, bad: &BadLine, synced: Option<u64>) -> Result<()> {
    if synced.is_some_and(|synced| synced > bad.offset) { Err(damaged(path, bad)) } else { Ok(()) }
}

fn damaged(path: &Path, bad: &BadLine) -> Error {
    let message = format!("the record at byte {} does not fit its checksum, and it had been synced", bad.offset);
    Error::new(ErrorKind::Storage, DAMAGED, message).at(Location::file(path).line(bad.number)).hint(
        "the disk or another program changed this file; put back a copy, or run `nightshift repair` on the output folder: \
         it takes what is still readable and looks at the pictures themselves",
    )
}

fn newer(path: &Path, line: u64) -> Error {
    Error::new(ErrorKind::Usage, "newer_journal", "a newer nightshift wrote this record")
        .at(Location::file(path).line(line))
        .hint("use that newer nightshift, or another --out")
}
