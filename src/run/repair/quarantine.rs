//! Files that no loader should read leave the folders of pictures. None is removed.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::output::{RunFolder, STATE_FOLDER};

/// Moves the files at `paths`, relative to the output folder, to `.nightshift/quarantine`, where they keep their paths.
///
/// # Errors
/// Storage fails.
pub fn quarantine(folder: &RunFolder, paths: &[String]) -> Result<()> {
    for path in paths {
        let to = free_name(&folder.path().join(STATE_FOLDER).join("quarantine").join(path));
        folder.durable().make_folder(to.parent().unwrap_or(folder.path()))?;
        folder.durable().rename(&folder.path().join(path), &to)?;
    }
    Ok(())
}

fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbered = (1..).map(|number: u32| path.with_file_name(format!("{name}.{number}")));
    let mut names = std::iter::once(path.to_path_buf()).chain(numbered);
    names.find(|path| !path.exists()).expect("there are more numbers than files")
}
