//! One file of the spool on its way to the bucket: whole, or in parts that are seen only when all are there. Once it is there it
//! leaves the spool, which thereby always says what is still to be uploaded.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Store;
use super::names;
use crate::error::{Error, Result};
use crate::output::STATE_FOLDER;

/// Files up to this size go in one piece; parts of larger ones have it.
const PART: u64 = 16 << 20;

/// What uploading takes.
pub struct Upload<'a> {
    /// The bucket.
    pub store: &'a Store,
    /// Where the files are.
    pub spool: &'a Path,
    /// Held while a file gets its final name, or leaves.
    pub gate: &'a Mutex<()>,
}

/// A large object on its way, as a note in the spool: what is left of it is removed by the next start.
#[derive(Serialize, Deserialize)]
struct InParts {
    name: String,
    id: String,
}

impl Upload<'_> {
    /// Uploads the file called `name`; returns its size, or `None` where it is not there any more.
    ///
    /// # Errors
    /// Kind `Storage`: the bucket does not take it, or it cannot be read.
    pub fn run(&self, name: &str) -> Result<Option<u64>> {
        let path = names::path(self.spool, name);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Error::storage("read", &path, error))?,
        };
        let read = |error| Error::storage("read", &path, error);
        let metadata = file.metadata().map_err(read)?;
        if metadata.len() <= PART {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(read)?;
            self.store.put(name, bytes.into())?;
        } else {
            self.in_parts(name, &mut file, &path)?;
        }
        self.let_go(&path, &metadata)?;
        Ok(Some(metadata.len()))
    }

    fn in_parts(&self, name: &str, file: &mut File, path: &Path) -> Result<()> {
        let id = self.store.begin(name)?;
        let note = self.note(name, &id)?;
        let sent = self.send_parts(name, &id, file, path);
        if sent.is_err() {
            // Where even this fails, the note stays, and the next start does it.
            self.store.abort(name, &id)?;
        }
        let _ = fs::remove_file(note);
        sent
    }

    fn send_parts(&self, name: &str, id: &str, file: &mut File, path: &Path) -> Result<()> {
        let mut parts = Vec::new();
        loop {
            let mut part = Vec::with_capacity(PART as usize);
            file.take(PART).read_to_end(&mut part).map_err(|error| Error::storage("read", path, error))?;
            if part.is_empty() && !parts.is_empty() {
                break;
            }
            parts.push(self.store.put_part(name, id, parts.len(), Bytes::from(part))?);
        }
        self.store.complete(name, id, parts)
    }

    /// Writes down that an object is on its way in parts.
    fn note(&self, name: &str, id: &str) -> Result<PathBuf> {
        let folder = parts_folder(self.spool);
        let hash = blake3::hash(format!("{name}\n{id}").as_bytes());
        let path = folder.join(format!("{:.16}.json", hash.to_hex().as_str()));
        let note = InParts { name: name.to_string(), id: id.to_string() };
        let json = serde_json::to_vec(&note).expect("strings are valid JSON");
        let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, json));
        written.map_err(|error| Error::storage("write", &path, error))?;
        Ok(path)
    }

    /// Removes a file that is in the bucket, unless another has its name by now. A removal that a power cut takes back costs
    /// another upload of the same bytes.
    fn let_go(&self, path: &Path, uploaded: &Metadata) -> Result<()> {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |file: Metadata| {
            let identity = |file: &Metadata| (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
            identity(&file) == identity(uploaded)
        };
        if !fs::metadata(path).is_ok_and(is_same) {
            return Ok(());
        }
        fs::remove_file(path).map_err(|error| Error::storage("remove", path, error))
    }

    /// Gives up what a killed process had under way in parts.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn abort_leftovers(&self) -> Result<()> {
        let Ok(notes) = fs::read_dir(parts_folder(self.spool)) else { return Ok(()) };
        for path in notes.flatten().map(|note| note.path()) {
            let note = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<InParts>(&text).ok());
            if let Some(InParts { name, id }) = note {
                self.store.abort(&name, &id)?;
            }
            let _ = fs::remove_file(&path);
        }
        Ok(())
    }
}

fn parts_folder(spool: &Path) -> PathBuf {
    spool.join(STATE_FOLDER).join("parts")
}
