//! Files of the journal that are damaged before their end: what is still readable is kept, and so is the damaged file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::log::{DAMAGED, log_files, read_file};
use super::record::{Line, Record, decode, encode};
use crate::error::Result;
use crate::output::durable::{Durable, storage_error};

/// A file of the journal that was written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The file.
    pub path: PathBuf,
    /// Where the damaged one is now.
    pub damaged: PathBuf,
    /// Lines that could not be read.
    pub lost: u64,
}

/// Writes every damaged file of the journal folder `dir` anew, of the records that can be read. The damaged one stays beside it
/// as `NAME.log.damaged-N`. What the lost lines said is unknown, so all records have to be held against the disk after that.
///
/// # Errors
/// Kind `Storage`: a file cannot be read or written. Kind `Usage`: a newer nightshift wrote it.
pub fn recover(durable: &Durable, dir: &Path) -> Result<Vec<Recovered>> {
    let mut recovered = Vec::new();
    for path in log_files(dir)? {
        match read_file(&path, &mut |_, _| {}) {
            Err(error) if error.code() == DAMAGED => recovered.push(write_anew(durable, path)?),
            other => drop(other?),
        }
    }
    Ok(recovered)
}

/// The copy comes first, so that a crash between the two leaves the damaged file where it is.
fn write_anew(durable: &Durable, path: PathBuf) -> Result<Recovered> {
    let failed = |error| storage_error("read", &path, 0, error);
    let damaged = free_name(&path);
    durable.stream(&damaged, |mut sink| {
        io::copy(&mut File::open(&path).map_err(failed)?, &mut sink).map(drop).map_err(failed)
    })?;
    let mut lost = 0;
    durable.stream(&path, |sink| {
        lost = copy_readable(&damaged, sink).map_err(failed)?;
        Ok(())
    })?;
    Ok(Recovered { path, damaged, lost })
}

/// Writes the lines of the file `from` that can be read to `sink`, marks them as synced, and returns how many could not be.
fn copy_readable(from: &Path, sink: &mut dyn Write) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(from)?);
    let (mut line, mut bytes, mut lost) = (Vec::new(), 0, 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        match decode(&line) {
            Line::Bad => lost += 1,
            // Its number of bytes is that of the old file.
            Line::Record(Record::Synced { .. }) => {}
            _ => {
                sink.write_all(&line)?;
                bytes += line.len() as u64;
            }
        }
        line.clear();
    }
    let mut mark = Vec::new();
    encode(&Record::Synced { bytes }, &mut mark);
    sink.write_all(&mark)?;
    Ok(lost)
}

fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = (1..).map(|number: u32| path.with_file_name(format!("{name}.damaged-{number}")));
    names.into_iter().find(|path| !path.exists()).expect("there are more numbers than files")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::journal::{Journal, read};

    #[test]
    fn what_is_readable_is_kept_and_the_damaged_file_too() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), "a").unwrap();
        for key in ["a", "b", "c"] {
            journal.append(&[Record::Begin { keys: vec![key.to_string()], alone: false }]).unwrap();
            journal.sync().unwrap();
        }
        let (path, durable) = (dir.path().join("a.log"), Durable::default());
        assert_eq!(recover(&durable, dir.path()).unwrap(), []);
        for number in 1..3 {
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.windows(4).position(|window| window == b"[\"b\"" || window == b"[\"c\"").unwrap();
            bytes[at + 2] ^= 1;
            fs::write(&path, &bytes).unwrap();
            read(dir.path()).unwrap_err();
            let damaged = dir.path().join(format!("a.log.damaged-{number}"));
            assert_eq!(
                recover(&durable, dir.path()).unwrap(),
                [Recovered { path: path.clone(), damaged: damaged.clone(), lost: 1 }]
            );
            assert_eq!(fs::read(damaged).unwrap(), bytes);
            assert_eq!(read(dir.path()).unwrap().in_flight().count(), 3 - number);
        }
        assert_eq!(Journal::open(dir.path(), "a").unwrap().1.session(), 2);
    }
}
