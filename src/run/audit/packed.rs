//! Pictures in the files of shards, and those that wait for theirs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;

use rayon::prelude::*;

use super::Look;
use super::finding::{Finding, Kind};
use crate::journal::{Blake3, Digest, DoneImage};
use crate::output::packed::read_pictures;
use crate::output::run_folder::spool_folder;
use crate::output::spool;

/// Images of a shard as the journal knows them.
type Images<'a> = Vec<(&'a str, &'a DoneImage)>;

/// What is wrong with the pictures of one shard.
#[derive(Default)]
struct Inside {
    shard: u32,
    /// Those that are nowhere, one by one.
    lost: Vec<Finding>,
    /// Paths of those in the shard's file that no record knows.
    unknown: Vec<String>,
}

/// Adds what is wrong with pictures that have no file of their own. Those that a shard's file should hold, and there is a finding
/// about that file, are added to it.
pub fn add(look: &Look<'_>, findings: &mut Vec<Finding>) {
    let format = look.records.format;
    let mut shards: BTreeMap<u32, Images<'_>> = BTreeMap::new();
    for sealed in look.records.state.all_sealed() {
        shards.entry(sealed.shard).or_default();
    }
    for (key, image) in look.records.state.all_done() {
        if let Some(shard) = format.shard_of_image(&image.file_name) {
            shards.entry(shard).or_default().push((key, image));
        }
    }
    shards.retain(|shard, _| look.wants_shard(*shard));
    let mut of_file: HashMap<u32, usize> = HashMap::new();
    for (at, finding) in findings.iter().enumerate() {
        for path in [Some(&finding.path), finding.other.as_ref()].into_iter().flatten() {
            of_file.extend(format.shard_of_file(path).map(|shard| (shard, at)));
        }
    }
    let shards: Vec<_> = shards.into_iter().collect();
    let examine = |(shard, images)| examine(look, shard, images, of_file.contains_key(&shard));
    let insides: Vec<Inside> = shards.into_par_iter().map(examine).collect();
    for inside in insides {
        match of_file.get(&inside.shard) {
            // All are there, in the other file.
            Some(&at) if findings[at].kind == Kind::Swapped => {}
            Some(&at) => findings[at].images.extend(inside.lost.into_iter().flat_map(|finding| finding.images)),
            None => {
                findings.extend(inside.lost);
                let extra = |path| Finding::new(Kind::Extra, path, "no record knows this picture");
                findings.extend(inside.unknown.into_iter().map(extra));
            }
        }
    }
}

fn examine(look: &Look<'_>, shard: u32, mut images: Images<'_>, is_file_bad: bool) -> Inside {
    images.sort_unstable_by_key(|(key, _)| *key);
    let held = if look.deep { members(look, shard) } else { Vec::new() };
    let hashes: HashSet<Blake3> = held.iter().map(|(_, hash)| *hash).collect();
    let sealed = look.records.sealed(shard).is_some();
    let in_file = |image: &DoneImage| match look.deep {
        true => hashes.contains(&image.blake3),
        // A file of the right size holds what it should, as far as can be told without reading it.
        false => sealed && !is_file_bad,
    };
    let lost = |(key, image): &(&str, &DoneImage)| {
        if in_file(image) || look.in_flight.contains(key) {
            return None;
        }
        let (kind, what) = waiting(look, image).err()?;
        Some(Finding { images: vec![key.to_string()], ..Finding::new(kind, &*image.file_name, what) })
    };
    let lost = images.iter().filter_map(lost).collect();
    let known: HashSet<Blake3> = images.iter().map(|(_, image)| image.blake3).collect();
    let of_old = look.records.is_behind(shard) || look.records.sealed(shard).is_none_or(|sealed| sealed.is_outdated());
    let unknown = held.into_iter().filter(|(_, hash)| !of_old && !known.contains(hash)).map(|(path, _)| path);
    Inside { shard, lost, unknown: unknown.collect() }
}

/// Returns the pictures in a shard's file: paths and hashes. What cannot be read is not there.
fn members(look: &Look<'_>, shard: u32) -> Vec<(String, Blake3)> {
    let Some(sealed) = look.records.sealed(shard) else { return Vec::new() };
    let mut members = Vec::new();
    let folder = sealed.file_name.split("-of-").next().unwrap_or(&sealed.file_name);
    // The file's own finding says why it cannot be read any further.
    let _ = read_pictures(look.records.format, &look.out.join(&sealed.file_name), |name, bytes| {
        members.push((format!("{folder}/{name}"), Digest(*blake3::hash(&bytes).as_bytes())));
    });
    members
}

/// Looks for a picture in the spool.
fn waiting(look: &Look<'_>, image: &DoneImage) -> Result<(), (Kind, String)> {
    let Some((file, offset)) = &image.spool else {
        return Err((Kind::Missing, "is not in its shard's file".to_string()));
    };
    let path = spool_folder(look.out).join(&**file);
    let name = format!(".nightshift/spool/{file}");
    let Ok(length) = fs::metadata(&path).map(|file| file.len()) else {
        return Err((Kind::Missing, format!("is neither in its shard's file nor in {name}")));
    };
    if length < offset + image.bytes {
        return Err((Kind::Cut, format!("should stand in {name} from byte {offset} on, which has {length} bytes")));
    }
    let is_right = |bytes: Vec<u8>| *blake3::hash(&bytes).as_bytes() == image.blake3.0;
    if look.deep && !spool::read(&path, *offset, image.bytes).is_some_and(is_right) {
        return Err((
            Kind::Changed,
            format!("its bytes in {name} from byte {offset} on are not those that were written"),
        ));
    }
    Ok(())
}
