//! What a start does before anything else: compare the spool with the bucket, and take over what was done elsewhere.
//!
//! This worker's journal tells which of the two knows more, since it is only ever appended to. If the spool does, all is well. If the
//! bucket does, another machine went on, and the spool is brought up to it: what it still had to upload is there. If each knows what
//! the other does not, two machines worked for one worker, and a person has to say which is right.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Store;
use super::fetch::download;
use super::mirror::journal_name;
use super::names::{self, Role, role};
use super::objects::Object;
use super::url::BucketUrl;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::STATE_FOLDER;
use crate::output::durable::{Durable, WholeFile};
use crate::output::run_folder::{is_foreign_data, journal_folder, refuse_foreign_data, run_file};

/// As much of two journals is compared where one is longer.
const COMPARED: u64 = 64 << 10;

/// Which of two journals of one worker knows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// The spool's, or both the same.
    SpoolKnowsAll,
    /// The bucket's.
    BucketKnowsMore,
    /// Each has what the other has not.
    Parted,
}

/// Brings the spool up to the bucket; returns how many files were taken over.
///
/// # Errors
/// Kind `Storage`: the bucket cannot be reached. Kind `OtherRun`: the spool belongs to another place, the place holds what no run of
/// nightshift made, or both went on on their own.
pub fn adopt(store: &Store, spool: &Path, worker: &str) -> Result<usize> {
    mark_as_spool(spool, store.url())?;
    let mut state = store.list(STATE_FOLDER)?;
    // Our own lease is there already.
    state.retain(|object| role(&object.name) == Role::State);
    if state.is_empty() && !run_file(spool).exists() {
        refuse_foreign_objects(store)?;
    }
    let own = journal_name(worker);
    match relation(store, &names::path(spool, &own), &own, &state)? {
        Relation::Parted => Err(parted(store.url(), spool)),
        Relation::BucketKnowsMore => {
            names::files(spool, Role::Data).iter().try_for_each(|name| remove(spool, name))?;
            take_all(store, spool, &state, &own)
        }
        Relation::SpoolKnowsAll => take_other_journals(store, spool, &state, &own),
    }
}

/// What `.nightshift/bucket.json` says.
#[derive(Serialize, Deserialize)]
struct Mark {
    url: String,
}

/// Returns the place in a bucket that a folder is the spool of, if it is one.
pub fn spooled_for(folder: &Path) -> Option<String> {
    let text = fs::read(folder.join(STATE_FOLDER).join("bucket.json")).ok()?;
    serde_json::from_slice::<Mark>(&text).ok().map(|mark| mark.url)
}

fn mark_as_spool(spool: &Path, url: &BucketUrl) -> Result<()> {
    match spooled_for(spool) {
        Some(known) if known == url.to_string() => return Ok(()),
        Some(known) => {
            return Err(Error::new(ErrorKind::OtherRun, "other_spool", format!("this is the spool of {known}"))
                .at(Location::file(spool))
                .hint("give another --spool, a folder for each output"));
        }
        None if run_file(spool).exists() || journal_folder(spool).exists() => {
            return Err(Error::new(
                ErrorKind::OtherRun,
                "other_spool",
                "this is the output folder of a run, and no spool",
            )
            .at(Location::file(spool))
            .hint("give an empty folder, or none, as --spool"));
        }
        None => refuse_foreign_data(spool)?,
    }
    let json = serde_json::to_vec(&Mark { url: url.to_string() }).expect("strings are valid JSON");
    Durable::default().commit(&[WholeFile { path: spool.join(STATE_FOLDER).join("bucket.json"), bytes: &json }])
}

fn refuse_foreign_objects(store: &Store) -> Result<()> {
    let Some(foreign) = store.top()?.into_iter().find(|name| is_foreign_data(name)) else { return Ok(()) };
    let message = format!("there is `{foreign}`, which no run of nightshift has made there");
    Err(Error::new(ErrorKind::OtherRun, "foreign_output", message)
        .at(Location::file(store.url().to_string()))
        .hint("give a new or empty prefix as --out"))
}

fn relation(store: &Store, path: &Path, name: &str, state: &[Object]) -> Result<Relation> {
    let there = state.iter().find(|object| object.name == name).map_or(0, |object| object.bytes);
    let here = fs::metadata(path).map_or(0, |file| file.len());
    let is_known = match here >= there {
        true => {
            let from = there.saturating_sub(COMPARED);
            let tail = store.get_range(name, from..there.max(from + 1)).map(Option::unwrap_or_default);
            there == 0 || read_part(path, from, there)? == tail?
        }
        false => false,
    };
    if is_known {
        return Ok(Relation::SpoolKnowsAll);
    }
    // What comes after the last whole line was never copied, and may be torn.
    let mut ours = read_part(path, 0, here)?;
    ours.truncate(ours.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    let theirs = store.get(name)?.map(|found| found.bytes).unwrap_or_default();
    Ok(if theirs.starts_with(&ours) { Relation::BucketKnowsMore } else { Relation::Parted })
}

/// Reads a file from one byte to another; nothing where there is none.
fn read_part(path: &Path, from: u64, to: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Ok(mut file) = fs::File::open(path) else { return Ok(bytes) };
    let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(to - from).read_to_end(&mut bytes));
    read.map_err(|error| Error::storage("read", path, error))?;
    Ok(bytes)
}

fn parted(url: &BucketUrl, spool: &Path) -> Error {
    let message = format!("this spool and {url} were each continued without the other");
    Error::new(ErrorKind::OtherRun, "spool_parted", message)
        .at(Location::file(spool))
        .hint("to go on from the bucket, remove the spool: what only it knows is made again; or give another --out")
}

/// Takes the whole state folder, this worker's journal last: a start that is cut short begins anew.
fn take_all(store: &Store, spool: &Path, state: &[Object], own: &str) -> Result<usize> {
    let others = state.iter().filter(|object| object.name != own);
    let names: Vec<&str> = others.map(|object| &*object.name).chain([own]).collect();
    names.iter().try_for_each(|name| take(store, spool, name))?;
    Ok(names.len())
}

/// Takes what other workers have written since.
fn take_other_journals(store: &Store, spool: &Path, state: &[Object], own: &str) -> Result<usize> {
    let is_news = |object: &&Object| {
        let is_shared = object.name.contains("/journal/") && object.name != own;
        let here = fs::metadata(names::path(spool, &object.name)).map(|file| file.len()).ok();
        // The first of several workers has written run.json.
        is_shared && here != Some(object.bytes) || here.is_none() && object.name.ends_with("/run.json")
    };
    let news: Vec<_> = state.iter().filter(is_news).collect();
    news.iter().try_for_each(|object| take(store, spool, &object.name))?;
    Ok(news.len())
}

fn take(store: &Store, spool: &Path, name: &str) -> Result<()> {
    let path = names::path(spool, name);
    let there = download(store, name, &path)?;
    // It went away since it was listed.
    if there { Ok(()) } else { remove(spool, name) }
}

fn remove(spool: &Path, name: &str) -> Result<()> {
    Durable::default().remove(&names::path(spool, name))
}
