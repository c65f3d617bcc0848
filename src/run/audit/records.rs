//! What the journal says, and in which order it said what of each shard.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Result;
use crate::journal::{self, DoneImage, Place, Record, Sealed, State};
use crate::output::layout::Format;
use crate::output::run_folder::journal_folder;

/// See the module's text.
pub struct Records {
    /// All that the records say together.
    pub state: State,
    /// How images are kept.
    pub format: Format,
    newest: HashMap<u32, Newest>,
}

/// The newest records of a shard.
#[derive(Default)]
struct Newest {
    done: Option<Place>,
    sealed: Option<Place>,
}

/// What should be on the disk.
#[derive(Clone, Copy)]
pub enum Expected<'a> {
    /// The file of one picture.
    Picture(&'a str, &'a DoneImage),
    /// The file of a shard.
    Shard(&'a Sealed),
}

impl Records {
    /// Reads the journal of `out`; without `format` that of the pictures is taken.
    ///
    /// # Errors
    /// The journal is damaged, or cannot be read.
    pub fn read(out: &Path, format: Option<Format>) -> Result<Records> {
        let mut newest: HashMap<u32, Newest> = HashMap::new();
        let mut seen = None;
        let state = journal::read_each(&journal_folder(out), |place, record| match record {
            Record::Done(done) => {
                let Some(format) = Format::of(&done.file_name) else { return };
                seen.get_or_insert(format);
                if let Some(shard) = format.shard_of_image(&done.file_name) {
                    let newest = &mut newest.entry(shard).or_default().done;
                    *newest = (*newest).max(Some(place));
                }
            }
            Record::Sealed(sealed) => {
                let newest = &mut newest.entry(sealed.shard).or_default().sealed;
                *newest = (*newest).max(Some(place));
            }
            _ => {}
        })?;
        Ok(Records { state, format: format.or(seen).unwrap_or_default(), newest })
    }

    /// Returns everything that should be on the disk under a name of its own, sorted by folder and name.
    pub fn expected(&self) -> Vec<Expected<'_>> {
        let pictures = self.state.all_done().filter(|_| !self.format.is_packed());
        let pictures = pictures.map(|(key, image)| Expected::Picture(key, image));
        let shards = self.state.all_sealed().filter(|sealed| has_file(sealed)).map(Expected::Shard);
        let mut expected: Vec<_> = pictures.chain(shards).collect();
        expected.sort_unstable_by_key(|expected| expected.place());
        expected
    }

    /// Returns the last word on the file of a shard, if it should have one.
    pub fn sealed(&self, shard: u32) -> Option<&Sealed> {
        self.state.sealed(shard).filter(|sealed| has_file(sealed))
    }

    /// Returns whether any image of a shard was made.
    pub fn has_images(&self, shard: u32) -> bool {
        self.newest.get(&shard).is_some_and(|newest| newest.done.is_some())
    }

    /// Returns whether an image of a shard was made, or got its name, since the shard's file was written.
    pub fn is_behind(&self, shard: u32) -> bool {
        self.newest.get(&shard).is_some_and(|newest| newest.done > newest.sealed)
    }

    /// Returns how many shards the next run will write files of, whatever else it finds.
    pub fn incomplete_shards(&self) -> u64 {
        let is_incomplete =
            |shard: &&u32| self.sealed(**shard).map_or(self.has_images(**shard), |sealed| sealed.is_outdated());
        self.newest.keys().filter(is_incomplete).count() as u64
    }
}

/// A shard whose images are all gone has a record and no file.
fn has_file(sealed: &Sealed) -> bool {
    sealed.images > 0 || sealed.bytes > 0
}

impl<'a> Expected<'a> {
    /// Returns its path relative to the output folder.
    pub fn path(self) -> &'a str {
        match self {
            Expected::Picture(_, image) => &image.file_name,
            Expected::Shard(sealed) => &sealed.file_name,
        }
    }

    /// Returns its folder and its name there.
    pub fn place(self) -> (&'a str, &'a str) {
        self.path().rsplit_once('/').unwrap_or(("", self.path()))
    }

    /// Returns its size.
    pub fn bytes(self) -> u64 {
        match self {
            Expected::Picture(_, image) => image.bytes,
            Expected::Shard(sealed) => sealed.bytes,
        }
    }

    /// Returns its hash.
    pub fn blake3(self) -> journal::Blake3 {
        match self {
            Expected::Picture(_, image) => image.blake3,
            Expected::Shard(sealed) => sealed.blake3,
        }
    }
}
