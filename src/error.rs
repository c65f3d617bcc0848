//! The one error type of nightshift: what went wrong, where, how to fix it, and which exit code it means.
//!
//! Everyone may use this module; it uses nothing of ours.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything in nightshift that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong; each kind has one exit code (design: "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing that a user could have caused or foreseen. Exit code 1.
    Unexpected,
    /// A flag or a combination of flags that makes no sense. Exit code 2.
    Usage,
    /// The manifest's structure is broken: nothing can be trusted to mean what it says. Exit code 2.
    Manifest,
    /// One row of the manifest cannot be made; its neighbours can. Exit code 3 when the run has finished.
    Row,
    /// A model folder cannot be read, is inconsistent, or a graph cannot be loaded. Exit code 10.
    Model,
    /// ONNX Runtime's library or a device that was asked for cannot be had. Exit code 10.
    Provider,
    /// Another live run holds the output folder. Exit code 11.
    Locked,
    /// The output folder belongs to a run with another model or other defaults. Exit code 12.
    OtherRun,
    /// Disk full, read-only or failing. Exit code 13.
    Storage,
    /// The device went away while working. Exit code 14.
    GpuLost,
}

impl ErrorKind {
    /// Returns the process exit code that this kind of error means.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Unexpected => 1,
            ErrorKind::Usage | ErrorKind::Manifest => 2,
            ErrorKind::Row => 3,
            ErrorKind::Model | ErrorKind::Provider => 10,
            ErrorKind::Locked => 11,
            ErrorKind::OtherRun => 12,
            ErrorKind::Storage => 13,
            ErrorKind::GpuLost => 14,
        }
    }
}

/// The code of a call of a network that is larger than the memory at hand.
pub const OUT_OF_MEMORY: &str = "out_of_memory";

/// A place in a file: as much of it as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The file (or `<stdin>`).
    pub path: PathBuf,
    /// 0-based row number among the data rows, the number that becomes the key of a row without an id.
    pub row: Option<u64>,
    /// 1-based line of the file at which the row starts.
    pub line: Option<u64>,
    /// Name of the column.
    pub column: Option<String>,
}

impl Location {
    /// Returns the place that is a whole file.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Location { path: path.as_ref().to_path_buf(), ..Location::default() }
    }

    /// Returns this place with a line.
    pub fn line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// Returns this place with a row and the line at which it starts.
    pub fn row(mut self, row: u64, line: u64) -> Self {
        self.row = Some(row);
        self.line = Some(line);
        self
    }

    /// Returns this place with a column.
    pub fn column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }
}

impl fmt::Display for Location {
    /// Writes `jobs/cats.csv: row 17 (line 19), column `width``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match (self.row, self.line) {
            (Some(row), Some(line)) => write!(f, ": row {row} (line {line})")?,
            (Some(row), None) => write!(f, ": row {row}")?,
            (None, Some(line)) => write!(f, ": line {line}")?,
            (None, None) => {}
        }
        if let Some(column) = &self.column {
            let before = if self.row.is_none() && self.line.is_none() { ": " } else { ", " };
            write!(f, "{before}column `{column}`")?;
        }
        Ok(())
    }
}

/// An error: kind, machine-readable code, place, message, hint and cause.
///
/// `Display` gives one line, `where: what is wrong`, without the hint, which the binary prints on a line of its own.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    code: &'static str,
    message: String,
    location: Option<Location>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Returns an error of `kind`. `code` is its stable snake_case name (it lands in `failed.csv`), `message` a lower-case
    /// fragment without final period, with user values in backticks.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(Inner { kind, code, message, location: None, hint: None, source: None }))
    }

    /// Returns this error with the place where it was found.
    pub fn at(mut self, location: Location) -> Self {
        self.0.location = Some(location);
        self
    }

    /// Returns this error as one of another kind: what a flag would be wrong for may be wrong for a row only.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Returns this error with a sentence on how to fix it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Returns this error with its cause.
    pub fn source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// Returns the error for a failed operation (`doing`: "write", "rename", …) on a file of the output: kind `Storage`.
    pub fn storage(doing: &str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::new(ErrorKind::Storage, "storage", format!("cannot {doing}: {source}"))
            .at(Location::file(path))
            .source(source)
    }

    /// Returns an error that says the same, without the cause, which cannot be copied.
    pub fn again(&self) -> Error {
        let Inner { kind, code, message, location, hint, .. } = &*self.0;
        let (message, location, hint) = (message.clone(), location.clone(), hint.clone());
        Error(Box::new(Inner { kind: *kind, code, message, location, hint, source: None }))
    }

    /// Returns what kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the stable name of the error, such as `empty_prompt`.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// Returns the message alone, without place and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the place where it was found, if it has one.
    pub fn location(&self) -> Option<&Location> {
        self.0.location.as_ref()
    }

    /// Returns how to fix it, if that is known.
    pub fn how_to_fix(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.0.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_place_and_keeps_the_hint_apart() {
        let error = Error::new(ErrorKind::Row, "bad_width", "`500` is not a multiple of 8")
            .at(Location::file("jobs/cats.csv").row(17, 19).column("width"))
            .hint("use 496 or 504");
        assert_eq!(error.to_string(), "jobs/cats.csv: row 17 (line 19), column `width`: `500` is not a multiple of 8");
        assert_eq!(error.how_to_fix(), Some("use 496 or 504"));
        assert_eq!(error.kind().exit_code(), 3);
    }

    #[test]
    fn display_of_partial_locations() {
        assert_eq!(Location::file("a.csv").to_string(), "a.csv");
        assert_eq!(Location::file("a.csv").line(3).to_string(), "a.csv: line 3");
        assert_eq!(Location::file("a.csv").column("x").to_string(), "a.csv: column `x`");
    }
}
