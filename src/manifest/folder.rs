//! The manifests of a folder: those that its files' names say are some, in the order of their names.

use std::fs;
use std::path::{Path, PathBuf};

use super::format::Format;
use super::notices::Notices;
use super::source::unreadable;
use crate::error::{Error, ErrorKind, Location, Result};

/// Returns the manifests in `folder`. Hidden files are none. Text files are some only where nothing else is: they may as
/// well be notes.
///
/// # Errors
/// A structure error where there are none, or where the folder cannot be read.
pub(super) fn manifests(folder: &Path, asked: Option<Format>, notices: &mut Notices) -> Result<Vec<PathBuf>> {
    let mut named = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if let (false, Some(format), true) = (hidden, Format::of_name(&path), path.is_file()) {
            named.push((path, format));
        }
    }
    named.sort_by(|one, other| one.0.cmp(&other.0));
    let is_text = |format: &Format| *format == Format::Txt && asked != Some(Format::Txt);
    if !named.iter().all(|(_, format)| is_text(format)) {
        for (path, _) in named.extract_if(.., |(_, format)| is_text(format)) {
            notices.say(format!("{}: left out of the folder's manifests; name it if it holds prompts", path.display()));
        }
    }
    if named.is_empty() {
        return Err(Error::new(ErrorKind::Manifest, "no_manifest_in_folder", "there is no manifest in this folder")
            .at(Location::file(folder))
            .hint("manifests end in .csv, .tsv, .jsonl, .parquet or .txt, also with .gz or .zst; or name the files"));
    }
    Ok(named.into_iter().map(|(path, _)| path).collect())
}
