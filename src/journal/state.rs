//! What the records say together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::digest::{Blake3, RowHash};
use super::record::{Done, Failed, Record};

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
    session: u32,
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
    begun: HashMap<Box<str>, Begun>,
    session: u32,
}

#[derive(Debug, Clone)]
struct Dated<T> {
    session: u32,
    value: T,
}

/// An image that was begun and has no outcome yet.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// The last session that began it.
    session: u32,
    /// How many began it and came to no end.
    times: u32,
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

    /// Returns how many sessions began the image called `key` and came to no end: those that may have died of it.
    pub fn times_in_flight(&self, key: &str) -> u32 {
        self.begun.get(key).map_or(0, |begun| begun.times)
    }

    /// Returns the images that were begun and came to no end, in no order.
    pub fn in_flight(&self) -> impl Iterator<Item = &str> {
        self.begun.keys().map(|key| &**key)
    }

    /// Takes in a record of the session that runs now.
    pub fn apply(&mut self, record: Record) {
        self.apply_from(self.session, record);
    }

    /// Returns the highest session number seen.
    pub(super) fn session(&self) -> u32 {
        self.session
    }

    /// Takes in a record that session number `session` wrote.
    pub(super) fn apply_from(&mut self, session: u32, record: Record) {
        match record {
            Record::Begin { keys } => keys.into_iter().for_each(|key| self.begin(session, key)),
            Record::Done(done) => self.finish(session, done),
            Record::Failed(failed) => self.fail(session, failed),
            Record::Lost { key } => self.lose(session, key),
            Record::Stopped => self.stop(session),
            Record::Session { number } => self.session = self.session.max(number),
            Record::Synced { .. } => {}
        }
    }

    fn begin(&mut self, session: u32, key: String) {
        let done_since = self.done(&key).is_some_and(|image| image.session > session);
        let failed_since = self.failed.get(key.as_str()).is_some_and(|failed| failed.session > session);
        if done_since || failed_since {
            return;
        }
        let begun = self.begun.entry(key.into()).or_insert(Begun { session, times: 0 });
        // Begun twice in one session (tried again in a smaller batch) is still one crash.
        if begun.times == 0 || begun.session != session {
            begun.times += 1;
        }
        begun.session = begun.session.max(session);
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
            if begun.session == session {
                begun.times -= 1;
            }
            begun.times > 0
        });
    }

    fn end(&mut self, session: u32, key: &str) {
        // Removed first and put back in the rare other case: this runs once for each image ever made.
        if let Some((key, begun)) = self.begun.remove_entry(key).filter(|(_, begun)| begun.session > session) {
            self.begun.insert(key, begun);
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
        })
    }

    fn failed(key: &str, hash: u8) -> Record {
        let (code, message) = ("nan".into(), "not a number".into());
        Record::Failed(Failed { key: key.into(), row_hash: Digest([hash; 16]), code, message })
    }

    fn begin(key: &str) -> Record {
        Record::Begin { keys: vec![key.into()] }
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
}
