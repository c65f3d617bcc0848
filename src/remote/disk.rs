//! The spool as a disk: what gets its final name here is to be uploaded, what is renamed or removed here is there too. A file that is
//! not here any more is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::names::{self, Role, role};
use super::shared::Shared;
use crate::error::Error;
use crate::output::disk::{Disk, DiskFile};
use crate::output::run_folder::spool_folder;

/// See the module's text.
#[derive(Debug)]
pub struct SpooledDisk {
    below: Arc<dyn Disk>,
    shared: Arc<Shared>,
}

impl SpooledDisk {
    /// Returns the spool of `shared` on the disk `below`.
    pub fn new(below: Arc<dyn Disk>, shared: Arc<Shared>) -> Self {
        SpooledDisk { below, shared }
    }

    fn name(&self, path: &Path) -> Option<String> {
        names::name(&self.shared.spool, path)
    }

    /// Renames a file and notes what is to be done with it.
    fn rename_here(&self, from: &Path, to: &Path, name: &str) -> io::Result<()> {
        let _gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.below.rename(from, to)?;
        match role(name) {
            Role::Data => self.shared.queue.push(name.to_string(), fs::metadata(to).map_or(0, |file| file.len())),
            Role::State => self.shared.note_changed(name),
            Role::Own => {}
        }
        Ok(())
    }
}

impl Disk for SpooledDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.below.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.below.create(path)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if let Some(name) = self.name(path).filter(|name| role(name) == Role::State) {
            self.shared.note_changed(&name);
        }
        self.below.append(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (Some(from_name), Some(to_name)) = (self.name(from), self.name(to)) else {
            return self.below.rename(from, to);
        };
        if role(&to_name) == Role::Data {
            self.shared.wait_for_room();
        }
        let is_temp = from.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        match self.rename_here(from, to, &to_name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_temp => {
                match self.shared.store.rename(&from_name, &to_name).map_err(other)? {
                    true => Ok(()),
                    false => Err(error),
                }
            }
            Ok(()) if is_list_of_moves(&to_name) => self.shared.put_now(&to_name).map_err(other),
            Ok(()) if role(&from_name) == Role::Data => self.shared.store.delete(&from_name).map_err(other),
            renamed => renamed,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = self.name(path);
        match name.as_deref().map(role) {
            // There first: what is gone here is not looked for again.
            Some(Role::Data) => self.shared.store.delete(&name.unwrap_or_default()).map_err(other)?,
            Some(Role::State) => self.shared.note_changed(&name.unwrap_or_default()),
            _ => {}
        }
        self.below.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.below.sync_folder(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.below.create_new(path)
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        self.below.touch(path)
    }

    fn holds(&self, path: &Path, bytes: u64) -> bool {
        match fs::metadata(path) {
            Ok(file) => file.len() == bytes,
            Err(_) => self.name(path).is_some_and(|name| role(&name) == Role::Data),
        }
    }

    fn files(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut found = self.below.files(folder)?;
        if let Some(name) = self.name(folder) {
            let below = self.shared.store.list(&name).map_err(other)?;
            let inside = |object: &super::objects::Object| {
                object.name.strip_prefix(&name)?.strip_prefix('/').filter(|rest| !rest.contains('/')).map(String::from)
            };
            found.extend(below.iter().filter_map(inside));
            found.sort_unstable();
            found.dedup();
        }
        Ok(found)
    }

    fn recall(&self, path: &Path) -> io::Result<PathBuf> {
        let Some(name) = self.name(path) else { return Ok(path.to_path_buf()) };
        let hash = blake3::hash(name.as_bytes());
        let folder = spool_folder(&self.shared.spool);
        let copy = folder.join(format!("recalled-{:.16}.spool", hash.to_hex().as_str()));
        fs::create_dir_all(&folder)?;
        let _ = fs::remove_file(&copy);
        // Another name for the same bytes: the one that it has may leave the spool at any moment.
        if fs::hard_link(path, &copy).is_ok() {
            return Ok(copy);
        }
        let mut file = self.below.create(&copy)?;
        let mut take = |piece: &[u8]| file.write_all(piece).map_err(|error| Error::storage("write", &copy, error));
        let found = self.shared.store.download(&name, &mut take).map_err(other)?;
        Ok(if found { copy } else { path.to_path_buf() })
    }
}

/// What is being renamed has to be known elsewhere before the first of it has another name.
fn is_list_of_moves(name: &str) -> bool {
    [".nightshift/moves.json", ".nightshift/moves.parted"].contains(&name)
}

fn other(error: Error) -> io::Error {
    io::Error::other(error)
}
