//! Files under names of their own: each that should be there, and each that should not.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::Look;
use super::finding::{Finding, Kind};
use super::records::Expected;
use crate::error::Result;
use crate::journal::{Blake3, Digest};
use crate::output::durable::{is_temp_name, storage_error};

/// The folders that are ours alone; above them only tars are.
const OURS: [&str; 2] = ["images", "data"];

/// What is there in place of what should be.
struct Mismatch<'a> {
    expected: Expected<'a>,
    /// Size of the file; `None` where there is none.
    bytes: Option<u64>,
    /// Hash of the file, where it was looked at.
    blake3: Option<Blake3>,
    /// Why it could not be.
    error: Option<String>,
}

/// Compares files and records, folder by folder, and returns what differs and how many files should be there.
///
/// # Errors
/// Kind `Storage`: a folder cannot be listed.
pub fn compare(look: &Look<'_>) -> Result<(Vec<Finding>, u64)> {
    let mut expected = look.records.expected();
    expected.retain(|expected| look.wants(expected.path()));
    let by_folder: HashMap<&str, &[Expected<'_>]> =
        expected.chunk_by(|a, b| a.place().0 == b.place().0).map(|folder| (folder[0].place().0, folder)).collect();
    let mut folders: BTreeSet<String> = by_folder.keys().map(|folder| folder.to_string()).collect();
    folders.insert(String::new());
    for folder in OURS {
        walk(look.out, folder.to_string(), &mut folders)?;
    }
    let compare = |folder: &String| compare_folder(look, folder, by_folder.get(&**folder).copied().unwrap_or_default());
    let compared = folders.par_iter().map(compare).collect::<Result<Vec<_>>>()?;
    let (mismatches, extra): (Vec<Vec<Mismatch<'_>>>, Vec<Vec<Finding>>) = compared.into_iter().unzip();
    let mismatches: Vec<_> = mismatches.into_iter().flatten().collect();
    let mut findings = judge(look, &mismatches);
    findings.extend(extra.into_iter().flatten());
    Ok((findings, expected.len() as u64))
}

/// Collects the folder `name` of `out` and those below it.
fn walk(out: &Path, name: String, folders: &mut BTreeSet<String>) -> Result<()> {
    let path = out.join(&name);
    let failed = |error| storage_error("list the folder", &path, 0, error);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(out, format!("{name}/{}", entry.file_name().to_string_lossy()), folders)?;
        }
    }
    folders.insert(name);
    Ok(())
}

fn compare_folder<'a>(
    look: &Look<'_>,
    folder: &str,
    expected: &[Expected<'a>],
) -> Result<(Vec<Mismatch<'a>>, Vec<Finding>)> {
    let names: HashSet<&str> = expected.iter().map(|expected| expected.place().1).collect();
    let found = list(look.out, folder, &names)?;
    let mismatches = expected.par_iter().filter_map(|expected| mismatch(look, *expected, &found));
    let mismatches = mismatches.filter(|mismatch| !is_in_flight(look, mismatch.expected)).collect();
    let unknown = found.keys().filter(|name| !names.contains(&***name) && !is_temp_name(name));
    let unknown = unknown.map(|name| if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") });
    Ok((mismatches, unknown.filter(|path| look.wants(path)).filter_map(|path| unexpected(look, path)).collect()))
}

/// Returns names and sizes of the files in a folder; of those in the output folder itself, only what is ours to judge.
fn list(out: &Path, folder: &str, names: &HashSet<&str>) -> Result<HashMap<String, u64>> {
    let path = out.join(folder);
    let failed = |error| storage_error("list the folder", &path, 0, error);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        other => other.map_err(failed)?,
    };
    let mut found = HashMap::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if folder.is_empty() && !name.ends_with(".tar") && !names.contains(&*name) {
            continue;
        }
        match fs::metadata(path.join(&name)) {
            Ok(file) if file.is_dir() => {}
            Ok(file) => drop(found.insert(name, file.len())),
            // Gone since it was listed, or a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(storage_error("look at", &path.join(name), 0, error)),
        }
    }
    Ok(found)
}

fn mismatch<'a>(look: &Look<'_>, expected: Expected<'a>, found: &HashMap<String, u64>) -> Option<Mismatch<'a>> {
    let bytes = found.get(expected.place().1).copied();
    let same_size = bytes == Some(expected.bytes());
    if same_size && !look.deep {
        return None;
    }
    let (mut blake3, mut error) = (None, None);
    if look.deep && bytes.is_some() {
        match hash(&look.out.join(expected.path())) {
            Ok(hash) => blake3 = Some(hash),
            Err(cause) => error = Some(cause.to_string()),
        }
    }
    if same_size && blake3 == Some(expected.blake3()) {
        return None;
    }
    Some(Mismatch { expected, bytes, blake3, error })
}

/// Returns the hash of a file.
///
/// # Errors
/// It cannot be read.
pub fn hash(path: &Path) -> io::Result<Blake3> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn is_in_flight(look: &Look<'_>, expected: Expected<'_>) -> bool {
    matches!(expected, Expected::Picture(key, _) if look.in_flight.contains(key))
}

/// Returns what to say of a file that no record names.
fn unexpected(look: &Look<'_>, path: String) -> Option<Finding> {
    let Look { records, .. } = look;
    let in_flight = || records.format.key_of_image(&path).is_some_and(|key| look.in_flight.contains(&*key));
    match records.format.shard_of_file(&path) {
        Some(shard) if records.has_images(shard) && records.sealed(shard).is_none() => {
            // The first pictures of a run bring metadata of their own, until the shard's is written.
            (!look.live).then(|| Finding::new(Kind::Stale, path, "no record says what it holds"))
        }
        None if in_flight() => None,
        _ => Some(Finding::new(Kind::Extra, path, "no record knows it")),
    }
}

/// Returns what the differences mean: two that are each other's are one finding.
fn judge(look: &Look<'_>, mismatches: &[Mismatch<'_>]) -> Vec<Finding> {
    let wanted: HashMap<Blake3, usize> =
        mismatches.iter().enumerate().map(|(at, mismatch)| (mismatch.expected.blake3(), at)).collect();
    let other = |at: usize| {
        let other = *wanted.get(&mismatches[at].blake3?)?;
        let swapped = other != at && mismatches[other].blake3 == Some(mismatches[at].expected.blake3());
        swapped.then_some(other)
    };
    let finding = |at: usize| match other(at) {
        Some(other) if other < at => None,
        Some(other) => Some(swapped(mismatches[at].expected, mismatches[other].expected)),
        None => Some(alone(look, &mismatches[at])),
    };
    (0..mismatches.len()).filter_map(finding).collect()
}

fn swapped(one: Expected<'_>, other: Expected<'_>) -> Finding {
    let what = format!("holds what belongs into {}, which holds what belongs here", other.path());
    let (other, found) = (Some(other.path().to_string()), Some(other.blake3()));
    Finding { other, found, ..Finding::new(Kind::Swapped, one.path(), what) }
}

fn alone(look: &Look<'_>, mismatch: &Mismatch<'_>) -> Finding {
    let Mismatch { expected, bytes, blake3, error } = mismatch;
    let (kind, what) = match (bytes, error) {
        (None, _) => (Kind::Missing, missing(*expected)),
        (_, Some(error)) => (Kind::Unreadable, format!("cannot be read: {error}")),
        (Some(bytes), _) if is_former(look, *expected, *bytes, *blake3) => {
            (Kind::Stale, "is an older one: the images in it are not those of today".to_string())
        }
        (Some(bytes), _) if *bytes != expected.bytes() => {
            (Kind::Cut, format!("has {bytes} bytes and should have {}", expected.bytes()))
        }
        _ => (Kind::Changed, "its bytes are not those that were written".to_string()),
    };
    let images = key(*expected).into_iter().collect();
    Finding { images, found: *blake3, ..Finding::new(kind, expected.path(), what) }
}

fn missing(expected: Expected<'_>) -> String {
    match expected {
        Expected::Picture(..) => "is not there".to_string(),
        Expected::Shard(sealed) => format!("is not there; it tells of {} images", sealed.images),
    }
}

fn is_former(look: &Look<'_>, expected: Expected<'_>, bytes: u64, blake3: Option<Blake3>) -> bool {
    matches!(expected, Expected::Shard(sealed) if look.records.state.was_sealed(sealed.shard, bytes, blake3))
}

fn key(expected: Expected<'_>) -> Option<String> {
    match expected {
        Expected::Picture(key, _) => Some(key.to_string()),
        Expected::Shard(_) => None,
    }
}
