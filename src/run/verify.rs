//! `nightshift verify`: whether an output folder holds what its journal says.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::audit::{Audited, Finding, Kind, Look, Records};
use super::bucket::refuse_bucket;
use super::look::live;
use crate::error::Result;
use crate::output::layout::Format;
use crate::output::{STATE_FOLDER, run_folder};

/// What finding anything exits with.
const FOUND: u8 = 3;
/// How long a live run may take from giving a file its name to writing the record of it.
const RECORDING: Duration = Duration::from_millis(500);

/// What `verify` tells about an output folder.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// Output folder.
    pub out: PathBuf,
    /// Who works on it right now, if anyone.
    pub live: Option<String>,
    /// Whether every byte was read.
    pub deep: bool,
    /// Images that the journal knows as done.
    pub images: u64,
    /// Files that should be there.
    pub files: u64,
    /// Shards whose files the next run will write: it knows by itself.
    pub incomplete_shards: u64,
    /// How many findings there are of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// What is not as the journal says.
    pub findings: Vec<Finding>,
    /// What the process exits with.
    pub exit_code: u8,
}

/// Compares the output folder `out` with its journal: names and sizes, or every byte if `deep`. Changes nothing.
///
/// # Errors
/// `out` is no output folder; its journal is damaged, or it cannot be read.
pub fn verify(out: &Path, deep: bool) -> Result<VerifyReport> {
    refuse_bucket(out, "verify")?;
    let (format, run_file) = read_format(out)?;
    let live = live(out)?;
    let records = Records::read(out, format)?;
    let Audited { mut findings, files } = look(out, &records, deep, live.is_some(), None).compare()?;
    if live.is_some() && !findings.is_empty() {
        confirm(out, format, deep, &mut findings)?;
    }
    findings.extend(missing_journal(out, &findings)?);
    findings.extend(run_file);
    let mut counts = BTreeMap::new();
    findings.iter().for_each(|finding| *counts.entry(finding.kind).or_default() += 1);
    let exit_code = if findings.is_empty() { 0 } else { FOUND };
    let (images, incomplete_shards) = (records.state.done_count() as u64, records.incomplete_shards());
    Ok(VerifyReport {
        out: out.to_path_buf(),
        live,
        deep,
        images,
        files,
        incomplete_shards,
        counts,
        findings,
        exit_code,
    })
}

fn look<'a>(out: &'a Path, records: &'a Records, deep: bool, live: bool, only: Option<HashSet<String>>) -> Look<'a> {
    Look { out, records, deep, live, in_flight: records.state.in_flight().collect(), only }
}

/// Keeps what is still found after a live run had time to write down what it was doing at the first look.
fn confirm(out: &Path, format: Option<Format>, deep: bool, findings: &mut Vec<Finding>) -> Result<()> {
    thread::sleep(RECORDING);
    let records = Records::read(out, format)?;
    let only = findings.iter().flat_map(|it| [Some(&it.path), it.other.as_ref()]).flatten().cloned().collect();
    let again = look(out, &records, deep, true, Some(only)).compare()?;
    let again: HashSet<(Kind, String)> = again.findings.into_iter().map(|it| (it.kind, it.path)).collect();
    findings.retain(|finding| again.contains(&(finding.kind, finding.path.clone())));
    Ok(())
}

/// Returns how images are kept, and what is wrong with the file that says so.
fn read_format(out: &Path) -> Result<(Option<Format>, Option<Finding>)> {
    let finding = |kind, what| Some(Finding::new(kind, format!("{STATE_FOLDER}/run.json"), what));
    let lasting = "it cannot be made again from anything else: put back a copy";
    match run_folder::read_run(out) {
        Ok(Some(run)) => Ok((Format::named(&run.format), None)),
        Ok(None) => Ok((None, finding(Kind::Missing, format!("is not there; {lasting}")))),
        Err(error) if error.code() == "run_json_damaged" => {
            Ok((None, finding(Kind::Unreadable, format!("is damaged; {lasting}"))))
        }
        Err(error) => Err(error),
    }
}

/// Where there are pictures and no journal at all, that is what is wrong.
fn missing_journal(out: &Path, findings: &[Finding]) -> Result<Option<Finding>> {
    let extra = findings.iter().filter(|finding| finding.kind == Kind::Extra).count();
    if extra == 0 || crate::journal::exists(&run_folder::journal_folder(out))? {
        return Ok(None);
    }
    let what = "there is no journal, so no record knows what is here";
    Ok(Some(Finding::new(Kind::Missing, format!("{STATE_FOLDER}/journal"), what)))
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let how = if self.deep { "every byte read" } else { "names and sizes; --deep reads every byte" };
        write!(f, "{} images, {} files ({how}): ", self.images, self.files)?;
        match self.findings.len() {
            0 => write!(f, "no findings")?,
            1 => write!(f, "1 finding")?,
            count => write!(f, "{count} findings")?,
        }
        for (at, (kind, count)) in self.counts.iter().enumerate() {
            write!(f, "{}{count} {}", if at == 0 { ": " } else { ", " }, kind.name())?;
        }
        if self.incomplete_shards > 0 {
            write!(f, "\n{} shards are not complete: the next run writes their files", self.incomplete_shards)?;
        }
        if let Some(live) = &self.live {
            write!(f, "\nlive: {live} is at work; what it is making is not counted")?;
        }
        if !self.findings.is_empty() {
            write!(f, "\n`nightshift repair {}` makes journal and files agree again", self.out.display())?;
        }
        Ok(())
    }
}
