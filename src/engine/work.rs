//! The work that all devices share: whoever has room takes the next images, and what a lost device had is made by the others.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::limits::Size;
use crate::job::ImageTask;
use crate::plan::Plan;

/// Images that a device takes at once, at most: their texts are encoded together.
const AHEAD: usize = 16;

/// See the module's text.
pub struct Work<'a> {
    /// All images, in the plan's order.
    tasks: Vec<&'a ImageTask>,
    state: Mutex<State>,
    changed: Condvar,
    workers: usize,
}

struct State {
    /// The places of the images of each size that nobody has taken, in the plan's order.
    buckets: Vec<(Size, VecDeque<usize>)>,
    /// Images that were taken, and neither settled nor given back.
    under_way: usize,
    is_closed: bool,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Images of this size wait.
    Images(Size),
    /// None waits, but others have some that they may yet give back.
    Later,
    /// Everything is done, or the work was given up.
    Nothing,
}

impl<'a> Work<'a> {
    /// Returns all images of `plan`, to be shared by so many workers.
    pub fn new(plan: &'a Plan, workers: usize) -> Self {
        let (mut tasks, mut buckets) = (Vec::with_capacity(plan.images()), Vec::new());
        for bucket in &plan.buckets {
            let first = tasks.len();
            tasks.extend(&bucket.tasks);
            buckets.push(((bucket.width, bucket.height), (first..tasks.len()).collect()));
        }
        let state = State { buckets, under_way: 0, is_closed: false };
        Work { tasks, state: Mutex::new(state), changed: Condvar::new(), workers: workers.max(1) }
    }

    /// Returns what there is to do next.
    pub fn next(&self) -> Next {
        let state = self.lock();
        match state.buckets.iter().find(|(_, places)| !places.is_empty()) {
            _ if state.is_closed => Next::Nothing,
            Some((size, _)) => Next::Images(*size),
            None if state.under_way > 0 => Next::Later,
            None => Next::Nothing,
        }
    }

    /// Takes the next images of `size`: several while there are many, so that their texts share a call, and one at a time
    /// towards the end, so that all workers end together.
    pub(super) fn take(&self, size: Size) -> Vec<&'a ImageTask> {
        let mut state = self.lock();
        let State { buckets, under_way, is_closed } = &mut *state;
        let bucket = buckets.iter_mut().find(|(of, _)| *of == size && !*is_closed);
        let Some((_, places)) = bucket else { return Vec::new() };
        let share = if self.workers == 1 { AHEAD } else { places.len().div_ceil(2 * self.workers).min(AHEAD) };
        let taken: Vec<_> = places.drain(..share.min(places.len())).map(|place| self.tasks[place]).collect();
        *under_way += taken.len();
        taken
    }

    /// Notes that it is known what became of an image.
    pub(super) fn settled(&self) {
        self.lock().under_way -= 1;
        self.changed.notify_all();
    }

    /// Takes images back that are not settled: they come next.
    pub(super) fn give_back(&self, tasks: &[&ImageTask]) {
        let mut state = self.lock();
        state.under_way -= tasks.len();
        for task in tasks.iter().rev() {
            let size = (task.job.width, task.job.height);
            let place = self.tasks.iter().position(|other| other.ordinal == task.ordinal);
            let bucket = state.buckets.iter_mut().find(|(of, _)| *of == size);
            if let (Some(place), Some((_, places))) = (place, bucket) {
                places.push_front(place);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Gives the work up for all workers: what waits is not made.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits until something changes, but no longer than `most`.
    pub(super) fn wait(&self, most: Duration) {
        let state = self.lock();
        if state.under_way > 0 && !state.is_closed {
            drop(self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Returns the images that nobody has taken.
    pub fn left(&self) -> Vec<&'a ImageTask> {
        self.lock().buckets.iter().flat_map(|(_, places)| places).map(|place| self.tasks[*place]).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is right after every method, so a panic elsewhere cannot have spoilt it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::Job;
    use crate::job::testing::job;
    use crate::plan::{plan, tasks};

    fn of(rows: u64) -> Plan {
        let row = |row| Arc::new(Job { seed: Some(row), ..job(row) });
        plan(tasks(&(0..rows).map(row).collect::<Vec<_>>(), 0))
    }

    #[test]
    fn shares_get_smaller_towards_the_end() {
        let plan = of(100);
        let Next::Images(size) = Work::new(&plan, 2).next() else { panic!("there is work") };
        let shares = |workers| {
            let work = Work::new(&plan, workers);
            std::iter::from_fn(|| Some(work.take(size).len()).filter(|count| *count > 0)).collect::<Vec<_>>()
        };
        assert_eq!(shares(1), [16, 16, 16, 16, 16, 16, 4]);
        let two = shares(2);
        assert_eq!((two[0], two.iter().sum::<usize>()), (16, 100));
        assert!(two.is_sorted_by(|a, b| a >= b) && two.ends_with(&[1, 1, 1]), "{two:?}");
    }

    #[test]
    fn nothing_is_over_before_all_is_settled() {
        let plan = of(2);
        let work = Work::new(&plan, 1);
        let Next::Images(size) = work.next() else { panic!("there is work") };
        let taken = work.take(size);
        assert_eq!((taken.len(), work.next()), (2, Next::Later));
        work.settled();
        work.give_back(&taken[1..]);
        assert_eq!((work.next(), work.left()), (Next::Images(size), vec![taken[1]]));
        assert_eq!(work.take(size), [taken[1]]);
        work.settled();
        assert_eq!(work.next(), Next::Nothing);
    }

    #[test]
    fn what_is_given_up_is_not_taken() {
        let plan = of(3);
        let work = Work::new(&plan, 2);
        let Next::Images(size) = work.next() else { panic!("there is work") };
        work.close();
        assert_eq!((work.next(), work.take(size).len(), work.left().len()), (Next::Nothing, 0, 3));
    }
}
