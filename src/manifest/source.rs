//! The bytes of a manifest, from a file or from stdin, packed or not.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::packed::{self, Trouble};
use crate::error::{Error, ErrorKind, Location, Result};

/// A manifest, unpacked and whole: its jobs take more memory than its text, so streaming would save little.
pub(super) struct Source {
    /// The file as the user named it, or `<stdin>`.
    pub path: PathBuf,
    /// Everything in it.
    pub bytes: Vec<u8>,
}

/// Returns the bytes of `path`, where `-` is stdin; `hasher` gets them as they lie there, packed or not.
///
/// # Errors
/// A structure error where there is no such file, or where it cannot be read or unpacked.
pub(super) fn read(path: &Path, hasher: &mut blake3::Hasher) -> Result<Source> {
    let (path, bytes) = if path == Path::new("-") {
        (PathBuf::from("<stdin>"), packed::unpacked(Hashed(io::stdin().lock(), hasher)))
    } else {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        (path.to_path_buf(), packed::unpacked(Hashed(file, hasher)))
    };
    match bytes {
        Ok(bytes) => Ok(Source { path, bytes }),
        Err(trouble) => Err(told(trouble, &path)),
    }
}

struct Hashed<'h, R>(R, &'h mut blake3::Hasher);

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.update(&buffer[..count]);
        Ok(count)
    }
}

fn told(trouble: Trouble, path: &Path) -> Error {
    let archive = |code, message: String| Error::new(ErrorKind::Manifest, code, message).at(Location::file(path));
    match trouble {
        Trouble::Unreadable(error) => unreadable(path, error),
        Trouble::Cut(kind) => archive("cut_archive", format!("the {kind} archive is cut: it ends before its content"))
            .hint("fetch or write it again: the rows at its end are missing"),
        Trouble::Damaged(kind, error) => archive("damaged_archive", format!("the {kind} archive is damaged: {error}"))
            .hint("fetch or write it again")
            .source(error),
        Trouble::Bomb(kind) => {
            archive("too_large_archive", format!("the {kind} archive holds more than a manifest of its size could"))
                .hint("if it is what it should be, unpack it and name the unpacked file")
        }
    }
}

/// Returns the structure error for a manifest that cannot be opened or read.
pub(super) fn unreadable(path: &Path, source: io::Error) -> Error {
    let (message, hint) = match source.kind() {
        io::ErrorKind::NotFound => ("there is no such file".to_string(), "check the path; `-` reads stdin"),
        io::ErrorKind::PermissionDenied => ("permission denied".to_string(), "make the file readable"),
        _ => (format!("cannot read: {source}"), "check the file and the disk it lies on"),
    };
    Error::new(ErrorKind::Manifest, "unreadable_file", message).at(Location::file(path)).hint(hint).source(source)
}
