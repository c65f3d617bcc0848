//! `nightshift repair`: makes journal and disk agree again, without making a picture.
//!
//! What can be read of a damaged journal is kept; files under each other's names are put back; whole pictures that no record knows
//! are taken in by what they say of themselves; what is nowhere is lost, and the next run makes it. Files of shards that are not
//! what they should be are left to the next run too: it writes the same bytes again.

mod mend;
mod put_back;
mod quarantine;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::audit::{Audited, Finding, Look, Records};
use super::bucket::refuse_bucket;
use super::moves;
use crate::error::Result;
use crate::journal::{self, Journal, Record};
use crate::output::RunFolder;
use crate::output::layout::Format;
use crate::output::run_folder::ONLY_WORKER;
use mend::Mend;

/// What findings that are left exit with.
const LEFT: u8 = 3;
/// Records of a write.
const BATCH: usize = 10_000;

/// What `repair` did.
#[derive(Debug, Default, Serialize)]
pub struct RepairReport {
    /// Output folder.
    pub out: PathBuf,
    /// Files of the journal that were damaged, and were written anew of what could be read.
    pub journal_files: Vec<JournalFile>,
    /// Files that went back under their own names.
    pub put_back: u64,
    /// Pictures that the journal did not know, and knows now.
    pub adopted: u64,
    /// Images that are nowhere: the next run makes them.
    pub lost: u64,
    /// Shards whose files the next run will write anew.
    pub outdated_shards: u64,
    /// Damaged pictures, and files that are none of ours if that was asked for, which are in `.nightshift/quarantine` now.
    pub quarantined: u64,
    /// What is still not as the journal says.
    pub left: Vec<Finding>,
    /// What the process exits with.
    pub exit_code: u8,
}

/// A file of the journal that was damaged.
#[derive(Debug, Serialize)]
pub struct JournalFile {
    /// The file.
    pub path: PathBuf,
    /// Where the damaged one is kept.
    pub damaged: PathBuf,
    /// Lines that could not be read.
    pub lost_lines: u64,
}

/// Repairs the output folder `out`; with `quarantine_extra`, files that are none of ours leave the folders of pictures, as damaged ones
/// always do.
///
/// # Errors
/// Somebody works there; `run.json` is missing or damaged; storage fails.
pub fn repair(out: &Path, quarantine_extra: bool) -> Result<RepairReport> {
    refuse_bucket(out, "repair")?;
    let folder = RunFolder::open_alone(out)?;
    let format = folder.previous().and_then(|run| Format::named(&run.format));
    let journal_files = recover(&folder)?;
    finish_moves(&folder)?;
    let records = Records::read(out, format)?;
    let mut audited = look(out, &records)?;
    let put_back = put_back::put_back(&folder, &records, &audited.findings)?;
    if put_back > 0 {
        audited = look(out, &records)?;
    }
    let mut mend = Mend::find(out, &records, audited.findings)?;
    folder.check()?;
    quarantine::quarantine(&folder, &mend.damaged)?;
    let mut left = std::mem::take(&mut mend.left);
    let mut quarantined = mend.damaged.len() as u64;
    if quarantine_extra {
        let paths: Vec<String> = left.drain(..).map(|finding| finding.path).collect();
        quarantine::quarantine(&folder, &paths)?;
        quarantined += paths.len() as u64;
    }
    let (adopted, lost) = (mend.adopted.len() as u64, mend.lost.len() as u64);
    let outdated_shards = mend.sealed.iter().filter(|sealed| sealed.is_outdated()).count() as u64;
    write(&folder, mend)?;
    let exit_code = if left.is_empty() { 0 } else { LEFT };
    let out = out.to_path_buf();
    Ok(RepairReport { out, journal_files, put_back, adopted, lost, outdated_shards, quarantined, left, exit_code })
}

fn recover(folder: &RunFolder) -> Result<Vec<JournalFile>> {
    let recovered = journal::recover(folder.durable(), &folder.journal_folder())?;
    let told = |it: journal::Recovered| JournalFile { path: it.path, damaged: it.damaged, lost_lines: it.lost };
    Ok(recovered.into_iter().map(told).collect())
}

/// Goes on with renaming pictures, where a run was stopped in that.
fn finish_moves(folder: &RunFolder) -> Result<()> {
    if moves::is_under_way(folder) {
        let (mut journal, _) = Journal::open_on(folder.durable(), &folder.journal_folder(), ONLY_WORKER)?;
        moves::resume(folder, &mut journal)?;
    }
    moves::forget(folder)
}

/// Reads every byte. What was in flight is looked at too: nobody is at work.
fn look(out: &Path, records: &Records) -> Result<Audited> {
    Look { out, records, deep: true, live: false, in_flight: HashSet::new(), only: None }.compare()
}

/// Writes down what was found. Records of shards follow those of their images, so that they are newer.
fn write(folder: &RunFolder, mend: Mend) -> Result<()> {
    let lost = mend.lost.into_iter().map(|key| Record::Lost { key });
    let adopted = mend.adopted.into_iter().map(Record::Done);
    let records: Vec<Record> = lost.chain(adopted).chain(mend.sealed.into_iter().map(Record::Sealed)).collect();
    if records.is_empty() {
        return Ok(());
    }
    let (mut journal, _) = Journal::open_on(folder.durable(), &folder.journal_folder(), ONLY_WORKER)?;
    records.chunks(BATCH).try_for_each(|batch| journal.append(batch))?;
    journal.sync()
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.journal_files {
            let (path, damaged) = (file.path.display(), file.damaged.display());
            writeln!(f, "{path}: {} lines could not be read; the damaged file is {damaged}", file.lost_lines)?;
        }
        for finding in &self.left {
            writeln!(f, "{finding}")?;
        }
        let counts = [
            (self.put_back, "files put back under their own names"),
            (self.adopted, "pictures taken into the journal"),
            (self.quarantined, "files moved to .nightshift/quarantine"),
            (self.lost, "images lost: the next run makes them"),
            (self.outdated_shards, "shards whose files the next run writes anew"),
        ];
        let told: Vec<_> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        match (told.is_empty(), self.left.len()) {
            (true, 0) if self.journal_files.is_empty() => write!(f, "journal and files agree: nothing to repair"),
            (true, 0) => write!(f, "journal and files agree"),
            (_, 0) => write!(f, "{}", told.join("\n")),
            (_, left) => {
                told.iter().try_for_each(|line| writeln!(f, "{line}"))?;
                write!(f, "{left} files are none of ours: remove them, or give --quarantine-extra")
            }
        }
    }
}
