//! Ids name files, so they are held to what every disk and bucket can store, and no two images may share one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::numbers::Problem;
use super::place::{Files, Place};
use super::shown::shown;
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;

/// Bytes of the longest id.
const LONGEST: usize = 128;

/// Pairs of rows that a message about equal ids lists.
const LISTED: usize = 10;

/// File names that Windows keeps for devices, besides COM1 to LPT9.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Checks that `id` can be a file name everywhere: `[A-Za-z0-9_-]{1,128}` and no device of Windows.
///
/// # Errors
/// A problem that says what is wrong with it.
pub(super) fn check(id: &str) -> Result<(), Problem> {
    let allowed = "use letters a to z, digits, `_` and `-`, at most 128";
    if id.len() > LONGEST {
        return Err(Problem::new(format!("`{}` has {} bytes, more than {LONGEST}", shown(id), id.len()), allowed));
    }
    if let Some(wrong) = id.chars().find(|&character| !is_id_character(character)) {
        let message =
            format!("`{}` has a `{}`, which no id may have", shown(id), shown(wrong.encode_utf8(&mut [0; 4])));
        return Err(Problem::new(message, allowed));
    }
    if is_device(id) {
        let message = format!("`{id}` is the name of a device on Windows");
        return Err(Problem::new(message, format!("use another id, such as `{id}_`")));
    }
    Ok(())
}

fn is_id_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '-'
}

fn is_device(id: &str) -> bool {
    let id = id.to_ascii_lowercase();
    let port = id.strip_prefix("com").or_else(|| id.strip_prefix("lpt"));
    DEVICES.contains(&id.as_str()) || port.is_some_and(|port| matches!(port.as_bytes(), [b'1'..=b'9']))
}

/// Returns the word in `id` that makes the `datasets` library take a file of this name for a part of a split (`test_1`).
///
/// Such ids are fine for us; whoever writes a layout that `datasets` reads has to call the file something else.
pub fn split_word(id: &str) -> Option<&'static str> {
    const WORDS: [&str; 9] = ["train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval"];
    let mut parts = id.split(|character: char| !character.is_ascii_alphabetic());
    parts.find_map(|part| WORDS.into_iter().chain(["evaluation"]).find(|word| *word == part))
}

/// The ids of all rows so far.
#[derive(Default)]
pub(super) struct Ids {
    /// Hash of an id in lower case, or the next free number after it → the row that has it. The rows have the texts: a
    /// million ids need not be held twice.
    rows: HashMap<u64, u64>,
    hasher: RandomState,
    /// Ids of bad rows, of which there are no jobs.
    bad: HashMap<u64, Seen<Box<str>>>,
    /// The first equal pair, as the error it will be.
    first: Option<Error>,
    /// The next pairs, for its hint.
    more: Vec<String>,
    pairs: u64,
}

/// A row and its id as it is written.
#[derive(Clone, Copy)]
struct Seen<T> {
    id: T,
    row: u64,
    line: u64,
}

impl Ids {
    /// Notes the id of a good row at `place`, which is not yet among `jobs`; a second row with an equal id, also but for
    /// case, is remembered for [`Ids::finish`].
    pub fn add(&mut self, id: &str, place: &Place, jobs: &[Arc<Job>], files: &Files) {
        match self.find(id, jobs) {
            Err(free) => drop(self.rows.insert(free, place.row)),
            Ok(seen) => {
                let (error, pair) = (equal_ids(id, &seen, place, files), (seen.row, place.row));
                self.note(id, error, pair);
            }
        }
    }

    /// Does the same for a bad row.
    pub fn add_bad(&mut self, id: &str, place: &Place, jobs: &[Arc<Job>], files: &Files) {
        self.add(id, place, jobs, files);
        self.bad.insert(place.row, Seen { id: id.into(), row: place.row, line: place.line });
    }

    fn note(&mut self, id: &str, error: Error, (first, second): (u64, u64)) {
        self.pairs += 1;
        if self.first.is_none() {
            self.first = Some(error);
        } else if self.more.len() < LISTED - 1 {
            self.more.push(format!("`{id}` (rows {first} and {second})"));
        }
    }

    /// Returns the row that has `id`, but for case, or else the number under which to note it.
    fn find<'j>(&'j self, id: &str, jobs: &'j [Arc<Job>]) -> Result<Seen<&'j str>, u64> {
        let mut number = self.hasher.hash_one(id.to_ascii_lowercase());
        while let Some(&row) = self.rows.get(&number) {
            match self.seen(row, jobs) {
                Some(seen) if seen.id.eq_ignore_ascii_case(id) => return Ok(seen),
                _ => number = number.wrapping_add(1),
            }
        }
        Err(number)
    }

    fn seen<'j>(&'j self, row: u64, jobs: &'j [Arc<Job>]) -> Option<Seen<&'j str>> {
        let good = || {
            let job = job_of_row(row, jobs)?;
            Some(Seen { id: job.id.as_deref()?, row, line: job.line })
        };
        good().or_else(|| self.bad.get(&row).map(|bad| Seen { id: &*bad.id, row, line: bad.line }))
    }

    /// Checks that all ids differ, and that no two images would get the same key.
    ///
    /// # Errors
    /// One structure error that lists the first ten pairs.
    pub fn finish(self, jobs: &[Arc<Job>], files: &Files) -> Result<()> {
        if let Some(first) = self.first {
            let fix = "give each row an id of its own; many disks take upper and lower case as equal";
            return Err(match self.pairs {
                1 => first.hint(fix),
                _ => first.hint(format!("{fix}; {} pairs in all, also {}", self.pairs, self.more.join(", "))),
            });
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        jobs.iter().try_for_each(|job| self.check_image_keys(job, jobs, files))
    }

    /// Checks that the id of `job` is not also a name that follows from another row: `cat_1`, the second image of the
    /// row `cat`, or `000000007`, the row 7 without an id.
    fn check_image_keys(&self, job: &Job, jobs: &[Arc<Job>], files: &Files) -> Result<()> {
        let Some(id) = &job.id else { return Ok(()) };
        let one_of_several = || {
            let (base, index) = id.rsplit_once('_')?;
            let index: u32 = index.parse().ok().filter(|number: &u32| number.to_string() == index)?;
            let other = unnamed(base, jobs).or_else(|| self.named(base, jobs))?;
            (job.num_images_per_prompt == 1 && other.num_images_per_prompt > index.max(1)).then_some(other)
        };
        let Some(other) = unnamed(id, jobs).or_else(one_of_several) else { return Ok(()) };
        let line = if other.line > 0 { format!(" (line {})", other.line) } else { String::new() };
        let message = format!("`{id}` is also the name of an image of row {}{line}", other.row);
        Err(Error::new(ErrorKind::Manifest, "duplicate_id", message)
            .at(files.id_location(job.row, job.line))
            .hint("rows without an id are called by their number, and several images of a row by `_0`, `_1`, …"))
    }

    /// Returns the job whose id is `id`, but for case.
    fn named<'j>(&self, id: &str, jobs: &'j [Arc<Job>]) -> Option<&'j Job> {
        job_of_row(self.find(id, jobs).ok()?.row, jobs)
    }
}

/// Returns the job without an id whose row number as a key is `key`.
fn unnamed<'j>(key: &str, jobs: &'j [Arc<Job>]) -> Option<&'j Job> {
    let row: u64 = key.parse().ok().filter(|_| key.len() >= 9)?;
    job_of_row(row, jobs).filter(|job| job.id.is_none() && job.key() == key)
}

/// Returns the job of `row`, where it is a good one.
fn job_of_row(row: u64, jobs: &[Arc<Job>]) -> Option<&Job> {
    jobs.binary_search_by_key(&row, |job| job.row).ok().map(|at| &*jobs[at])
}

/// Returns the error for two rows with equal ids.
fn equal_ids(id: &str, seen: &Seen<&str>, place: &Place, files: &Files) -> Error {
    let other = seen.id;
    let line = (seen.line > 0).then(|| format!("line {}", seen.line));
    let other_file =
        Some(files.path(seen.row)).filter(|path| *path != place.path).map(|path| path.display().to_string());
    let there = match [other_file, line].into_iter().flatten().collect::<Vec<_>>().join(", ") {
        told if told.is_empty() => format!("row {}", seen.row),
        told => format!("row {} ({told})", seen.row),
    };
    let message = match id == other {
        true => format!("`{id}` is also the id of {there}"),
        false => format!("`{id}` differs only by case from `{other}`, the id of {there}"),
    };
    Error::new(ErrorKind::Manifest, "duplicate_id", message).at(files.id_location(place.row, place.line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_that_every_disk_can_store() {
        for id in ["a", "cat_1", "007", "1e5", "-x", "A-b_C", "com10", "console", &"x".repeat(128)] {
            assert_eq!(check(id), Ok(()), "{id}");
        }
        let message = |id: &str| check(id).expect_err(id).message;
        assert_eq!(message("../../etc/x"), "`../../etc/x` has a `.`, which no id may have");
        assert_eq!(message("a/b"), "`a/b` has a `/`, which no id may have");
        assert_eq!(message("a\nb"), "`a\\nb` has a `\\n`, which no id may have");
        assert_eq!(message("é"), "`é` has a `é`, which no id may have");
        assert_eq!(message("Con"), "`Con` is the name of a device on Windows");
        assert_eq!(message("lpt1"), "`lpt1` is the name of a device on Windows");
        assert!(message(&"x".repeat(129)).ends_with("has 129 bytes, more than 128"));
    }

    #[test]
    fn split_words_are_whole_words() {
        assert_eq!(split_word("test_1"), Some("test"));
        assert_eq!(split_word("00001-a-validation-tube"), Some("validation"));
        assert_eq!(split_word("contest_1"), None);
        assert_eq!(split_word("latest"), None);
    }
}
