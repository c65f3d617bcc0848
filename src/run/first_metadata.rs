//! Metadata beside the very first pictures of a run. As long as `datasets` finds none, it takes every picture that it sees,
//! without captions; once there is some, it takes those that the metadata names, and no others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::catalogue::Catalogue;
use crate::error::Result;
use crate::journal::Sealed;
use crate::output::Provenance;
use crate::output::metadata::{self, MetadataRow};

/// See the module's text.
pub struct FirstMetadata<'a> {
    provenance: &'a Provenance,
    columns: &'a [Arc<str>],
    missing: AtomicBool,
}

impl<'a> FirstMetadata<'a> {
    /// `columns` are the pass-through columns of the run, `sealed` the shards that are complete.
    pub fn new(provenance: &'a Provenance, columns: &'a [Arc<str>], sealed: &HashMap<u32, Sealed>) -> Self {
        let missing = sealed.values().all(|sealed| sealed.images == 0);
        FirstMetadata { provenance, columns, missing: AtomicBool::new(missing) }
    }

    /// Returns whether there is none yet; only the first to ask is told so.
    pub fn is_missing(&self) -> bool {
        self.missing.swap(false, Ordering::Relaxed)
    }

    /// Returns the metadata of the folders of the `new` pictures, which are not in the catalogue yet: paths relative to the output
    /// folder, and bytes. Completing a folder replaces it.
    ///
    /// # Errors
    /// Kind `Unexpected`: the metadata cannot be encoded.
    pub fn beside(&self, new: &[MetadataRow], catalogue: &Catalogue) -> Result<Vec<(String, Vec<u8>)>> {
        let mut shards: BTreeMap<u32, Vec<MetadataRow>> = BTreeMap::new();
        for row in new {
            shards.entry(catalogue.image(&row.task).shard).or_default().push(row.clone());
        }
        let file = |(shard, mut rows): (u32, Vec<MetadataRow>)| {
            rows.extend(catalogue.metadata(shard));
            rows.sort_by_key(|row| row.task.ordinal);
            let path = catalogue.layout().shard_path(shard, catalogue.shard_count());
            Ok((path, metadata::encode(self.provenance, self.columns, &rows)?))
        };
        shards.into_iter().map(file).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::catalogue::Made;
    use super::*;
    use crate::job::{ImageTask, Job};
    use crate::journal::{Digest, State};
    use crate::output::layout::{Format, Layout};

    #[test]
    fn the_first_pictures_bring_the_metadata_of_their_folders() {
        let task = |row| ImageTask::new(Arc::new(Job { row, num_images_per_prompt: 1, ..Job::default() }), 0, row, 7);
        let layout = Layout { format: Format::Imagefolder, extension: "png", shard_size: 2 };
        let mut catalogue = Catalogue::new(layout, (0..6).map(task).collect(), &State::default(), false).0;
        let made = Made { bytes: 1, blake3: Digest([0; 32]), suspect: false, scored: None, spool: None };
        catalogue.done(&task(0), made.clone());
        let new = [1, 4].map(|row| catalogue.row(&task(row), &made));
        let provenance = Provenance {
            model: String::new(),
            model_hash: String::new(),
            version: "1".to_string(),
            noise: String::new(),
            scorer_hash: None,
        };
        let first = FirstMetadata::new(&provenance, &[], &HashMap::new());
        assert!(first.is_missing() && !first.is_missing());
        let files = first.beside(&new, &catalogue).unwrap();
        let rows = [vec![catalogue.metadata(0).remove(0), new[0].clone()], vec![new[1].clone()]];
        let bytes = rows.map(|rows| metadata::encode(&provenance, &[], &rows).unwrap());
        let wanted = ["00000", "00002"].map(|folder| format!("images/{folder}/metadata.parquet"));
        assert_eq!(files, wanted.into_iter().zip(bytes).collect::<Vec<_>>());
    }
}
