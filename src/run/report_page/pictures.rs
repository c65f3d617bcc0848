//! Pictures of an output folder, wherever they lie: in folders, in shards' files, or waiting in the spool.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops::FilterType;
use rayon::prelude::*;

use crate::journal::{DoneImage, State};
use crate::output::contact_sheet::scaled;
use crate::output::layout::Format;
use crate::output::packed::read_pictures;
use crate::output::run_folder::spool_folder;
use crate::output::spool;

/// Pictures of a shard's file that are in memory at a time.
const AT_ONCE: usize = 64;

/// An output folder with pictures in it.
#[derive(Clone, Copy)]
pub struct Pictures<'a> {
    /// Output folder of a run.
    pub out: &'a Path,
    /// How it keeps them.
    pub format: Format,
    /// What its journal says.
    pub state: &'a State,
}

impl Pictures<'_> {
    /// Returns what `make` makes of the pictures `wanted`: keys and rows by paths below `OUT`. What cannot be read is left out.
    pub fn each<T: Send>(
        &self,
        wanted: &BTreeMap<&str, (&str, usize)>,
        make: impl Fn(&[u8]) -> Option<T> + Sync,
    ) -> BTreeMap<usize, T> {
        let mut shards: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
        let mut alone = Vec::new();
        for (file, (key, row)) in wanted {
            match self.state.done(key) {
                Some(image) if self.format.is_packed() && !self.waits(image) => {
                    let (shard, name) = file.rsplit_once('/').unwrap_or(("", file));
                    shards.entry(shard).or_default().push((name, *row));
                }
                Some(image) => alone.push((image, *row)),
                None => {}
            }
        }
        let one = |(image, row): &(&DoneImage, usize)| Some((*row, make(&of_image(self.out, image)?)?));
        let mut made: BTreeMap<usize, T> = alone.par_iter().filter_map(one).collect();
        shards.iter().for_each(|(shard, names)| self.each_packed(shard, names, &make, &mut made));
        made
    }

    /// Returns whether a picture still waits for its shard. The journal tells where it waited even when the spool is gone.
    fn waits(&self, image: &DoneImage) -> bool {
        image.spool.as_ref().is_some_and(|(file, _)| spool_folder(self.out).join(&**file).exists())
    }

    /// Reads a shard's file once.
    fn each_packed<T: Send>(
        &self,
        shard: &str,
        names: &[(&str, usize)],
        make: &(impl Fn(&[u8]) -> Option<T> + Sync),
        made: &mut BTreeMap<usize, T>,
    ) {
        let rows: HashMap<&str, usize> = names.iter().copied().collect();
        let Some(path) = self.shard_file(shard) else { return };
        let mut waiting: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut empty = |waiting: &mut Vec<(usize, Vec<u8>)>| {
            made.par_extend(waiting.par_iter().filter_map(|(row, bytes)| Some((*row, make(bytes)?))));
            waiting.clear();
        };
        let each = |name: String, bytes| {
            waiting.extend(rows.get(&*name).map(|row| (*row, bytes)));
            if waiting.len() == AT_ONCE {
                empty(&mut waiting);
            }
        };
        // A shard that cannot be read to its end gives what comes before.
        let _ = read_pictures(self.format, &path, each);
        empty(&mut waiting);
    }

    /// Returns the file of a shard. That of a Parquet shard says in its name how many there are.
    fn shard_file(&self, shard: &str) -> Option<PathBuf> {
        if self.format != Format::Parquet {
            return Some(self.out.join(shard));
        }
        let (folder, start) = shard.rsplit_once('/')?;
        let start = format!("{start}-of-");
        let mut paths = std::fs::read_dir(self.out.join(folder)).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)))
    }
}

/// Returns the bytes of a picture that has a file of its own, or waits in the spool.
pub fn of_image(out: &Path, image: &DoneImage) -> Option<Vec<u8>> {
    match &image.spool {
        Some((file, offset)) => spool::read(&spool_folder(out).join(&**file), *offset, image.bytes),
        None => std::fs::read(out.join(&*image.file_name)).ok(),
    }
}

/// Returns a picture whose longer side is at most `most` pixels.
pub fn shrunk(bytes: &[u8], most: u32) -> Option<RgbImage> {
    let image = image::load_from_memory(bytes).ok()?.to_rgb8();
    let fits = image.width().max(image.height()) <= most;
    Some(if fits { image } else { scaled(&image, most, FilterType::Lanczos3) })
}
