//! The work that all devices share: whoever has room takes the next images, and what a lost device had is made by the others.
//!
//! An image may be what killed its device. So what a lost device had comes last, each image alone on its device: if that is
//! lost too, the image is to blame, and not tried on a third.

use std::collections::{HashSet, VecDeque};
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
    /// The places of images that wait, and that a lost device had.
    suspects: VecDeque<usize>,
    /// The places of all images that a lost device had.
    suspected: HashSet<usize>,
    /// Images that were taken, and neither settled nor given back.
    under_way: usize,
    is_closed: bool,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Images of this size wait.
    Images(Size),
    /// None waits, or none for who has others under way, but some may yet be given back.
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
        let (suspects, suspected) = (VecDeque::new(), HashSet::new());
        let state = State { buckets, suspects, suspected, under_way: 0, is_closed: false };
        Work { tasks, state: Mutex::new(state), changed: Condvar::new(), workers: workers.max(1) }
    }

    /// Returns what there is to do next for a device that has nothing under way, if it is idle, or else something.
    pub fn next(&self, is_idle: bool) -> Next {
        let state = self.lock();
        match (state.buckets.iter().find(|(_, places)| !places.is_empty()), state.suspects.front()) {
            _ if state.is_closed => Next::Nothing,
            (Some((size, _)), _) => Next::Images(*size),
            (None, Some(place)) if is_idle => Next::Images(size_of(self.tasks[*place])),
            (None, Some(_)) => Next::Later,
            (None, None) if state.under_way > 0 => Next::Later,
            (None, None) => Next::Nothing,
        }
    }

    /// Takes the next images of `size`: several while there are many, so that their texts share a call, and one at a time
    /// towards the end, so that all workers end together. Once there are no others, who is idle takes one that a lost device had.
    pub(super) fn take(&self, size: Size, is_idle: bool) -> Vec<&'a ImageTask> {
        let mut state = self.lock();
        let State { buckets, suspects, under_way, is_closed, .. } = &mut *state;
        let others_wait = buckets.iter().any(|(_, places)| !places.is_empty());
        let bucket = buckets.iter_mut().find(|(of, _)| *of == size);
        let taken: Vec<usize> = match bucket {
            _ if *is_closed => Vec::new(),
            Some((_, places)) if !places.is_empty() => {
                let share = if self.workers == 1 { AHEAD } else { places.len().div_ceil(2 * self.workers).min(AHEAD) };
                places.drain(..share.min(places.len())).collect()
            }
            _ if others_wait || !is_idle => Vec::new(),
            _ => {
                let fits = suspects.front().is_some_and(|place| size_of(self.tasks[*place]) == size);
                suspects.drain(..usize::from(fits)).collect()
            }
        };
        *under_way += taken.len();
        taken.into_iter().map(|place| self.tasks[place]).collect()
    }

    /// Notes that it is known what became of an image.
    pub(super) fn settled(&self) {
        self.lock().under_way -= 1;
        self.changed.notify_all();
    }

    /// Takes back the images of a device that is lost: they come last, each alone. Returns those that were alone on it already
    /// when that happened to them, which are not taken back and count as settled.
    pub(super) fn give_back(&self, tasks: &[&'a ImageTask]) -> Vec<&'a ImageTask> {
        let mut state = self.lock();
        let State { suspects, suspected, under_way, .. } = &mut *state;
        *under_way -= tasks.len();
        let mut guilty = Vec::new();
        for task in tasks {
            let place = self.tasks.iter().position(|other| other.ordinal == task.ordinal);
            match place {
                Some(place) if suspected.insert(place) => suspects.push_back(place),
                _ => guilty.push(*task),
            }
        }
        drop(state);
        self.changed.notify_all();
        guilty
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

    /// Returns the images that wait.
    pub fn left(&self) -> Vec<&'a ImageTask> {
        let state = self.lock();
        let waiting = state.buckets.iter().flat_map(|(_, places)| places).chain(&state.suspects);
        waiting.map(|place| self.tasks[*place]).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is right after every method, so a panic elsewhere cannot have spoilt it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_of(task: &ImageTask) -> Size {
    (task.job.width, task.job.height)
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
        let Next::Images(size) = Work::new(&plan, 2).next(true) else { panic!("there is work") };
        let shares = |workers| {
            let work = Work::new(&plan, workers);
            std::iter::from_fn(|| Some(work.take(size, true).len()).filter(|count| *count > 0)).collect::<Vec<_>>()
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
        let Next::Images(size) = work.next(true) else { panic!("there is work") };
        let taken = work.take(size, true);
        assert_eq!((taken.len(), work.next(true)), (2, Next::Later));
        work.settled();
        assert!(work.give_back(&taken[1..]).is_empty());
        assert_eq!((work.next(true), work.left()), (Next::Images(size), vec![taken[1]]));
        assert_eq!(work.take(size, true), [taken[1]]);
        work.settled();
        assert_eq!(work.next(true), Next::Nothing);
    }

    #[test]
    fn what_a_lost_device_had_comes_last_and_alone_and_is_to_blame_the_second_time() {
        let plan = of(20);
        let work = Work::new(&plan, 1);
        let Next::Images(size) = work.next(true) else { panic!("there is work") };
        let lost = work.take(size, true);
        assert!(work.give_back(&lost).is_empty());
        let others = work.take(size, true);
        assert!(others.len() == 4 && others.iter().all(|task| !lost.contains(task)));
        assert_eq!((work.next(false), work.take(size, false).len()), (Next::Later, 0));
        others.iter().for_each(|_| work.settled());
        assert_eq!((work.next(true), work.take(size, true)), (Next::Images(size), vec![lost[0]]));
        assert_eq!(work.give_back(&lost[..1]), [lost[0]]);
        assert_eq!(work.left(), lost[1..]);
    }

    #[test]
    fn what_is_given_up_is_not_taken() {
        let plan = of(3);
        let work = Work::new(&plan, 2);
        let Next::Images(size) = work.next(true) else { panic!("there is work") };
        work.close();
        assert_eq!((work.next(true), work.take(size, true).len(), work.left().len()), (Next::Nothing, 0, 3));
    }
}
