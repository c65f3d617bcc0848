//! What the records say together.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::{Blake3, RowHash};
use super::log::ReadUpTo;
use super::record::{Done, Failed, Record, Sealed, SpoolPlace};
use crate::score::Scored;

/// An image that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoneImage {
    /// Hash of everything of the row that changes its pixels.
    pub row_hash: RowHash,
    /// Hash of the image's file.
    pub blake3: Blake3,
    /// Size of the image's file.
    pub bytes: u64,
    /// Seed of the image's own noise.
    pub seed: u64,
    /// Path of the image's file relative to `OUT`.
    pub file_name: Box<str>,
    /// Whether the picture looks like none.
    pub suspect: bool,
    /// What the scorer says of it.
    pub scored: Option<Scored>,
    /// Where its bytes wait for their shard: name of the file in the spool, first byte.
    pub spool: Option<(Arc<str>, u64)>,
    session: u32,
}

impl DoneImage {
    /// Returns the record that says so.
    pub fn to_record(&self, key: &str) -> Done {
        let place = |(file, offset): &(Arc<str>, u64)| SpoolPlace { file: file.to_string(), offset: *offset };
        Done {
            key: key.to_string(),
            row_hash: self.row_hash,
            file_name: self.file_name.to_string(),
            bytes: self.bytes,
            blake3: self.blake3,
            seed: self.seed,
            suspect: self.suspect,
            scored: self.scored,
            spool: self.spool.as_ref().map(place),
        }
    }
}

/// Crashes with an image in flight after which it is made alone.
const CRASHES_UNTIL_ALONE: usize = 2;
/// Deaths without a trace, alone, after which an image counts as their cause. A process that is killed from outside leaves
/// none, so one is no proof.
const SILENT_DEATHS_ALONE: usize = 3;

/// What the crashes of earlier sessions say of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against it.
    Innocent,
    /// It was in flight at several: to be made alone, so that the next one tells.
    Suspect,
    /// It kills the process.
    Guilty,
}

/// What all records of a folder say together; about 220 bytes for each image that is done.
///
/// Records of one file count in their order; those of several files in the order of their sessions.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Key → place in `images`. Kept apart because a hash table is up to half empty, and its entries should be small.
    done: HashMap<Box<str>, u32>,
    images: Vec<DoneImage>,
    failed: HashMap<Box<str>, Dated<Failed>>,
    lost: HashMap<Box<str>, u32>,
    begun: HashMap<Box<str>, Vec<Begun>>,
    /// Sessions that died of a signal of their own.
    crashed: HashSet<u32>,
    /// The last word on each shard, and its session.
    sealed: HashMap<u32, Dated<Sealed>>,
    /// Size and hash of what the files of shards were before.
    former_seals: HashMap<u32, Vec<(u64, Blake3)>>,
    /// Names of spool files, each once.
    spools: HashSet<Arc<str>>,
    /// How far each file was read.
    read: HashMap<PathBuf, ReadUpTo>,
    session: u32,
}

#[derive(Debug, Clone)]
struct Dated<T> {
    session: u32,
    value: T,
}

/// A session that began an image and came to no end with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begun {
    session: u32,
    /// Whether nothing else was in flight.
    alone: bool,
}

impl State {
    /// Returns how many images are done.
    pub fn done_count(&self) -> usize {
        self.done.len()
    }

    /// Returns how many images failed and are not done.
    pub fn failed_count(&self) -> usize {
        self.failed.len()
    }

    /// Returns the image called `key`, if it is done.
    pub fn done(&self, key: &str) -> Option<&DoneImage> {
        self.done.get(key).map(|&place| &self.images[place as usize])
    }

    /// Returns whether the image called `key` is done as `row_hash` wants it.
    pub fn is_done(&self, key: &str, row_hash: RowHash) -> bool {
        self.done(key).is_some_and(|image| image.row_hash == row_hash)
    }

    /// Returns all images that are done, in no order.
    pub fn all_done(&self) -> impl Iterator<Item = (&str, &DoneImage)> {
        self.done.iter().map(|(key, &place)| (&**key, &self.images[place as usize]))
    }

    /// Returns why the image called `key` failed, if it did and was not done since.
    pub fn failed(&self, key: &str) -> Option<&Failed> {
        self.failed.get(key).map(|dated| &dated.value)
    }

    /// Returns all images that failed and were not done since, in no order.
    pub fn all_failed(&self) -> impl Iterator<Item = &Failed> {
        self.failed.values().map(|dated| &dated.value)
    }

    /// Returns what the crashes so far say of the image called `key`. Of two sessions that died with it in flight, or more,
    /// the next makes it alone; one that died so of a signal of its own, or three that died in silence, are proof.
    pub fn verdict(&self, key: &str) -> Verdict {
        let begun = self.begun.get(key).map_or(&[][..], Vec::as_slice);
        let crashed = |begun: &&Begun| self.crashed.contains(&begun.session);
        let alone = || begun.iter().filter(|begun| begun.alone);
        if begun.len() > CRASHES_UNTIL_ALONE && alone().any(|begun| crashed(&begun))
            || alone().count() >= SILENT_DEATHS_ALONE
        {
            return Verdict::Guilty;
        }
        if begun.len() >= CRASHES_UNTIL_ALONE { Verdict::Suspect } else { Verdict::Innocent }
    }

    /// Returns how many sessions began the image called `key` and came to no end with it.
    pub fn times_in_flight(&self, key: &str) -> usize {
        self.begun.get(key).map_or(0, Vec::len)
    }

    /// Returns the last word on the file of a shard.
    pub fn sealed(&self, shard: u32) -> Option<&Sealed> {
        self.sealed.get(&shard).map(|dated| &dated.value)
    }

    /// Returns the last word on every shard's file, in no order.
    pub fn all_sealed(&self) -> impl Iterator<Item = &Sealed> {
        self.sealed.values().map(|dated| &dated.value)
    }

    /// Returns whether a shard's file of that size, and of that hash if it is known, is one that a newer one replaced.
    pub fn was_sealed(&self, shard: u32, bytes: u64, blake3: Option<Blake3>) -> bool {
        let former = self.former_seals.get(&shard).map_or(&[][..], Vec::as_slice);
        former.iter().any(|(size, hash)| *size == bytes && blake3.is_none_or(|blake3| blake3 == *hash))
    }

    /// Returns the images that were begun and came to no end, in no order.
    pub fn in_flight(&self) -> impl Iterator<Item = &str> {
        self.begun.keys().map(|key| &**key)
    }

    /// Takes in a record of the session that runs now.
    pub fn apply(&mut self, record: Record) {
        self.apply_from(self.session, record);
    }

    /// Notes how far a file was read.
    pub(super) fn note_read(&mut self, path: PathBuf, upto: ReadUpTo) {
        self.read.insert(path, upto);
    }

    /// Returns how far a file was read.
    pub(super) fn read_up_to(&self, path: &Path) -> ReadUpTo {
        self.read.get(path).copied().unwrap_or_default()
    }

    /// Returns how far all files were read.
    pub(super) fn all_read(&self) -> &HashMap<PathBuf, ReadUpTo> {
        &self.read
    }

    /// Returns the highest session number seen.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Takes in a record that session number `session` wrote.
    pub(super) fn apply_from(&mut self, session: u32, record: Record) {
        match record {
            Record::Begin { keys, alone } => keys.into_iter().for_each(|key| self.begin(session, key, alone)),
            Record::Done(done) => self.finish(session, done),
            Record::Failed(failed) => self.fail(session, failed),
            Record::Lost { key } => self.lose(session, key),
            Record::Sealed(sealed) => self.seal(session, sealed),
            Record::Crashed => {
                self.crashed.insert(session);
            }
            Record::Stopped => self.stop(session),
            Record::Session { number } => self.session = self.session.max(number),
            Record::Synced { .. } => {}
        }
    }

    fn begin(&mut self, session: u32, key: String, alone: bool) {
        // One that cannot even be started may have failed before it is said to be begun.
        let done_since = self.done(&key).is_some_and(|image| image.session >= session);
        let failed_since = self.failed.get(key.as_str()).is_some_and(|failed| failed.session >= session);
        if done_since || failed_since {
            return;
        }
        let begun = self.begun.entry(key.into()).or_default();
        // Begun twice in one session (tried again) is still one crash, of the later try.
        begun.retain(|begun| begun.session != session);
        begun.push(Begun { session, alone });
    }

    fn seal(&mut self, session: u32, sealed: Sealed) {
        let shard = sealed.shard;
        let newer = self.sealed.get(&shard).is_some_and(|dated| dated.session > session);
        let former = if newer {
            Some(sealed)
        } else {
            self.sealed.insert(shard, Dated { session, value: sealed }).map(|dated| dated.value)
        };
        if let Some(former) = former {
            self.former_seals.entry(shard).or_default().push((former.bytes, former.blake3));
        }
    }

    fn spool(&mut self, file: String) -> Arc<str> {
        match self.spools.get(file.as_str()) {
            Some(known) => known.clone(),
            None => {
                let name: Arc<str> = file.into();
                self.spools.insert(name.clone());
                name
            }
        }
    }

    fn finish(&mut self, session: u32, done: Done) {
        self.end(session, &done.key);
        if self.lost.get(done.key.as_str()).is_some_and(|&lost| lost > session) {
            return;
        }
        if self.failed.get(done.key.as_str()).is_some_and(|failed| failed.session <= session) {
            self.failed.remove(done.key.as_str());
        }
        let image = DoneImage {
            row_hash: done.row_hash,
            blake3: done.blake3,
            bytes: done.bytes,
            seed: done.seed,
            file_name: done.file_name.into(),
            suspect: done.suspect,
            scored: done.scored,
            spool: done.spool.map(|place| (self.spool(place.file), place.offset)),
            session,
        };
        match self.done.entry(done.key.into()) {
            Entry::Occupied(place) => {
                let old = &mut self.images[*place.get() as usize];
                if old.session <= session {
                    *old = image;
                }
            }
            Entry::Vacant(place) => {
                place.insert(u32::try_from(self.images.len()).expect("fewer than 4 billion images fit into memory"));
                self.images.push(image);
            }
        }
    }

    /// A failure leaves an image of the same name alone: it may be that of the row before it was edited, and the caller
    /// compares hashes.
    fn fail(&mut self, session: u32, failed: Failed) {
        self.end(session, &failed.key);
        let key = failed.key.as_str();
        let done_since = self.done(key).is_some_and(|image| image.session > session);
        let failed_since = self.failed.get(key).is_some_and(|failed| failed.session > session);
        let done_now = self.is_done(key, failed.row_hash);
        if !(done_since || failed_since || done_now) {
            self.failed.insert(failed.key.clone().into(), Dated { session, value: failed });
        }
    }

    fn lose(&mut self, session: u32, key: String) {
        if self.done(&key).is_some_and(|image| image.session <= session) {
            self.done.remove(key.as_str());
        }
        let lost = self.lost.entry(key.into()).or_insert(session);
        *lost = session.max(*lost);
    }

    fn stop(&mut self, session: u32) {
        self.begun.retain(|_, begun| {
            begun.retain(|begun| begun.session != session);
            !begun.is_empty()
        });
    }

    /// Forgets who began the image before its outcome, which `session` wrote.
    fn end(&mut self, session: u32, key: &str) {
        if let Some(begun) = self.begun.get_mut(key) {
            begun.retain(|begun| begun.session > session);
            if begun.is_empty() {
                self.begun.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::journal::digest::Digest;

    fn done(key: &str, hash: u8) -> Record {
        Record::Done(Done {
            key: key.into(),
            row_hash: Digest([hash; 16]),
            file_name: format!("images/00000/{key}.png"),
            bytes: 10,
            blake3: Digest([0; 32]),
            seed: 1,
            suspect: false,
            scored: None,
            spool: None,
        })
    }

    fn failed(key: &str, hash: u8) -> Record {
        let (code, message) = ("nan".into(), "not a number".into());
        Record::Failed(Failed { key: key.into(), row_hash: Digest([hash; 16]), code, message })
    }

    fn begin(key: &str) -> Record {
        Record::Begin { keys: vec![key.into()], alone: false }
    }

    fn state(records: Vec<(u32, Record)>) -> State {
        let mut state = State::default();
        records.into_iter().for_each(|(session, record)| state.apply_from(session, record));
        state
    }

    #[test]
    fn a_later_success_beats_a_failure_in_whatever_order_the_files_are_read() {
        for records in [vec![(1, failed("a", 1)), (2, done("a", 1))], vec![(2, done("a", 1)), (1, failed("a", 1))]] {
            let state = state(records);
            assert!(state.is_done("a", Digest([1; 16])) && state.failed("a").is_none());
            assert_eq!((state.done_count(), state.failed_count()), (1, 0));
        }
    }

    #[test]
    fn a_failure_of_an_edited_row_keeps_the_old_image() {
        let state = state(vec![(1, done("a", 1)), (2, failed("a", 2))]);
        assert!(state.is_done("a", Digest([1; 16])) && !state.is_done("a", Digest([2; 16])));
        assert_eq!(state.failed("a").unwrap().row_hash, Digest([2; 16]));
    }

    #[test]
    fn the_image_of_the_later_session_holds() {
        for records in [vec![(1, done("a", 1)), (2, done("a", 2))], vec![(2, done("a", 2)), (1, done("a", 1))]] {
            assert!(state(records).is_done("a", Digest([2; 16])));
        }
    }

    #[test]
    fn a_lost_image_is_not_done_until_it_is_made_again() {
        for records in [
            vec![(1, done("a", 1)), (2, Record::Lost { key: "a".into() })],
            vec![(2, Record::Lost { key: "a".into() }), (1, done("a", 1))],
        ] {
            let mut state = state(records);
            assert_eq!(state.done_count(), 0);
            state.apply_from(2, done("a", 1));
            assert_eq!(state.done_count(), 1);
        }
    }

    #[test]
    fn rows_that_were_in_flight_at_a_crash_are_counted() {
        let state = state(vec![
            (1, begin("a")),
            (1, begin("b")),
            (1, begin("a")),
            (1, done("b", 1)),
            (2, begin("a")),
            (2, begin("c")),
            (3, begin("c")),
            (3, begin("d")),
            (3, Record::Stopped),
        ]);
        assert_eq!(["a", "b", "c", "d"].map(|key| state.times_in_flight(key)), [2, 0, 1, 0]);
        assert_eq!(state.in_flight().count(), 2);
    }

    #[test]
    fn two_crashes_make_a_suspect_and_one_alone_convicts() {
        let alone = |key: &str| Record::Begin { keys: vec![key.into()], alone: true };
        let mut records = vec![(1, begin("a")), (1, begin("b")), (1, Record::Crashed)];
        assert_eq!(state(records.clone()).verdict("a"), Verdict::Innocent);
        records.extend([(2, begin("a")), (2, begin("b")), (2, Record::Crashed)]);
        assert_eq!(state(records.clone()).verdict("a"), Verdict::Suspect);
        records.extend([(3, alone("b")), (3, done("b", 1)), (3, alone("a")), (3, Record::Crashed)]);
        let state = state(records);
        assert_eq!((state.verdict("a"), state.verdict("b")), (Verdict::Guilty, Verdict::Innocent));
    }

    #[test]
    fn a_death_without_a_trace_is_no_proof() {
        let alone = || Record::Begin { keys: vec!["a".into()], alone: true };
        let mut records = vec![(1, begin("a")), (2, begin("a")), (3, alone()), (4, alone())];
        assert_eq!(state(records.clone()).verdict("a"), Verdict::Suspect);
        records.push((5, alone()));
        assert_eq!(state(records).verdict("a"), Verdict::Guilty);
    }

    #[test]
    fn the_last_seal_of_a_shard_holds() {
        let sealed = |images: u64| {
            let (blake3, contents) = (Digest([images as u8; 32]), Digest([1; 32]));
            Record::Sealed(Sealed { shard: 3, file_name: "000003.tar".into(), bytes: 1, blake3, contents, images })
        };
        assert_eq!(state(vec![(2, sealed(5)), (1, sealed(4))]).sealed(3).unwrap().images, 5);
        let state = state(vec![(1, sealed(4)), (1, sealed(5))]);
        assert_eq!(state.sealed(3).unwrap().images, 5);
        assert!(state.was_sealed(3, 1, Some(Digest([4; 32]))) && !state.was_sealed(3, 1, Some(Digest([5; 32]))));
    }
}
