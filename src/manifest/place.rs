//! Where we are: which file a row number belongs to, and the place of a row for messages.

use std::path::{Path, PathBuf};

use crate::error::Location;

/// The files of a manifest, by the number of their first row.
#[derive(Default)]
pub(super) struct Files(Vec<(u64, PathBuf)>);

impl Files {
    /// Adds the file whose rows begin at `first`.
    pub fn add(&mut self, first: u64, path: &Path) {
        self.0.push((first, path.to_path_buf()));
    }

    /// Returns the file that `row` is in.
    pub fn of(&self, row: u64) -> &Path {
        // The last of those that begin at the same row is the one that has rows.
        self.0.iter().rev().find(|(first, _)| *first <= row).map_or(Path::new(""), |(_, path)| path)
    }
}

/// The place of a row.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its file.
    pub path: &'a Path,
    /// 0-based number among the rows of all files.
    pub row: u64,
    /// 1-based line in its file.
    pub line: u64,
}

impl Place<'_> {
    /// Returns the place for an error message.
    pub fn location(&self) -> Location {
        Location::file(self.path).row(self.row, self.line)
    }
}
