//! All images and failed rows of an output folder, in the order in which people want to see them.

use std::collections::HashSet;
use std::path::Path;

use super::pictures;
use super::sources::{Cells, carried, failed_rows, images, value};
use super::table::Table;
use crate::journal::{self, State};
use crate::output::layout::Format;
use crate::output::metadata;
use crate::output::run_folder;

/// First what failed, then what is suspect, then the others in the manifest's order.
pub struct Listing {
    /// What is known of them. `status` is `failed`, `suspect`, `low_score` or `ok`; `file` is the path below `OUT`.
    pub table: Table,
    /// The path below `OUT` of each row's picture; empty where there is none.
    pub files: Vec<String>,
    /// Rows that failed.
    pub failed: u64,
    /// Pictures to be looked at.
    pub suspect: u64,
}

impl Listing {
    /// Reads what is in `out`, whose journal says `state`.
    pub fn read(out: &Path, format: Format, state: &State) -> Listing {
        let mut images = images(out, format);
        let mut listed = HashSet::new();
        for cells in &mut images {
            let key = value(cells, "key").unwrap_or_default().to_string();
            cells.extend(state.done(&key).map(|image| ("file".to_string(), image.file_name.to_string())));
            listed.insert(key);
        }
        images.extend(fresh(out, state, &listed));
        let mut failed = failures(failed_rows(&run_folder::failed_path(out)), state);
        name_as_in_metadata(&mut failed, &images);
        let is_suspect = |cells: &&Cells| matches!(value(cells, "status"), Some("suspect" | "low_score"));
        let (suspect, fine): (Vec<_>, Vec<_>) = images.iter().partition(is_suspect);
        let (failed_count, suspect_count) = (failed.len() as u64, suspect.len() as u64);
        let mut listing =
            Listing { table: Table::default(), files: Vec::new(), failed: failed_count, suspect: suspect_count };
        for cells in failed.iter().chain(suspect).chain(fine) {
            listing.files.push(value(cells, "file").unwrap_or_default().to_string());
            listing.table.push(cells.iter().map(|(name, value)| (name, value.as_str())));
        }
        listing
    }

    /// Returns the pictures there are: row, path below `OUT`, key.
    pub fn pictures(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let there = self.files.iter().enumerate().filter(|(_, file)| !file.is_empty());
        there.map(|(row, file)| (row, file.as_str(), self.table.get(row, "key").unwrap_or_default()))
    }
}

/// Returns the images of shards that are not complete yet, by their names.
fn fresh(out: &Path, state: &State, listed: &HashSet<String>) -> Vec<Cells> {
    let mut fresh: Vec<_> = state.all_done().filter(|(key, _)| !listed.contains(*key)).collect();
    fresh.sort_unstable_by(|a, b| a.1.file_name.cmp(&b.1.file_name));
    let row = |(key, image): (&str, &journal::DoneImage)| {
        let status = metadata::status(image.suspect, image.scored);
        let seed = image.seed.to_string();
        let mut cells = cells([("key", key), ("status", status), ("file", &image.file_name), ("seed", &seed)]);
        cells.extend(pictures::of_image(out, image).map(|bytes| carried(&bytes)).unwrap_or_default());
        cells
    };
    fresh.into_iter().map(row).collect()
}

/// Returns the rows that failed: those of `failed.csv`, which is written when a run ends, but for those that were made since; and
/// what the journal of a run that is at work, or was killed, says besides.
fn failures(listed: Vec<Cells>, state: &State) -> Vec<Cells> {
    let key = |cells: &Cells| value(cells, "key").unwrap_or_default().to_string();
    let mut rows: Vec<Cells> = listed.into_iter().filter(|cells| state.done(&key(cells)).is_none()).collect();
    let known: HashSet<String> = rows.iter().map(key).collect();
    // An image of a row that has several is called `ID_0`, and its row `ID`.
    let row_of = |key: &str| key.rsplit_once('_').map_or(String::new(), |(row, _)| row.to_string());
    let is_known = |key: &str| known.contains(key) || known.contains(&row_of(key));
    let mut others: Vec<_> = state.all_failed().filter(|failed| !is_known(&failed.key)).collect();
    others.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    rows.extend(others.into_iter().map(|failed| {
        let (key, code, message) = (&*failed.key, &*failed.code, &*failed.message);
        cells([("status", "failed"), ("key", key), ("error_code", code), ("error_message", message)])
    }));
    rows
}

/// Gives cells of failed rows the names that their columns have in metadata: loaders have a meaning of their own for some names, such
/// as `label`, which are `src_label` there.
fn name_as_in_metadata(failed: &mut [Cells], images: &[Cells]) {
    let renamed =
        |cells: &Cells| cells.iter().filter_map(|(name, _)| name.strip_prefix("src_")).map(String::from).collect();
    let renamed: HashSet<String> = images.first().map(renamed).unwrap_or_default();
    for (name, _) in failed.iter_mut().flatten().filter(|(name, _)| renamed.contains(name)) {
        name.insert_str(0, "src_");
    }
}

fn cells<const N: usize>(cells: [(&str, &str); N]) -> Cells {
    cells.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}
