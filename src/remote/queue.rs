//! Files that wait to be uploaded, in the order in which they became final.
//!
//! Several are under way at a time. One that says what else is there (metadata) goes alone, after all before it; two versions of one
//! file never go side by side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::names::is_last;

/// Files that may wait, whatever their size.
const FILES: usize = 200_000;
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its place in the order of all.
    pub number: u64,
    /// Its name relative to the spool.
    pub name: String,
    /// Its size when it was added.
    pub bytes: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Counts for those who watch.
    pub counts: Arc<Counts>,
}

/// What was uploaded, and what waits.
#[derive(Debug, Default)]
pub struct Counts {
    /// Files that are in the bucket.
    pub files: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Files that wait or are under way.
    pub waiting_files: AtomicU64,
    /// Their bytes.
    pub waiting_bytes: AtomicU64,
    /// Tries that failed.
    pub failures: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: VecDeque<Item>,
    under_way: BTreeMap<u64, String>,
    /// Whether anybody takes files from it by now.
    open: bool,
    closed: bool,
    /// Failures since the last success.
    failures: u32,
    /// When the next try may be made.
    pause_until: Option<Instant>,
}

impl Queue {
    /// Adds a file.
    pub fn push(&self, name: String, bytes: u64) {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Item { number, name, bytes });
        self.counts.waiting_files.fetch_add(1, Ordering::Relaxed);
        self.counts.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Says that files are taken from now on: only then does waiting for room make sense.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// Waits until less than `limit` bytes wait, or `is_urgent` says that it matters no more.
    pub fn wait_for_room(&self, limit: u64, is_urgent: &dyn Fn() -> bool) {
        let mut state = self.lock();
        let full = |state: &State| {
            let more_than_one = state.waiting.len() > 1;
            let bytes = self.counts.waiting_bytes.load(Ordering::Relaxed);
            more_than_one && (bytes > limit || state.waiting.len() > FILES) && state.open && !state.closed
        };
        while full(&state) && !is_urgent() {
            state = self.wait(state, Duration::from_millis(100));
        }
    }

    /// Waits for the next file that may be uploaded; `None` once the queue is closed.
    pub fn pop(&self) -> Option<Item> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let pause = state.pause_until.map(|until| until.saturating_duration_since(Instant::now()));
            let pause = pause.filter(|pause| !pause.is_zero());
            if pause.is_none()
                && let Some(item) = state.take()
            {
                state.under_way.insert(item.number, item.name.clone());
                return Some(item);
            }
            state = self.wait(state, pause.unwrap_or(Duration::from_secs(1)));
        }
    }

    /// Notes that a file is in the bucket.
    pub fn done(&self, item: &Item, bytes: u64) {
        let mut state = self.lock();
        state.under_way.remove(&item.number);
        (state.failures, state.pause_until) = (0, None);
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.forget(item);
    }

    /// Notes that a file need not go to the bucket any more.
    pub fn dropped(&self, item: &Item) {
        self.lock().under_way.remove(&item.number);
        self.forget(item);
    }

    /// Notes that a file could not be uploaded: it is the next to be tried, after a pause. Returns how many tries failed in a row.
    pub fn failed(&self, item: Item) -> u32 {
        let mut state = self.lock();
        state.under_way.remove(&item.number);
        let place = state.waiting.partition_point(|other| other.number < item.number);
        state.waiting.insert(place, item);
        let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(10)).min(LONGEST_PAUSE);
        state.failures += 1;
        state.pause_until = Some(Instant::now() + pause);
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
        state.failures
    }

    /// Returns a number below which all are that were added so far.
    pub fn mark(&self) -> u64 {
        self.lock().next
    }

    /// Waits until all before `mark` are dealt with, but no longer than `patience`; returns whether they are.
    pub fn wait_until(&self, mark: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !state.is_done(mark) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return false;
            }
            state = self.wait(state, left.min(Duration::from_millis(200)));
        }
        true
    }

    /// Lets everybody go who waits; nothing is given out any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn forget(&self, item: &Item) {
        self.counts.waiting_files.fetch_sub(1, Ordering::Relaxed);
        self.counts.waiting_bytes.fetch_sub(item.bytes, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one or two operations that do not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next file that may go now.
    fn take(&mut self) -> Option<Item> {
        let first = self.waiting.front()?;
        let names: BTreeSet<&String> = self.under_way.values().collect();
        let is_alone = self.under_way.is_empty();
        let held_up = is_last(&first.name) && !is_alone || names.contains(&first.name);
        // Nor may anything overtake metadata that is on its way.
        let behind = names.iter().any(|name| is_last(name));
        if held_up || behind { None } else { self.waiting.pop_front() }
    }

    fn is_done(&self, mark: u64) -> bool {
        let before = |number: Option<u64>| number.is_some_and(|number| number < mark);
        !before(self.waiting.front().map(|item| item.number)) && !before(self.under_way.keys().next().copied())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn queue(names: &[&str]) -> Queue {
        let queue = Queue::default();
        names.iter().for_each(|name| queue.push(name.to_string(), 10));
        queue
    }

    fn try_pop(queue: &Queue) -> Option<Item> {
        let mut state = queue.lock();
        let item = state.take()?;
        state.under_way.insert(item.number, item.name.clone());
        Some(item)
    }

    #[test]
    fn metadata_goes_alone_and_two_versions_one_after_the_other() {
        let queue = queue(&["i/a.png", "i/metadata.parquet", "j/b.png", "j/b.png"]);
        let a = try_pop(&queue).unwrap();
        assert_eq!(try_pop(&queue), None, "metadata waits for the picture");
        queue.done(&a, 10);
        let metadata = try_pop(&queue).unwrap();
        assert_eq!((metadata.name.as_str(), try_pop(&queue)), ("i/metadata.parquet", None));
        queue.done(&metadata, 10);
        let b = try_pop(&queue).unwrap();
        assert_eq!(try_pop(&queue), None, "another version is on its way");
        queue.dropped(&b);
        let b = try_pop(&queue).unwrap();
        assert!(!queue.wait_until(queue.mark(), Duration::ZERO));
        queue.done(&b, 10);
        assert!(queue.wait_until(queue.mark(), Duration::ZERO));
        let counts =
            [&queue.counts.files, &queue.counts.bytes, &queue.counts.waiting_files, &queue.counts.waiting_bytes];
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [3, 30, 0, 0]);
    }

    #[test]
    fn what_failed_is_the_next_to_be_tried_after_a_pause() {
        let queue = queue(&["a.tar", "b.tar"]);
        let (a, b) = (try_pop(&queue).unwrap(), try_pop(&queue).unwrap());
        assert_eq!(queue.failed(b), 1);
        assert_eq!(queue.failed(a), 2);
        assert!(queue.lock().pause_until.unwrap() > Instant::now());
        let a = try_pop(&queue).unwrap();
        assert_eq!(a.name, "a.tar");
        queue.done(&a, 10);
        assert_eq!(queue.pop().unwrap().name, "b.tar");
        queue.close();
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_full_queue_makes_the_run_wait() {
        let queue = queue(&["a.tar", "b.tar", "c.tar"]);
        queue.wait_for_room(20, &|| panic!("nobody would make room"));
        queue.open();
        queue.wait_for_room(30, &|| panic!("there is room"));
        queue.wait_for_room(20, &|| true);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.wait_for_room(20, &|| false));
            assert!(!waiting.is_finished());
            let a = queue.pop().unwrap();
            queue.done(&a, 10);
            waiting.join().unwrap();
        });
    }
}
