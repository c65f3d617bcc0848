//! A name for everything in a model folder that changes pixels.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Location, Result};

/// Files are read in pieces of this many bytes, each hashed on all cores.
const PIECE: usize = 16 << 20;

/// Returns the BLAKE3 hash (64 hex digits) over the names (relative to `dir`) and bytes of `files`, in any order.
///
/// # Errors
/// A file cannot be read.
pub(super) fn hash_files(dir: &Path, mut files: Vec<PathBuf>) -> Result<String> {
    files.sort();
    files.dedup();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"nightshift model v1");
    for path in files {
        let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let content = hash_file(&path).map_err(|error| {
            Error::new(ErrorKind::Model, "model_unreadable", format!("cannot read the file: {error}"))
                .at(Location::file(&path))
                .source(error)
        })?;
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(content.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_file(path: &Path) -> std::io::Result<blake3::Hash> {
    let file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(PIECE).clamp(1, PIECE);
    let mut file = file.take(u64::MAX);
    let mut hasher = blake3::Hasher::new();
    let mut piece = Vec::with_capacity(size);
    loop {
        piece.clear();
        file.set_limit(PIECE as u64);
        if file.read_to_end(&mut piece)? == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update_rayon(&piece);
    }
}
