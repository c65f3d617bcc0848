//! Files that are whole and under a wrong name: two that were swapped, one that was renamed, those that a run stopped renaming.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rayon::prelude::*;

use crate::error::Result;
use crate::journal::Blake3;
use crate::output::durable::storage_error;
use crate::output::{RunFolder, STATE_FOLDER};
use crate::run::audit::{Finding, Kind, Records, hash};

/// Folders where files wait for their names: a run's, and ours.
const WAITING: [&str; 2] = ["moving", "misplaced"];

/// Renames files to where the journal has files of their hash and there is none; returns how many.
///
/// # Errors
/// Storage fails.
pub fn put_back(folder: &RunFolder, records: &Records, findings: &[Finding]) -> Result<u64> {
    let out = folder.path();
    let told: HashSet<&str> = findings.iter().flat_map(|it| [Some(&*it.path), it.other.as_deref()]).flatten().collect();
    let expected = records.expected().into_iter().filter(|expected| told.contains(expected.path()));
    let mut wanted: HashMap<Blake3, &str> = expected.map(|expected| (expected.blake3(), expected.path())).collect();
    let mut moves = Vec::new();
    for (path, hash) in sources(out, findings)? {
        if let Some(to) = wanted.remove(&hash).filter(|to| out.join(to) != path) {
            moves.push((path, out.join(to)));
        }
    }
    // The new name of one may be the old one of another, so all wait in between.
    let waiting = out.join(STATE_FOLDER).join(WAITING[1]);
    if !moves.is_empty() {
        folder.durable().make_folder(&waiting)?;
    }
    let place = |at: usize| waiting.join(format!("{}-{at}", std::process::id()));
    for (at, (from, _)) in moves.iter().enumerate() {
        folder.durable().rename(from, &place(at))?;
    }
    for (at, (_, to)) in moves.iter().enumerate() {
        folder.durable().make_folder(to.parent().unwrap_or(out))?;
        folder.durable().rename(&place(at), to)?;
    }
    Ok(moves.len() as u64)
}

/// Returns files that may be others under a wrong name, and their hashes.
fn sources(out: &Path, findings: &[Finding]) -> Result<Vec<(PathBuf, Blake3)>> {
    let mut sources = Vec::new();
    for finding in findings {
        sources.extend(finding.found.map(|found| (out.join(&finding.path), found)));
    }
    let mut unread: Vec<PathBuf> = findings.iter().filter_map(|it| it.other.as_ref()).map(|it| out.join(it)).collect();
    unread.extend(findings.iter().filter(|it| it.kind == Kind::Extra).map(|it| out.join(&it.path)));
    for name in WAITING {
        let folder = out.join(STATE_FOLDER).join(name);
        match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(storage_error("list the folder", &folder, 0, error)),
            Ok(entries) => unread.extend(entries.flatten().map(|entry| entry.path())),
        }
    }
    // What cannot be read is not put anywhere.
    sources.par_extend(unread.into_par_iter().filter_map(|path| hash(&path).ok().map(|hash| (path, hash))));
    Ok(sources)
}
