//! Holding what the journal says against what is on the disk. Needs no model and no manifest, and changes nothing.

mod files;
mod finding;
mod packed;
mod records;

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::output::STATE_FOLDER;

pub use files::hash;
pub use finding::{Finding, Kind};
pub use records::Records;

/// How to look at an output folder.
pub struct Look<'a> {
    /// The output folder.
    pub out: &'a Path,
    /// What its journal says.
    pub records: &'a Records,
    /// Whether every byte is read.
    pub deep: bool,
    /// Whether somebody is at work there.
    pub live: bool,
    /// Images that were being made: their files may or may not be what the journal says.
    pub in_flight: HashSet<&'a str>,
    /// Where to look; everywhere if `None`.
    pub only: Option<HashSet<String>>,
}

/// What an output folder is like.
#[derive(Debug, Default)]
pub struct Audited {
    /// What is not as the journal says, sorted by path.
    pub findings: Vec<Finding>,
    /// Files that should be there.
    pub files: u64,
}

impl Look<'_> {
    /// Compares the folder with its journal.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub fn compare(&self) -> Result<Audited> {
        let (mut findings, files) = files::compare(self)?;
        if self.records.format.is_packed() {
            packed::add(self, &mut findings);
        }
        if !self.live {
            self.add_behind(&mut findings);
            self.add_moves(&mut findings);
        }
        findings.sort_unstable_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
        Ok(Audited { findings, files })
    }

    /// Adds the shards' files that are as they were written, but before the last of their images.
    fn add_behind(&self, findings: &mut Vec<Finding>) {
        let told: HashSet<&str> =
            findings.iter().flat_map(|it| [Some(&*it.path), it.other.as_deref()]).flatten().collect();
        let sealed = self.records.state.all_sealed().filter_map(|sealed| self.records.sealed(sealed.shard));
        let behind = sealed.filter(|sealed| {
            let known = sealed.is_outdated() || told.contains(&*sealed.file_name);
            !known && self.wants(&sealed.file_name) && self.records.is_behind(sealed.shard)
        });
        let what = "images were made since it was written";
        let behind: Vec<_> = behind.map(|sealed| Finding::new(Kind::Stale, sealed.file_name.clone(), what)).collect();
        findings.extend(behind);
    }

    /// Adds that pictures were being renamed.
    fn add_moves(&self, findings: &mut Vec<Finding>) {
        let path = format!("{STATE_FOLDER}/moves.json");
        if self.wants(&path) && self.out.join(&path).exists() {
            findings.push(Finding::new(
                Kind::Stale,
                path,
                "pictures were being renamed; the next run goes on with that",
            ));
        }
    }

    /// Returns whether to look at `path`.
    fn wants(&self, path: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(path))
    }

    /// Returns whether to look into a shard.
    fn wants_shard(&self, shard: u32) -> bool {
        let format = self.records.format;
        let is_of =
            |path: &String| format.shard_of_file(path) == Some(shard) || format.shard_of_image(path) == Some(shard);
        self.only.as_ref().is_none_or(|only| only.iter().any(is_of))
    }
}
