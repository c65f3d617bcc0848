//! Every image of the run and what became of it, and which folders need their metadata written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::ImageTask;
use crate::journal::{Blake3, Done, RowHash, State};
use crate::output::metadata::{self, MetadataRow};
use crate::output::{Provenance, RunFolder, imagefolder};

/// A picture on disk.
struct Written {
    bytes: u64,
    blake3: Blake3,
}

struct Entry {
    task: ImageTask,
    /// Where the picture is or will be.
    file_name: String,
    written: Option<Written>,
}

#[derive(Default)]
struct Folder {
    /// Ordinals of its images.
    members: Vec<usize>,
    /// Images still to come.
    open: usize,
    /// Whether its metadata file is out of date.
    stale: bool,
}

/// See the module's text.
pub struct Ledger<'a> {
    folder: &'a RunFolder,
    provenance: &'a Provenance,
    columns: Vec<Arc<str>>,
    entries: Vec<Entry>,
    folders: BTreeMap<String, Folder>,
    failures: Vec<(ImageTask, Error)>,
    removed: u64,
}

impl<'a> Ledger<'a> {
    /// Returns the ledger of `tasks` (in manifest order), some of which the journal's `state` knows as done. An image is
    /// done if its key is, with the same row hash: a row that was edited is made again, in place of the old picture.
    pub fn new(
        folder: &'a RunFolder,
        provenance: &'a Provenance,
        columns: Vec<Arc<str>>,
        tasks: Vec<ImageTask>,
        state: &State,
    ) -> Self {
        let mut folders: BTreeMap<String, Folder> = BTreeMap::new();
        let mut entries = Vec::with_capacity(tasks.len());
        let mut known = 0;
        for task in tasks {
            let former = state.done(&task.key);
            known += usize::from(former.is_some());
            let file_name = match former {
                Some(done) => done.file_name.to_string(),
                None => imagefolder::relative_path(task.ordinal, &task.key),
            };
            let written = former
                .filter(|done| done.row_hash == row_hash(&task))
                .map(|done| Written { bytes: done.bytes, blake3: done.blake3 });
            let place = folders.entry(parent(&file_name).to_string()).or_default();
            place.members.push(entries.len());
            place.open += usize::from(written.is_none());
            entries.push(Entry { task, file_name, written });
        }
        let removed = (state.done_count() - known) as u64;
        Ledger { folder, provenance, columns, entries, folders, failures: Vec::new(), removed }
    }

    /// Returns the images that are still to be made, in manifest order, at most `limit`.
    pub fn missing(&self, limit: usize) -> Vec<ImageTask> {
        let missing = self.entries.iter().filter(|entry| entry.written.is_none());
        missing.take(limit).map(|entry| entry.task.clone()).collect()
    }

    /// Returns what is written into every picture beside its own row.
    pub fn provenance(&self) -> &'a Provenance {
        self.provenance
    }

    /// Returns how many images there are.
    pub fn images(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns how many images of former runs no row asks for any more.
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Returns how many pictures are on disk.
    pub fn written(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.written.is_some()).count() as u64
    }

    /// Returns what failed in this run.
    pub fn failures(&self) -> &[(ImageTask, Error)] {
        &self.failures
    }

    /// Returns the path of the picture of `task` relative to the output folder: where it was before, if it was made before.
    pub fn file_name(&self, task: &ImageTask) -> &str {
        &self.entries[task.ordinal as usize].file_name
    }

    /// Returns the first `count` pictures that are on disk, in manifest order: task and path relative to the output folder.
    pub fn pictures(&self, count: usize) -> Vec<(&ImageTask, &str)> {
        let written = self.entries.iter().filter(|entry| entry.written.is_some());
        written.take(count).map(|entry| (&entry.task, entry.file_name.as_str())).collect()
    }

    /// Notes that the picture of `task` is on disk.
    pub fn done(&mut self, task: &ImageTask, done: &Done) {
        self.settle(task).stale = true;
        self.entries[task.ordinal as usize].written = Some(Written { bytes: done.bytes, blake3: done.blake3 });
    }

    /// Notes that the picture of `task` could not be made.
    pub fn failed(&mut self, task: &ImageTask, error: Error) {
        self.settle(task);
        self.failures.push((task.clone(), error));
    }

    fn settle(&mut self, task: &ImageTask) -> &mut Folder {
        let name = parent(&self.entries[task.ordinal as usize].file_name);
        let folder = self.folders.get_mut(name).expect("every image's folder is known from the start");
        folder.open = folder.open.saturating_sub(1);
        folder
    }

    /// Writes the metadata of the folders that have just become complete.
    ///
    /// # Errors
    /// Storage fails.
    pub fn write_complete_folders(&mut self) -> Result<()> {
        self.write_folders(|folder| folder.stale && folder.open == 0)
    }

    /// Writes the metadata of all folders that need it, complete or not.
    ///
    /// # Errors
    /// Storage fails.
    pub fn write_stale_folders(&mut self) -> Result<()> {
        self.write_folders(|folder| folder.stale)
    }

    /// Marks the folders whose metadata file is missing or does not hold all of their pictures, as a crash may leave them;
    /// with `all`, every folder.
    pub fn mark_stale(&mut self, all: bool) {
        for (name, folder) in &mut self.folders {
            let pictures =
                folder.members.iter().filter(|&&member| self.entries[member].written.is_some()).count() as u64;
            let path = self.folder.path().join(name).join(metadata::FILE_NAME);
            folder.stale |= pictures > 0 && (all || metadata::count(&path) != Some(pictures));
        }
    }

    fn write_folders(&mut self, chosen: impl Fn(&Folder) -> bool) -> Result<()> {
        let mut rows = Vec::new();
        for folder in self.folders.values_mut().filter(|folder| chosen(folder)) {
            folder.stale = false;
            rows.extend(folder.members.iter().filter_map(|&member| metadata_row(&self.entries[member])));
        }
        if rows.is_empty() {
            return Ok(());
        }
        metadata::write(self.folder.durable(), self.folder.path(), self.provenance, &self.columns, &rows)
    }

    /// Returns the first error of each row that failed in this run.
    pub fn failed_rows(&self) -> HashMap<u64, &Error> {
        let mut rows = HashMap::new();
        for (task, error) in &self.failures {
            rows.entry(task.job.row).or_insert(error);
        }
        rows
    }
}

fn parent(file_name: &str) -> &str {
    file_name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Returns the task's row hash as the journal keeps it.
pub fn row_hash(task: &ImageTask) -> RowHash {
    task.row_hash().parse().expect("a row hash is 32 hex digits")
}

fn metadata_row(entry: &Entry) -> Option<MetadataRow> {
    let written = entry.written.as_ref()?;
    Some(MetadataRow {
        task: entry.task.clone(),
        file_name: entry.file_name.clone(),
        bytes: written.bytes,
        blake3: written.blake3.to_string(),
    })
}
