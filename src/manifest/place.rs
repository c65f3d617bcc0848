//! Where we are: which file a row number belongs to, and the place of a row for messages.

use std::path::{Path, PathBuf};

use crate::error::Location;

/// The files of a manifest, in order.
#[derive(Default)]
pub(super) struct Files(Vec<File>);

struct File {
    /// Number of its first row.
    first: u64,
    path: PathBuf,
    /// What it calls the column of ids.
    id_column: Option<String>,
}

impl Files {
    /// Adds the file whose rows begin at `first`.
    pub fn add(&mut self, first: u64, path: &Path, id_column: Option<String>) {
        self.0.push(File { first, path: path.to_path_buf(), id_column });
    }

    /// Says what the last file calls the column of ids.
    pub fn id_column(&mut self, name: String) {
        if let Some(file) = self.0.last_mut() {
            file.id_column = Some(name);
        }
    }

    /// Returns the path of the file that `row` is in.
    pub fn path(&self, row: u64) -> &Path {
        self.of(row).map_or(Path::new(""), |file| &file.path)
    }

    /// Returns the place of the id of `row`, which starts at `line`.
    pub fn id_location(&self, row: u64, line: u64) -> Location {
        let place = Place { path: self.path(row), row, line }.location();
        match self.of(row).and_then(|file| file.id_column.as_ref()) {
            Some(column) => place.column(column),
            None => place,
        }
    }

    fn of(&self, row: u64) -> Option<&File> {
        // The last of those that begin at the same row is the one that has rows.
        self.0.iter().rev().find(|file| file.first <= row)
    }
}

/// The place of a row.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its file.
    pub path: &'a Path,
    /// 0-based number among the rows of all files.
    pub row: u64,
    /// 1-based line in its file; 0 where the file has no lines.
    pub line: u64,
}

impl Place<'_> {
    /// Returns the place for an error message.
    pub fn location(&self) -> Location {
        let place = Location::file(self.path).row(self.row, self.line);
        if self.line == 0 { Location { line: None, ..place } } else { place }
    }
}
