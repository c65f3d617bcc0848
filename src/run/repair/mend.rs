//! What the journal has to be told so that it agrees with the disk.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use rayon::prelude::*;

use crate::error::Result;
use crate::journal::{Blake3, Digest, Done, Sealed};
use crate::output::durable::storage_error;
use crate::output::packed::read_pictures;
use crate::output::{Parameters, picture};
use crate::run::audit::{Finding, Kind, Records, hash};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Mend {
    /// Pictures that are there.
    pub adopted: Vec<Done>,
    /// Keys of images that are nowhere.
    pub lost: Vec<String>,
    /// Files under their names all the same.
    pub damaged: Vec<String>,
    /// Shards' files as they are, which is not as they should be.
    pub sealed: Vec<Sealed>,
    /// What is not for the journal to know.
    pub left: Vec<Finding>,
}

/// The file of a shard.
struct ShardFile {
    path: String,
    /// Whether it is as it was written.
    is_right: bool,
}

/// Looks for what to make of findings.
struct Mender<'a> {
    out: &'a Path,
    records: &'a Records,
    /// Images that the findings cost.
    costs: HashSet<&'a str>,
    /// Hashes of all pictures that the journal knows: another of the same bytes is a copy.
    known: HashSet<Blake3>,
}

impl Mend {
    /// Returns what `findings` come to.
    ///
    /// # Errors
    /// Kind `Storage`: a file cannot be read.
    pub fn find(out: &Path, records: &Records, findings: Vec<Finding>) -> Result<Mend> {
        let costs: HashSet<&str> = findings.iter().flat_map(|it| &it.images).map(String::as_str).collect();
        let known = records.state.all_done().filter(|_| !findings.is_empty()).map(|(_, image)| image.blake3).collect();
        let mender = Mender { out, records, costs, known };
        let files = mender.shard_files(&findings);
        let adopted = if records.format.is_packed() { mender.inside(&files) } else { mender.loose(&findings) };
        let sealed = mender.seals(files, &adopted, &findings)?;
        let lost: BTreeSet<&str> = mender.costs.iter().copied().filter(|key| !adopted.contains_key(*key)).collect();
        let is_damaged = |finding: &&Finding| {
            let is_there = matches!(finding.kind, Kind::Cut | Kind::Changed | Kind::Unreadable);
            is_there && !records.format.is_packed() && finding.images.iter().any(|key| lost.contains(&**key))
        };
        let damaged = findings.iter().filter(is_damaged).map(|finding| finding.path.clone()).collect();
        let lost = lost.into_iter().map(str::to_string).collect();
        let known: HashSet<&str> = sealed.iter().map(|sealed| &*sealed.file_name).collect();
        let taken: HashSet<&str> = adopted.values().map(|done| &*done.file_name).collect();
        let is_left = |finding: &Finding| {
            let path = &*finding.path;
            let in_shard = records.format.is_packed() && records.format.shard_of_image(path).is_some();
            finding.kind == Kind::Extra && !in_shard && !known.contains(path) && !taken.contains(path)
        };
        let left = findings.iter().filter(|finding| is_left(finding)).cloned().collect();
        Ok(Mend { adopted: adopted.into_values().collect(), lost, damaged, sealed, left })
    }
}

impl Mender<'_> {
    /// Returns the shards whose files are to be looked at: those that are not what they should be, and those that hold a picture
    /// which no record knows.
    fn shard_files(&self, findings: &[Finding]) -> BTreeMap<u32, ShardFile> {
        let format = self.records.format;
        let mut files = BTreeMap::new();
        for finding in findings {
            let other = finding.other.iter();
            for path in std::iter::once(&finding.path).chain(other) {
                let Some(shard) = format.shard_of_file(path) else { continue };
                // One of a shard that has another is none of ours.
                if self.records.sealed(shard).is_none_or(|sealed| sealed.file_name == *path) {
                    files.insert(shard, ShardFile { path: path.clone(), is_right: false });
                }
            }
            if let (Kind::Extra, true) = (finding.kind, format.is_packed()) {
                let sealed = format.shard_of_image(&finding.path).and_then(|shard| self.records.sealed(shard));
                if let Some(sealed) = sealed {
                    let file = ShardFile { path: sealed.file_name.clone(), is_right: true };
                    files.entry(sealed.shard).or_insert(file);
                }
            }
        }
        files
    }

    /// Takes in pictures under names of their own.
    fn loose(&self, findings: &[Finding]) -> BTreeMap<String, Done> {
        let is_candidate = |finding: &&Finding| matches!(finding.kind, Kind::Extra | Kind::Changed | Kind::Cut);
        let candidates: Vec<_> = findings.iter().filter(is_candidate).collect();
        let adopt = |finding: &&Finding| {
            let key = self.records.format.key_of_image(&finding.path)?;
            let bytes = fs::read(self.out.join(&finding.path)).ok()?;
            self.adopt(key, &finding.path, &bytes)
        };
        first_of_each(candidates.par_iter().filter_map(adopt).collect())
    }

    /// Takes in pictures in the files of shards.
    fn inside(&self, files: &BTreeMap<u32, ShardFile>) -> BTreeMap<String, Done> {
        let files: Vec<&str> = files.values().map(|file| &*file.path).collect();
        let adopt = |file: &&str| {
            let mut adopted = Vec::new();
            // The file's own finding says why it cannot be read any further.
            let _ = read_pictures(self.records.format, &self.out.join(file), |name, bytes| {
                let path = format!("{}/{name}", file.split("-of-").next().unwrap_or(file));
                let key = self.records.format.key_of_image(&path);
                adopted.extend(key.and_then(|key| self.adopt(key, &path, &bytes)));
            });
            adopted
        };
        first_of_each(files.par_iter().flat_map_iter(adopt).collect())
    }

    /// Returns the record of a picture that says itself what it is, if there is none or one that holds for another row. The one that
    /// the journal has of the same row is right: bytes that differ from it are damage.
    fn adopt(&self, key: String, path: &str, bytes: &[u8]) -> Option<Done> {
        let known = self.records.state.done(&key);
        let blake3 = Digest(*blake3::hash(bytes).as_bytes());
        if known.is_some() && !self.costs.contains(&*key) || self.known.contains(&blake3) {
            return None;
        }
        let parameters = picture::read_parameters(bytes).filter(|_| picture::is_whole(bytes))?;
        let scored = parameters.scored();
        let Parameters { row_hash, seed, suspect, .. } = parameters;
        let row_hash = row_hash?;
        if known.is_some_and(|known| known.row_hash == row_hash) {
            return None;
        }
        let file_name = path.to_string();
        let bytes = bytes.len() as u64;
        Some(Done { key, row_hash, file_name, bytes, blake3, seed, suspect, scored, spool: None })
    }

    /// Returns what the files of shards are that have findings, new pictures, or lost ones.
    fn seals(
        &self,
        mut files: BTreeMap<u32, ShardFile>,
        adopted: &BTreeMap<String, Done>,
        findings: &[Finding],
    ) -> Result<Vec<Sealed>> {
        let format = self.records.format;
        let mut add = |path: &str, is_right: bool| {
            let sealed = format.shard_of_image(path).and_then(|shard| self.records.sealed(shard));
            if let Some(sealed) = sealed {
                let file = ShardFile { path: sealed.file_name.clone(), is_right: true };
                files.entry(sealed.shard).or_insert(file).is_right &= is_right;
            }
        };
        adopted.values().for_each(|done| add(&done.file_name, true));
        // Their file tells of pictures that are not there, or of which there will be others.
        let lost = self.costs.iter().filter(|key| !adopted.contains_key(**key));
        lost.filter_map(|key| self.records.state.done(key)).for_each(|image| add(&image.file_name, false));
        let taken: HashSet<&str> = adopted.values().map(|done| &*done.file_name).collect();
        let inside = findings.iter().filter(|finding| finding.kind == Kind::Extra && format.is_packed());
        inside.filter(|finding| !taken.contains(&*finding.path)).for_each(|finding| add(&finding.path, false));
        let new: HashSet<u32> = adopted.values().filter_map(|done| format.shard_of_image(&done.file_name)).collect();
        files.retain(|shard, _| self.records.has_images(*shard) || new.contains(shard));
        files.into_iter().map(|(shard, file)| self.seal(shard, file)).collect()
    }

    /// Returns what to say of a shard's file, after its new pictures. One that is as it was written is as it was.
    fn seal(&self, shard: u32, file: ShardFile) -> Result<Sealed> {
        let former = self.records.state.sealed(shard);
        if let (true, Some(former)) = (file.is_right, former) {
            return Ok(former.clone());
        }
        let path = self.out.join(&file.path);
        let images = former.map_or(0, |sealed| sealed.images);
        let (bytes, blake3, images) = match fs::metadata(&path) {
            Ok(file) => {
                let blake3 = hash(&path).map_err(|error| storage_error("read", &path, 0, error))?;
                (file.len(), blake3, images.max(1))
            }
            Err(_) => (0, NOTHING, 0),
        };
        Ok(Sealed { shard, file_name: file.path, bytes, blake3, contents: Sealed::OUTDATED, images })
    }
}

/// Stands for the hash of a file that is not there.
const NOTHING: Blake3 = Digest([0; 32]);

/// Of two pictures with one key, the first is it.
fn first_of_each(found: Vec<Done>) -> BTreeMap<String, Done> {
    let mut adopted = BTreeMap::new();
    for done in found {
        adopted.entry(done.key.clone()).or_insert(done);
    }
    adopted
}
