//! Rows that merely moved: their pictures get their new names, and are not made again.
//!
//! In an image folder that is a renaming of many files, whose new names may be the old ones of others. So all go to names of
//! their own first, then to their new ones. What is to be done is written down before, and done again from where it stopped after
//! a crash; each step is harmless if it was done already.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::catalogue::{Catalogue, Move};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::journal::{Done, Journal, Record};
use crate::output::durable::{WholeFile, storage_error};
use crate::output::{RunFolder, STATE_FOLDER};

/// What is to be done, as it stands in `OUT/.nightshift/moves.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Moves {
    /// Keys that the pictures no longer have.
    from: Vec<String>,
    /// Paths of their files, relative to the output folder.
    files: Vec<String>,
    /// What they are from now on.
    to: Vec<Done>,
    /// Files of pictures that no row asks for any more and whose names others get: from where to where.
    aside: Vec<(String, String)>,
}

/// Gives pictures that are there under another key their new names, and writes that into the journal.
///
/// # Errors
/// Storage fails.
pub fn apply(folder: &RunFolder, journal: &mut Journal, catalogue: &Catalogue, found: &[Move]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let images = found.iter().map(|found| &catalogue.images()[found.ordinal]);
    let to = images.filter_map(|image| Some(catalogue.record(&image.task, image.made.as_ref()?))).collect();
    let from = found.iter().map(|found| found.from.clone()).collect();
    let files = found.iter().map(|found| found.image.file_name.to_string()).collect();
    let replaced = catalogue.removed().iter().filter(|removed| removed.is_replaced);
    let aside = replaced.map(|removed| {
        let (file, hash) = (&*removed.image.file_name, removed.image.blake3.to_string());
        let (name, ending) = file.rsplit('/').next().unwrap_or(file).rsplit_once('.').unwrap_or((file, ""));
        (file.to_string(), format!("{STATE_FOLDER}/removed/{name}-{hash:.8}.{ending}"))
    });
    let moves = Moves { from, files, to, aside: aside.collect() };
    if catalogue.layout().format.is_packed() {
        return moves.write_down(journal);
    }
    let json = serde_json::to_vec(&moves).expect("strings and numbers are valid JSON");
    folder.durable().commit(&[WholeFile { path: list(folder), bytes: &json }])?;
    moves.carry_out(folder, journal)
}

/// Goes on where a crash stopped [`apply`]; returns whether there was anything to do.
///
/// # Errors
/// Storage fails.
pub fn resume(folder: &RunFolder, journal: &mut Journal) -> Result<bool> {
    let path = list(folder);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(|error| storage_error("read", &path, 0, error))?,
    };
    let moves: Moves = serde_json::from_slice(&text).map_err(|error| {
        Error::new(
            ErrorKind::Storage,
            "moves_damaged",
            "this file is damaged, so it is unknown which pictures were being renamed",
        )
        .at(Location::file(&path))
        .hint("remove it and run `nightshift repair` on the output folder")
        .source(error)
    })?;
    moves.carry_out(folder, journal)?;
    Ok(true)
}

/// Returns whether [`apply`] was stopped before its end.
pub fn is_under_way(folder: &RunFolder) -> bool {
    list(folder).exists()
}

/// Forgets a step of [`apply`] whose list is gone: the next one begins anew.
///
/// # Errors
/// Storage fails.
pub fn forget(folder: &RunFolder) -> Result<()> {
    if is_under_way(folder) { Ok(()) } else { folder.durable().remove(&parted(folder)) }
}

impl Moves {
    fn carry_out(&self, folder: &RunFolder, journal: &mut Journal) -> Result<()> {
        let (durable, waiting) = (folder.durable(), waiting_room(folder));
        durable.make_folder(&waiting)?;
        let out = |name: &str| folder.path().join(name);
        if !parted(folder).exists() {
            self.rename(folder, |at| (out(&self.files[at]), waiting.join(at.to_string())))?;
            self.put_aside(folder)?;
            durable
                .commit(&[WholeFile { path: parted(folder), bytes: b"all pictures have left their old names\n" }])?;
        }
        for done in &self.to {
            durable.make_folder(out(&done.file_name).parent().unwrap_or(folder.path()))?;
        }
        self.rename(folder, |at| (waiting.join(at.to_string()), out(&self.to[at].file_name)))?;
        self.write_down(journal)?;
        durable.remove(&list(folder))?;
        durable.remove(&parted(folder))
    }

    /// Renames one file for each picture; one that is not under its old name has been renamed before.
    fn rename(&self, folder: &RunFolder, names: impl Fn(usize) -> (PathBuf, PathBuf)) -> Result<()> {
        let disk = folder.durable().disk();
        let mut folders = std::collections::BTreeSet::new();
        for at in 0..self.to.len() {
            let (from, to) = names(at);
            match disk.rename(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|error| storage_error("rename", &from, 0, error))?,
            }
            folders.extend([from, to].iter().filter_map(|path| path.parent().map(PathBuf::from)));
        }
        folders.iter().try_for_each(|folder| {
            disk.sync_folder(folder).map_err(|error| storage_error("sync the folder", folder, 0, error))
        })
    }

    /// Takes pictures out of the way whose names others get, to where a person may still find them.
    fn put_aside(&self, folder: &RunFolder) -> Result<()> {
        if self.aside.is_empty() {
            return Ok(());
        }
        let durable = folder.durable();
        durable.make_folder(&folder.path().join(STATE_FOLDER).join("removed"))?;
        for (from, to) in &self.aside {
            let (from, to) = (folder.path().join(from), folder.path().join(to));
            match durable.disk().rename(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|error| storage_error("rename", &from, 0, error))?,
            }
        }
        Ok(())
    }

    fn write_down(&self, journal: &mut Journal) -> Result<()> {
        let lost = self.from.iter().map(|key| Record::Lost { key: key.clone() });
        let done = self.to.iter().map(|done| Record::Done(done.clone()));
        journal.append(&lost.chain(done).collect::<Vec<_>>())?;
        journal.sync()
    }
}

fn list(folder: &RunFolder) -> PathBuf {
    folder.path().join(STATE_FOLDER).join("moves.json")
}

/// Says that every picture has left its old name.
fn parted(folder: &RunFolder) -> PathBuf {
    folder.path().join(STATE_FOLDER).join("moves.parted")
}

fn waiting_room(folder: &RunFolder) -> PathBuf {
    folder.path().join(STATE_FOLDER).join("moving")
}
