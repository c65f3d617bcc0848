//! Contact sheets of all pictures: PNGs of a hundred each, shard by shard.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::listing::Listing;
use super::pictures::{Pictures, shrunk};
use crate::error::Result;
use crate::output::contact_sheet::{self, SheetItem};
use crate::output::durable::{Durable, WholeFile};
use crate::output::png;
use crate::run::sheet::settings;

/// Pictures on a sheet, at most.
const PICTURES: usize = 100;
/// Pictures beside each other.
const COLUMNS: usize = 10;
/// Pixels of a picture's longer side, as large as a sheet shows it.
const SIDE: u32 = 192;

/// A picture: row, path below `OUT`, key.
type Entry<'l> = (usize, &'l str, &'l str);

/// Writes the sheets into `folder`, named after shards and numbered within them; returns how many there are.
///
/// # Errors
/// Kind `Storage`: a sheet cannot be written.
pub fn write(pictures: Pictures<'_>, listing: &Listing, folder: &Path) -> Result<u64> {
    let mut shards: BTreeMap<&str, Vec<Entry<'_>>> = BTreeMap::new();
    for entry in listing.pictures() {
        shards.entry(entry.1.rsplit_once('/').map_or("", |(shard, _)| shard)).or_default().push(entry);
    }
    let (durable, mut written) = (Durable::default(), 0);
    durable.make_folder(folder)?;
    for (shard, entries) in shards {
        for (number, entries) in entries.chunks(PICTURES).enumerate() {
            if let Some(sheet) = sheet(pictures, listing, entries)? {
                durable.commit(&[WholeFile { path: path(folder, shard, number), bytes: &sheet }])?;
                written += 1;
            }
        }
    }
    Ok(written)
}

/// Returns where a sheet goes: `00000-0.png` for the first of `images/00000`, `000000.tar` and `data/train-00000` alike.
fn path(folder: &Path, shard: &str, number: usize) -> PathBuf {
    let name = shard.rsplit('/').next().unwrap_or(shard);
    let name = name.trim_end_matches(".tar").trim_start_matches("train-");
    folder.join(format!("{name}-{number}.png"))
}

/// Returns a sheet as PNG; `None` where none of its pictures can be read.
fn sheet(pictures: Pictures<'_>, listing: &Listing, entries: &[Entry<'_>]) -> Result<Option<Vec<u8>>> {
    let wanted = entries.iter().map(|(row, file, key)| (*file, (*key, *row))).collect();
    let mut images = pictures.each(&wanted, |bytes| shrunk(bytes, SIDE));
    let item = |(row, _, key): &Entry<'_>| {
        let cell = |name| listing.table.get(*row, name).unwrap_or_default();
        let caption = if cell("text").is_empty() { key.to_string() } else { cell("text").to_string() };
        let (steps, guidance) = (cell("num_inference_steps"), cell("guidance_scale"));
        let small = settings(cell("scheduler"), steps, guidance, cell("seed"));
        Some(SheetItem { image: images.remove(row)?, caption, small })
    };
    let items: Vec<SheetItem> = entries.iter().filter_map(item).collect();
    if items.is_empty() {
        return Ok(None);
    }
    png::encode_plain(&contact_sheet::render(&items, COLUMNS)).map(Some)
}
