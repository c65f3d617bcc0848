//! The few effects on a file system that nightshift needs, as a trait: the real one, and room for one that fails.
//!
//! Only effects are here. Reading does no harm and goes straight to `std::fs`.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

/// A file open for writing.
pub trait DiskFile: Send {
    /// Writes all of `bytes` at the end.
    ///
    /// # Errors
    /// The file system's own; a part of `bytes` may have been written.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns once what was written would survive a power cut. After an error the written data must count as lost: the
    /// kernel may have dropped it, and a second sync of the same file would say all is well.
    ///
    /// # Errors
    /// The file system's own.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to its first `length` bytes.
    ///
    /// # Errors
    /// The file system's own.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// A file system that can be written.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Creates one folder; its parent must be there. A folder that is already there is fine.
    ///
    /// # Errors
    /// The file system's own.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Opens an empty file to write, in place of what was there.
    ///
    /// # Errors
    /// The file system's own.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to write at its end; creates it where it is missing.
    ///
    /// # Errors
    /// The file system's own.
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file, in place of what was under the new name.
    ///
    /// # Errors
    /// The file system's own.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The file system's own.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns once the names in a folder would survive a power cut.
    ///
    /// # Errors
    /// The file system's own.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Creates a file that is not there yet and opens it to write: of several processes that try, one succeeds.
    ///
    /// # Errors
    /// `AlreadyExists`, or the file system's own.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Sets a file's time to now, by the file system's own clock.
    ///
    /// # Errors
    /// The file system's own.
    fn touch(&self, path: &Path) -> io::Result<()>;

    /// Returns whether a file of so many `bytes` is there, here or where this disk keeps it.
    fn holds(&self, path: &Path, bytes: u64) -> bool {
        fs::metadata(path).is_ok_and(|file| file.len() == bytes)
    }

    /// Returns the names of what is in a folder, here or where this disk keeps it; none where there is no such folder.
    ///
    /// # Errors
    /// The file system's own.
    fn files(&self, folder: &Path) -> io::Result<Vec<String>> {
        match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        }
    }

    /// Returns where a file can be read that may be kept elsewhere: its own path, or a copy's.
    ///
    /// # Errors
    /// The file system's own.
    fn recall(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_path_buf())
    }
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl DiskFile for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().append(true).create(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create_new(path)?))
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let both = Timestamps { last_access: now, last_modification: now };
        Ok(rustix::fs::utimensat(CWD, path, &both, AtFlags::empty())?)
    }
}
