//! Files that the program writes of itself, such as man pages.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes each of `pages`, a name and its content, to the folder `dir`, which is made if it is not there.
///
/// # Errors
/// Kind `Storage`: the folder cannot be made, or a file not written.
pub fn write_pages(dir: &Path, pages: &[(String, Vec<u8>)]) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| Error::storage("make the folder", dir, error))?;
    for (name, content) in pages {
        let path = dir.join(name);
        fs::write(&path, content).map_err(|error| Error::storage("write", &path, error))?;
    }
    Ok(())
}
