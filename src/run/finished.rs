//! `OUT/.nightshift/done.json`: everything was made. By it the same command knows at once that there is nothing to do, without
//! reading a million rows again.
//!
//! It names all that the answer depends on: the command, the bytes of the manifests, the model's files, the bytes of the journal
//! and the shards' files. If any of them is not what it was, the run looks closer.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::audit::hash;
use super::options::RunOptions;
use super::prepare::Prepared;
use super::seal::Sealer;
use super::sharding::Share;
use super::summary::{Scores, Stages, Summary};
use crate::error::Result;
use crate::journal::Blake3;
use crate::output::durable::WholeFile;
use crate::output::{RunFolder, STATE_FOLDER, run_folder};

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    version: String,
    /// Hash of all that was asked for.
    request: String,
    /// Names and hashes of the journal's files: one that was damaged since has to be told of.
    journal: Vec<(String, Blake3)>,
    /// Names and sizes of the shards' files.
    shards: Vec<(String, u64)>,
    rows: u64,
    images: u64,
    suspect: u64,
    #[serde(default)]
    scores: Option<Scores>,
    removed: u64,
}

/// Returns the summary of a run that has nothing to do, if that can be told without looking closer.
///
/// # Errors
/// None today; what cannot be read is looked at more closely, and then said.
pub fn recognize(options: &RunOptions, started: Instant) -> Result<Option<Summary>> {
    let note = fs::read(note_path(&options.out)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    let Some(note) = note.filter(|_| is_plain(options)) else { return Ok(None) };
    // What is not in the spool is in the bucket: there is no local file to look at.
    let there = |(name, bytes): &(String, u64)| {
        options.bucket.is_some() || fs::metadata(options.out.join(name)).is_ok_and(|file| file.len() == *bytes)
    };
    let unchanged = note.version == env!("CARGO_PKG_VERSION")
        && journal_files(&options.out).is_ok_and(|files| files == note.journal)
        && run_folder::is_unclaimed(&options.out)
        && note.shards.iter().all(there)
        && request(options).is_ok_and(|request| request == note.request);
    if !unchanged {
        return Ok(None);
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Some(Summary {
        out: options.shown_out(),
        rows: note.rows,
        images: note.images,
        skipped: note.images,
        suspect: note.suspect,
        scores: note.scores,
        removed: note.removed,
        seconds,
        stages: Stages { prepare: seconds, ..Stages::default() },
        contact_sheet: options.contact_sheet.clone(),
        ..Summary::default()
    }))
}

/// Leaves the note.
///
/// # Errors
/// Storage fails.
pub fn write(
    options: &RunOptions,
    prepared: &Prepared,
    folder: &RunFolder,
    sealer: &Sealer<'_>,
    summary: &Summary,
) -> Result<()> {
    let (true, Ok(request), Ok(journal)) = (is_plain(options), request(options), journal_files(&options.out)) else {
        return Ok(());
    };
    let full = sealer.sealed.values().filter(|sealed| sealed.images > 0);
    let mut shards: Vec<_> = full.map(|sealed| (sealed.file_name.clone(), sealed.bytes)).collect();
    shards.sort_unstable();
    let version = env!("CARGO_PKG_VERSION").to_string();
    let (rows, images) = (prepared.manifest.rows, summary.images);
    let (suspect, scores, removed) = (summary.suspect, summary.scores, summary.removed);
    let scores = scores.map(|scores| Scores { retries: 0, ..scores });
    let note = Note { version, request, journal, shards, rows, images, suspect, scores, removed };
    let json = serde_json::to_vec(&note).expect("strings and numbers are valid JSON");
    folder.durable().commit(&[WholeFile { path: note_path(&options.out), bytes: &json }])
}

/// Returns whether the run is of a kind that the note can speak of: all of it, from files that can be read again.
fn is_plain(options: &RunOptions) -> bool {
    let from_files = options.job.manifests.iter().all(|path| path.is_file());
    let sheet_is_there = options.contact_sheet.as_ref().is_none_or(|path| path.exists());
    from_files
        && sheet_is_there
        && options.shard == Share::WHOLE
        && options.job.limit.is_none()
        && !options.retry_failed
}

fn note_path(out: &Path) -> PathBuf {
    out.join(STATE_FOLDER).join("done.json")
}

/// Hashes what was asked for: flags, bytes of the manifests, names, sizes and times of the model's files.
fn request(options: &RunOptions) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let how = (options.format, options.image_format, options.shard_size, options.vae_tiling);
    let how = (&options.job, &options.scorer, how);
    hasher.update(format!("{how:?}").as_bytes());
    for path in &options.job.manifests {
        hasher.update(&fs::metadata(path)?.len().to_le_bytes());
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            };
        }
    }
    let mut files = Vec::new();
    list(&options.job.model, 3, &mut files)?;
    if let Some(scorer) = &options.scorer {
        list(&scorer.dir, 3, &mut files)?;
    }
    files.sort_unstable();
    hasher.update(format!("{files:?}").as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

/// Collects path, size and time of the files below `folder`.
fn list(folder: &Path, depth: usize, files: &mut Vec<(PathBuf, u64, u128)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::metadata(&path)?;
        if metadata.is_dir() && depth > 0 {
            list(&path, depth - 1, files)?;
        } else if metadata.is_file() {
            let time = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
            files.push((path, metadata.len(), time));
        }
    }
    Ok(())
}

fn journal_files(out: &Path) -> io::Result<Vec<(String, Blake3)>> {
    let entries = fs::read_dir(run_folder::journal_folder(out))?;
    let mut files = entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), hash(&entry.path())?))
        })
        .collect::<io::Result<Vec<_>>>()?;
    files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}
