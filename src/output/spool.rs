//! Images that wait for their shard: one file after the other in `OUT/.nightshift/spool`, so that a group of images of many
//! shards is made durable by one sync.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::DiskFile;
use super::durable::{Durable, storage_error};
use crate::error::{Error, ErrorKind, Location, Result};

/// A file of the spool that is being written.
pub struct Spool {
    path: PathBuf,
    name: Arc<str>,
    file: Box<dyn DiskFile>,
    /// Bytes that are whole images.
    length: u64,
    broken: bool,
}

impl Spool {
    /// Creates the file `name` in `folder`.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn create(durable: &Durable, folder: &Path, name: &str) -> Result<Spool> {
        durable.make_folder(folder)?;
        let path = folder.join(name);
        let file = durable.disk().create(&path).map_err(|error| storage_error("open", &path, 0, error))?;
        durable.disk().sync_folder(folder).map_err(|error| storage_error("sync the folder", folder, 0, error))?;
        Ok(Spool { path, name: name.into(), file, length: 0, broken: false })
    }

    /// Returns the file's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes images at the end and returns where each begins. They are durable after the next [`Spool::sync`].
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn append(&mut self, images: &[&[u8]]) -> Result<Vec<u64>> {
        if self.broken {
            return Err(Error::new(ErrorKind::Storage, "spool_broken", "an earlier write to this file failed")
                .at(Location::file(&self.path))
                .hint("give the same command again"));
        }
        let bytes = images.concat();
        if let Err(error) = self.file.write_all(&bytes) {
            self.broken = self.file.cut(self.length).is_err();
            return Err(storage_error("write", &self.path, bytes.len(), error));
        }
        let mut offsets = Vec::with_capacity(images.len());
        for image in images {
            offsets.push(self.length);
            self.length += image.len() as u64;
        }
        Ok(offsets)
    }

    /// Returns once all that was written is durable.
    ///
    /// # Errors
    /// Kind `Storage`. Nothing more can be written then: the kernel may have dropped what it held, and another sync would not
    /// say so.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(|error| {
            self.broken = true;
            storage_error("sync", &self.path, 0, error)
        })
    }
}

/// Returns `length` bytes from `offset` on of a file of the spool, or `None` where it does not hold them.
pub fn read(path: &Path, offset: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    File::open(path).ok()?.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_are_found_again() {
        let root = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&Durable::default(), &root.path().join("spool"), "a").unwrap();
        assert_eq!(spool.append(&[b"one", b"three"]).unwrap(), [0, 3]);
        spool.sync().unwrap();
        assert_eq!(spool.append(&[b"x"]).unwrap(), [8]);
        assert_eq!(read(spool.path(), 3, 5).unwrap(), b"three");
        assert_eq!(read(spool.path(), 8, 2), None);
        assert_eq!(read(&root.path().join("none"), 0, 1), None);
    }
}
