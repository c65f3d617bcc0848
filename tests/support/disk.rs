//! Disks that fail, die or remember: what `nightshift::output::disk` is a trait for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nightshift::output::disk::{Disk, DiskFile, RealDisk};

/// What a disk does instead of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the call goes through.
    None,
    /// The call fails with this error number; a write is half done.
    Errno(i32),
    /// The process dies before the call; a write is half done.
    Abort,
}

/// A disk whose n-th call goes wrong, alone or with all that follow.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    /// Calls so far.
    pub calls: Arc<AtomicUsize>,
    /// The call that goes wrong, from 0.
    pub at: usize,
    /// Whether all later ones do too.
    pub sticky: bool,
    /// What goes wrong.
    pub fault: Fault,
}

impl FaultyDisk {
    /// Returns a disk whose call number `at` goes wrong.
    pub fn new(at: usize, sticky: bool, fault: Fault) -> Self {
        FaultyDisk { calls: Arc::default(), at, sticky, fault }
    }

    fn fault(&self) -> Fault {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call == self.at || (self.sticky && call > self.at) { self.fault } else { Fault::None }
    }

    fn call<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.fault() {
            Fault::None => act(),
            Fault::Errno(number) => Err(io::Error::from_raw_os_error(number)),
            Fault::Abort => std::process::abort(),
        }
    }

    fn file(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile { disk: self.clone(), file: file? }))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    file: Box<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.disk.fault() {
            Fault::None => self.file.write_all(bytes),
            fault => {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
                match fault {
                    Fault::Errno(number) => Err(io::Error::from_raw_os_error(number)),
                    _ => std::process::abort(),
                }
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let FaultyFile { disk, file } = self;
        disk.call(|| file.sync())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let FaultyFile { disk, file } = self;
        disk.call(|| file.cut(length))
    }
}

impl Disk for FaultyDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call(|| RealDisk.create_folder(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.call(|| RealDisk.create(path)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.call(|| RealDisk.append(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| RealDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(|| RealDisk.remove(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call(|| RealDisk.sync_folder(path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.call(|| RealDisk.create_new(path)))
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        self.call(|| RealDisk.touch(path))
    }
}

/// What is done in place of a write: the file, and the bytes.
pub type OnWrite = Arc<dyn Fn(&mut dyn DiskFile, &[u8]) -> io::Result<()> + Send + Sync>;

/// A disk whose writes are another's business.
#[derive(Clone)]
pub struct HookedDisk(pub OnWrite);

impl std::fmt::Debug for HookedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookedDisk")
    }
}

struct HookedFile(Box<dyn DiskFile>, OnWrite);

impl DiskFile for HookedFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        (self.1)(&mut *self.0, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.0.cut(length)
    }
}

impl Disk for HookedDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HookedFile(RealDisk.create(path)?, self.0.clone())))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HookedFile(RealDisk.append(path)?, self.0.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create_new(path)
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        RealDisk.touch(path)
    }
}

/// One effect on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A folder was created.
    Folder(PathBuf),
    /// A file got this name, empty; the number stands for it from now on.
    Create(PathBuf, usize),
    /// Bytes were written at the end of a file.
    Write(usize, Vec<u8>),
    /// What was written to a file would survive a power cut.
    Sync(usize),
    /// A file was cut.
    Cut(usize, u64),
    /// A name went from one place to another.
    Rename(PathBuf, PathBuf),
    /// A name went.
    Remove(PathBuf),
    /// The names in a folder would survive a power cut.
    SyncFolder(PathBuf),
}

/// A disk that remembers every effect, in order.
#[derive(Debug, Clone, Default)]
pub struct RecordingDisk {
    /// What was done.
    pub effects: Arc<Mutex<Vec<Effect>>>,
    files: Arc<AtomicUsize>,
    /// Files opened to be continued, by path: they keep their number.
    names: Arc<Mutex<std::collections::HashMap<PathBuf, usize>>>,
}

impl RecordingDisk {
    fn note(&self, effect: Effect) {
        self.effects.lock().expect("no test panics while it writes").push(effect);
    }

    fn opened(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        self.names.lock().expect("not poisoned").insert(path.to_path_buf(), number);
        self.note(Effect::Create(path.to_path_buf(), number));
        Box::new(RecordedFile { disk: self.clone(), file, number })
    }
}

struct RecordedFile {
    disk: RecordingDisk,
    file: Box<dyn DiskFile>,
    number: usize,
}

impl DiskFile for RecordedFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.disk.note(Effect::Write(self.number, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.disk.note(Effect::Sync(self.number));
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.cut(length)?;
        self.disk.note(Effect::Cut(self.number, length));
        Ok(())
    }
}

impl Disk for RecordingDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)?;
        self.note(Effect::Folder(path.to_path_buf()));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.opened(path, RealDisk.create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let known = self.names.lock().expect("not poisoned").get(path).copied();
        let file = RealDisk.append(path)?;
        match known {
            Some(number) => Ok(Box::new(RecordedFile { disk: self.clone(), file, number })),
            None => Ok(self.opened(path, file)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)?;
        self.note(Effect::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)?;
        self.note(Effect::Remove(path.to_path_buf()));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)?;
        self.note(Effect::SyncFolder(path.to_path_buf()));
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.opened(path, RealDisk.create_new(path)?))
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        RealDisk.touch(path)
    }
}
