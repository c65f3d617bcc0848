//! The bytes of a manifest, from a file or from stdin.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Location, Result};

/// A manifest as it lies on disk, whole: its jobs take more memory than its text, so streaming would save little.
pub(super) struct Source {
    /// The file as the user named it, or `<stdin>`.
    pub path: PathBuf,
    /// Everything in it.
    pub bytes: Vec<u8>,
}

/// Returns the bytes of `path`, where `-` is stdin.
///
/// # Errors
/// A structure error where there is no such file, or where it is a folder or cannot be read.
pub(super) fn read(path: &Path) -> Result<Source> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let path = PathBuf::from("<stdin>");
        return match io::stdin().lock().read_to_end(&mut bytes) {
            Ok(_) => Ok(Source { path, bytes }),
            Err(error) => Err(unreadable(&path, error)),
        };
    }
    if path.is_dir() {
        return Err(Error::new(ErrorKind::Manifest, "is_folder", "this is a folder, not a manifest")
            .at(Location::file(path))
            .hint(format!("name the files in it: {}", path.join("*.csv").display())));
    }
    match fs::read(path) {
        Ok(bytes) => Ok(Source { path: path.to_path_buf(), bytes }),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Returns the structure error for a manifest that cannot be opened or read.
fn unreadable(path: &Path, source: io::Error) -> Error {
    let (message, hint) = match source.kind() {
        io::ErrorKind::NotFound => ("there is no such file".to_string(), "check the path; `-` reads stdin"),
        io::ErrorKind::PermissionDenied => ("permission denied".to_string(), "make the file readable"),
        _ => (format!("cannot read: {source}"), "check the file and the disk it lies on"),
    };
    Error::new(ErrorKind::Manifest, "unreadable_file", message).at(Location::file(path)).hint(hint).source(source)
}
