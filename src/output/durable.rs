//! Whole files, or none: dot temp in the same folder, write, sync, rename, sync the folder; for a batch at a time, so that
//! the price of a power cut's worth of safety is shared.
//!
//! The pattern is restic's and SQLite's; that the folder needs its own sync is what ALICE (Pillai et al., OSDI 2014) found
//! missing most often.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::{Disk, DiskFile, RealDisk};
use crate::error::{Error, ErrorKind, Location, Result};

/// How the names of our temporary files end; together with the leading dot it tells them from everybody else's.
const TEMP_SUFFIX: &str = ".nightshift.tmp";

/// How many files of a batch are synced at a time: a sync waits for the disk, not for the processor.
const SYNCS_AT_A_TIME: usize = 8;

/// A file to write: its final name and all of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeFile<'a> {
    /// Final path.
    pub path: PathBuf,
    /// All of it.
    pub bytes: &'a [u8],
}

/// Writes whole files. Cheap to clone; clones share what they know about folders.
#[derive(Debug, Clone)]
pub struct Durable {
    disk: Arc<dyn Disk>,
    /// Folders that are known to be there and synced.
    folders: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Default for Durable {
    fn default() -> Self {
        Durable::on(Arc::new(RealDisk))
    }
}

impl Durable {
    /// Returns a writer on `disk`.
    pub fn on(disk: Arc<dyn Disk>) -> Self {
        Durable { disk, folders: Arc::default() }
    }

    /// Returns the disk below.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Writes a batch of files so that after a crash each is there whole or not at all, and after `Ok` all are there.
    /// Missing folders are made. After an error some may be there, whole; no temporary file of the batch is left unless
    /// the disk refuses even that.
    ///
    /// # Errors
    /// Kind `Storage`: the disk is full, read-only, failing, …
    pub fn commit(&self, files: &[WholeFile<'_>]) -> Result<()> {
        let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.path.parent()).collect();
        for folder in &folders {
            self.make_folder(folder)?;
        }
        if let Err(error) = self.write_temps(files).and_then(|()| self.rename_all(files)) {
            for file in files {
                // The error to report is the first one; a temp that stays is removed by the next run.
                let _ = self.disk.remove(&temp_path(&file.path));
            }
            return Err(error);
        }
        for folder in folders {
            self.disk.sync_folder(folder).map_err(|error| storage_error("sync the folder", folder, 0, error))?;
        }
        Ok(())
    }

    /// Writes one file that need not fit into memory: `fill` writes its bytes. Whole or not at all, as [`Durable::commit`].
    /// Returns the file's size and hash.
    ///
    /// # Errors
    /// Kind `Storage`, or what `fill` says.
    pub fn stream(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut (dyn io::Write + Send)) -> Result<()>,
    ) -> Result<(u64, blake3::Hash)> {
        let folder = path.parent().unwrap_or(Path::new("."));
        self.make_folder(folder)?;
        let temp = temp_path(path);
        let written = self.stream_temp(&temp, path, fill).and_then(|written| {
            self.disk.rename(&temp, path).map_err(|error| storage_error("rename", path, 0, error))?;
            Ok(written)
        });
        if written.is_err() {
            // The error to report is the first one; a temp that stays is removed by the next run.
            let _ = self.disk.remove(&temp);
        }
        let written = written?;
        self.disk.sync_folder(folder).map_err(|error| storage_error("sync the folder", folder, 0, error))?;
        Ok(written)
    }

    fn stream_temp(
        &self,
        temp: &Path,
        path: &Path,
        fill: impl FnOnce(&mut (dyn io::Write + Send)) -> Result<()>,
    ) -> Result<(u64, blake3::Hash)> {
        let failed = |error| storage_error("write", path, 0, error);
        let file = self.disk.create(temp).map_err(failed)?;
        let mut sink = Sink { file, hasher: blake3::Hasher::new(), bytes: 0, error: None };
        let mut buffered = io::BufWriter::with_capacity(1 << 20, &mut sink);
        let filled = fill(&mut buffered).and_then(|()| io::Write::flush(&mut buffered).map_err(failed));
        drop(buffered);
        // What the disk said beats what a library made of it.
        if let Some(error) = sink.error.take() {
            return Err(failed(error));
        }
        filled?;
        sink.file.sync().map_err(|error| storage_error("sync", path, 0, error))?;
        Ok((sink.bytes, sink.hasher.finalize()))
    }

    /// Renames a file durably.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to).map_err(|error| storage_error("rename", from, 0, error))?;
        let folder = to.parent().unwrap_or(Path::new("."));
        self.disk.sync_folder(folder).map_err(|error| storage_error("sync the folder", folder, 0, error))
    }

    /// Replaces a small file so that readers see the old or the new whole; without sync, so a power cut may bring either.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn replace_unsynced(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = temp_path(path);
        let written = self.disk.create(&temp).and_then(|mut file| file.write_all(bytes));
        let written = written.map_err(|error| storage_error("write", path, bytes.len(), error));
        let replaced = written
            .and_then(|()| self.disk.rename(&temp, path).map_err(|error| storage_error("rename", path, 0, error)));
        if replaced.is_err() {
            let _ = self.disk.remove(&temp);
        }
        replaced
    }

    /// Makes a folder and those above it that are missing, each synced into its parent.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn make_folder(&self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || self.known_folders().contains(path) {
            return Ok(());
        }
        if !path.is_dir() {
            let parent = path.parent().unwrap_or(Path::new(""));
            self.make_folder(parent)?;
            self.disk.create_folder(path).map_err(|error| storage_error("make the folder", path, 0, error))?;
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            self.disk.sync_folder(parent).map_err(|error| storage_error("sync the folder", parent, 0, error))?;
        }
        self.known_folders().insert(path.to_path_buf());
        Ok(())
    }

    /// Removes a file and syncs its folder; a file that is not there is fine.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self.disk.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(storage_error("remove", path, 0, error)),
            Ok(()) => {
                let folder = path.parent().unwrap_or(Path::new("."));
                self.disk.sync_folder(folder).map_err(|error| storage_error("sync the folder", folder, 0, error))
            }
        }
    }

    /// Returns where a file can be read that may be kept elsewhere: its own path, or a copy's.
    ///
    /// # Errors
    /// Kind `Storage`.
    pub fn recall(&self, path: &Path) -> Result<PathBuf> {
        self.disk.recall(path).map_err(|error| storage_error("fetch", path, 0, error))
    }

    /// Removes the temporary files that a crash left in `folder` and, down to `depth` levels, in the folders below it.
    /// Only files with our kind of name are touched, and links are not followed. Returns how many there were.
    ///
    /// # Errors
    /// Kind `Storage`: a folder cannot be read or a file cannot be removed.
    pub fn remove_temps(&self, folder: &Path, depth: usize) -> Result<usize> {
        let failed = |error| storage_error("list the folder", folder, 0, error);
        let mut removed = 0;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth > 0 {
                removed += self.remove_temps(&entry.path(), depth - 1)?;
            } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_temp_name) {
                let path = entry.path();
                self.disk.remove(&path).map_err(|error| storage_error("remove", &path, 0, error))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn known_folders(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        // A set of paths is right after every single operation, so a panic elsewhere cannot have spoilt it.
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and syncs the temps of all files, several at a time.
    fn write_temps(&self, files: &[WholeFile<'_>]) -> Result<()> {
        let share = files.len().div_ceil(SYNCS_AT_A_TIME).max(1);
        let write_share = |share: &[WholeFile<'_>]| share.iter().try_for_each(|file| self.write_temp(file));
        if files.len() <= 1 {
            return write_share(files);
        }
        thread::scope(|scope| {
            let threads: Vec<_> = files.chunks(share).map(|files| scope.spawn(move || write_share(files))).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(writer_panicked())));
            // All are waited for before the first error is returned: nobody may still write when temps are removed.
            results.collect::<Vec<Result<()>>>().into_iter().collect()
        })
    }

    fn write_temp(&self, file: &WholeFile<'_>) -> Result<()> {
        let written = self.disk.create(&temp_path(&file.path)).and_then(|mut temp| {
            temp.write_all(file.bytes)?;
            temp.sync()
        });
        written.map_err(|error| storage_error("write", &file.path, file.bytes.len(), error))
    }

    fn rename_all(&self, files: &[WholeFile<'_>]) -> Result<()> {
        files.iter().try_for_each(|file| {
            let renamed = self.disk.rename(&temp_path(&file.path), &file.path);
            renamed.map_err(|error| storage_error("rename", &file.path, 0, error))
        })
    }
}

/// Bytes on their way to a file, hashed and counted.
struct Sink {
    file: Box<dyn DiskFile>,
    hasher: blake3::Hasher,
    bytes: u64,
    error: Option<io::Error>,
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_all(bytes) {
            let again = io::Error::from(error.kind());
            self.error.get_or_insert(error);
            return Err(again);
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writer_panicked() -> Error {
    Error::new(ErrorKind::Unexpected, "panic", "a thread that writes files panicked")
}

/// Returns the name under which a file is written before it gets its own.
fn temp_path(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}{TEMP_SUFFIX}", of_this_process()))
}

/// Returns what tells our temporary files from those of other workers: some files of a run are written by all of them, and two at
/// once would rename each other's away.
fn of_this_process() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        format!("{:x}-{started:x}", std::process::id())
    })
}

/// Returns whether a file of that name is one that we were writing.
pub fn is_temp_name(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMP_SUFFIX)
}

/// Returns the bytes that are free to us on the file system of `path`, or `None` where it does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns the error for a failed operation (`doing`: "write", "rename", …) on `path`, kind `Storage`, saying what is full
/// or wrong and what to do. `needed` is how many bytes were to be written, 0 if none.
pub fn storage_error(doing: &str, path: &Path, needed: usize, source: io::Error) -> Error {
    let (code, hint) = explain(&source);
    let what = if needed > 0 { format!("cannot {doing} {needed} bytes") } else { format!("cannot {doing}") };
    let free = match code {
        "disk_full" => free_bytes(path).map_or(String::new(), |free| format!(", {free} bytes are free")),
        _ => String::new(),
    };
    Error::new(ErrorKind::Storage, code, format!("{what}: {source}{free}"))
        .at(Location::file(path))
        .hint(hint)
        .source(source)
}

fn explain(error: &io::Error) -> (&'static str, &'static str) {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::StorageFull => {
            ("disk_full", "free some space on that disk and give the same command again; finished images are kept")
        }
        Kind::QuotaExceeded => {
            ("disk_quota", "ask for a larger quota or delete files, then give the same command again")
        }
        Kind::ReadOnlyFilesystem => ("read_only", "that file system is read-only; give an --out on one that is not"),
        Kind::PermissionDenied => {
            ("permission", "the user of this run may not write there; change the rights or --out")
        }
        Kind::StaleNetworkFileHandle => {
            ("stale_handle", "the network file system lost that file; mount it again and give the same command again")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            ("disk_error", "the disk fails; look at the kernel's log, then give the same command again on a sound disk")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            ("too_many_files", "raise the limit of open files (ulimit -n) and give the same command again")
        }
        _ => ("storage", "mend the cause and give the same command again; finished images are kept"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commits_whole_files_into_new_folders_and_leaves_no_temps() {
        let root = tempfile::tempdir().unwrap();
        let durable = Durable::default();
        let contents: Vec<Vec<u8>> = (0..20).map(|i| vec![i; 100 * usize::from(i)]).collect();
        let path = |i: usize| root.path().join(format!("images/{:05}/{i}.png", i / 10));
        let files: Vec<_> = contents.iter().enumerate().map(|(i, bytes)| WholeFile { path: path(i), bytes }).collect();
        durable.commit(&files).unwrap();
        for (i, bytes) in contents.iter().enumerate() {
            assert_eq!(&fs::read(path(i)).unwrap(), bytes);
        }
        assert_eq!(durable.remove_temps(root.path(), 3).unwrap(), 0);
    }

    #[test]
    fn removes_only_temps_of_its_own_kind() {
        let root = tempfile::tempdir().unwrap();
        let ours = temp_path(&root.path().join("a/000000001.png"));
        let name = ours.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(".000000001.png.") && is_temp_name(name), "{name}");
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(&ours, "half").unwrap();
        for name in [".x.tmp", "y.nightshift.tmp", "a/.hidden"] {
            fs::write(root.path().join(name), "theirs").unwrap();
        }
        assert_eq!(Durable::default().remove_temps(root.path(), 1).unwrap(), 1);
        assert!(!ours.exists());
        assert!(root.path().join(".x.tmp").exists() && root.path().join("y.nightshift.tmp").exists());
    }

    #[test]
    fn a_full_disk_is_named_with_the_bytes_that_were_needed() {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let error = storage_error("write", Path::new("/tmp/x.png"), 1234, full);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Storage, "disk_full"));
        assert!(error.message().contains("1234 bytes") && error.message().contains("bytes are free"), "{error}");
        assert!(error.how_to_fix().unwrap().contains("free some space"));
    }

    #[test]
    fn a_path_through_a_file_is_an_error_not_a_panic() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        let error = Durable::default()
            .commit(&[WholeFile { path: root.path().join("file/below/x.png"), bytes: b"1" }])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
    }
}
