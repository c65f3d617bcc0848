//! Pictures that rows name. Reads files: a picture that is missing or broken is its row's error, before anything is made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::numbers::Problem;
use super::shown::shown;
use crate::job::ImageInput;
use crate::pixels::picture_size;

fn read(cell: &str, path: PathBuf) -> Result<ImageInput, Problem> {
    let bytes = std::fs::read(&path).map_err(|error| {
        let message = format!("cannot read the picture `{}`: {error}", shown(cell));
        Problem::new(message, format!("paths are relative to the manifest's folder; looked at {}", path.display()))
    })?;
    let size = picture_size(&bytes).map_err(|error| {
        let hint = error.how_to_fix().unwrap_or("save it as PNG, JPEG or WebP");
        Problem::new(format!("`{}`: {}", shown(cell), error.message()), hint)
    })?;
    let hash = blake3::hash(&bytes).to_hex()[..32].to_string();
    Ok(ImageInput { path, hash, size })
}

/// Returns the size of a picture that is made of one of `size`, where the row asks for none: the same, down to the next
/// multiple that the model takes (diffusers: `get_default_height_width`).
pub(super) fn rounded((width, height): (u32, u32), multiple: u32, max: u32) -> (u32, u32) {
    let multiple = multiple.max(1);
    let round = |side: u32| (side.min(max) / multiple * multiple).max(multiple);
    (round(width), round(height))
}

/// Pictures read before: rows often share one.
#[derive(Default)]
pub(super) struct Pictures(HashMap<PathBuf, Result<ImageInput, Problem>>);

impl Pictures {
    /// Returns the picture that `cell` names, a path relative to the folder of the manifest at `manifest`.
    pub(super) fn read(&mut self, cell: &str, manifest: &Path) -> Result<ImageInput, Problem> {
        let path = full_path(cell, manifest);
        self.0.entry(path.clone()).or_insert_with(|| read(cell, path)).clone()
    }

    /// Reads the pictures that rows will name, on all cores: one after the other, reading and hashing them would be most of a
    /// start. What is wrong with one is told by the row that names it.
    pub(super) fn foresee<'c>(&mut self, cells: impl Iterator<Item = &'c str>, manifest: &Path) {
        let named: HashMap<PathBuf, &str> = cells.map(|cell| (full_path(cell, manifest), cell)).collect();
        let new = named.into_par_iter().filter(|(path, _)| !self.0.contains_key(path));
        let found: Vec<_> = new.map(|(path, cell)| (path.clone(), read(cell, path))).collect();
        self.0.extend(found);
    }
}

fn full_path(cell: &str, manifest: &Path) -> PathBuf {
    manifest.parent().unwrap_or(Path::new("")).join(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_were_foreseen_are_those_that_are_read() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pixels/rows.csv");
        let cells = ["noise.png", "jpegs/turned.jpg", "cases.json", "no.png", "noise.png"];
        let (mut foreseen, mut read) = (Pictures::default(), Pictures::default());
        foreseen.foresee(cells.into_iter(), &manifest);
        assert_eq!(foreseen.0.len(), 4);
        for cell in cells {
            assert_eq!(foreseen.read(cell, &manifest).ok(), read.read(cell, &manifest).ok(), "{cell}");
        }
        assert_eq!(foreseen.read("jpegs/turned.jpg", &manifest).map(|image| image.size).ok(), Some((29, 43)));
        assert!(foreseen.read("no.png", &manifest).is_err() && foreseen.0.len() == 4);
    }

    #[test]
    fn sizes_are_rounded_down_to_what_the_model_takes() {
        assert_eq!(rounded((513, 770), 64, 4096), (512, 768));
        assert_eq!(rounded((10, 9000), 64, 4096), (64, 4096));
    }
}
