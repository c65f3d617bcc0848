//! Calls that fail: smaller ones are made until each entry has its result or has failed by itself.

use super::limit::CallLimit;
use crate::error::{Error, ErrorKind, OUT_OF_MEMORY, Result};

/// Makes calls of a network for several entries.
pub(super) trait Calls {
    /// One entry of a call.
    type Entry;

    /// Makes one call of `size` entries, of which `entries` are the first and the rest fills up, and hands out its results.
    fn call(&mut self, entries: &[Self::Entry], size: usize) -> Result<()>;

    /// Returns whether all calls are to be of one size, filled up to what the limit says.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Gives up an entry that fails even alone.
    fn give_up(&mut self, entry: Self::Entry, error: Error);

    /// Returns whether the result of an entry is still of use.
    fn is_wanted(&self, entry: &Self::Entry) -> bool;
}

/// Makes one call for all `entries`. Where there is not enough memory, the same entries are tried again in smaller calls,
/// and `limit` is lowered to what fits; where a call fails for another reason, they are tried one by one. An entry that
/// fails alone costs its neighbours nothing: one that runs out of memory by itself does not lower the limit either.
///
/// Where calls are of one fixed size, that is the limit, which then only ever falls: it is the same size for every call of a
/// night, but for those before memory ran out.
///
/// Returns how many calls were made, those that failed included, and how many entries were too many, if any were.
///
/// # Errors
/// Kind `GpuLost`: the device is gone, and with it all that was asked of it. No entry is to blame.
pub(super) fn call_all<C: Calls>(
    calls: &mut C,
    entries: Vec<C::Entry>,
    limit: &mut CallLimit,
) -> Result<(u64, Option<usize>)> {
    let is_fixed = calls.is_fixed();
    let all = if is_fixed { limit.now() } else { entries.len() };
    // `most` entries share a call where one after the other is tried; `size` is what fits, as far as is known.
    let (mut left, mut made, mut most) = (entries, 0, usize::MAX);
    let (mut size, mut too_many, mut culprit) = (all, None, false);
    while !left.is_empty() {
        let now = size.min(most).min(left.len());
        let filled = if is_fixed { size } else { now };
        made += 1;
        match calls.call(&left[..now], filled) {
            Ok(()) => {
                if !is_fixed {
                    limit.worked(now);
                }
                left.drain(..now);
            }
            Err(error) if error.kind() == ErrorKind::GpuLost => return Err(error),
            Err(error) if filled > 1 && error.code() == OUT_OF_MEMORY => {
                (too_many, size) = (Some(filled), limit.smaller(filled));
            }
            Err(_) if now > 1 => most = 1,
            Err(error) => {
                culprit = true;
                if error.code() == OUT_OF_MEMORY {
                    size = all;
                }
                calls.give_up(left.remove(0), error);
                left.retain(|entry| calls.is_wanted(entry));
            }
        }
    }
    let too_many = too_many.filter(|_| !culprit);
    if let Some(too_many) = too_many {
        limit.lower(size, too_many);
    }
    Ok((made, too_many))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that takes `most` entries a call, and fails on some.
    struct Double {
        most: usize,
        fixed: bool,
        huge: Vec<u32>,
        broken: Vec<u32>,
        called: Vec<usize>,
        done: Vec<u32>,
        failed: Vec<(u32, &'static str)>,
    }

    impl Calls for Double {
        type Entry = u32;

        fn is_fixed(&self) -> bool {
            self.fixed
        }

        fn call(&mut self, entries: &[u32], size: usize) -> Result<()> {
            self.called.push(size);
            let any = |set: &[u32]| entries.iter().any(|entry| set.contains(entry));
            let fail = |code| Err(Error::new(ErrorKind::Unexpected, code, "a double"));
            match size {
                _ if any(&self.broken) => fail("graph_failed"),
                count if count > self.most || any(&self.huge) => fail(OUT_OF_MEMORY),
                _ => {
                    self.done.extend(entries);
                    Ok(())
                }
            }
        }

        fn give_up(&mut self, entry: u32, error: Error) {
            self.failed.push((entry, error.code()));
        }

        fn is_wanted(&self, entry: &u32) -> bool {
            self.failed.iter().all(|(failed, _)| failed / 100 != entry / 100 || *entry < 100)
        }
    }

    fn run(entries: Vec<u32>, most: usize, huge: &[u32], broken: &[u32]) -> (Double, CallLimit) {
        let limit = CallLimit::new(entries.len());
        run_within(limit, false, entries, most, (huge, broken))
    }

    fn run_within(
        mut limit: CallLimit,
        fixed: bool,
        entries: Vec<u32>,
        most: usize,
        (huge, broken): (&[u32], &[u32]),
    ) -> (Double, CallLimit) {
        let (huge, broken) = (huge.to_vec(), broken.to_vec());
        let mut double = Double { most, fixed, huge, broken, called: Vec::new(), done: Vec::new(), failed: Vec::new() };
        let (made, _) = call_all(&mut double, entries, &mut limit).expect("no device is lost");
        assert_eq!(made as usize, double.called.len());
        (double, limit)
    }

    #[test]
    fn too_large_a_call_is_halved_until_it_fits() {
        let (double, limit) = run((0..16).collect(), 4, &[], &[]);
        assert_eq!(double.called, [16, 8, 4, 4, 4, 4]);
        assert_eq!(double.done, (0..16).collect::<Vec<_>>());
        assert_eq!(limit.now(), 4);
    }

    #[test]
    fn an_entry_that_needs_too_much_by_itself_lowers_no_limit() {
        for huge in 0..16 {
            let (double, limit) = run((0..16).collect(), 16, &[huge], &[]);
            assert_eq!(double.failed, [(huge, OUT_OF_MEMORY)]);
            assert_eq!((double.done.len(), limit.now()), (15, 16));
            assert!(double.called.len() <= 10, "{:?}", double.called);
        }
    }

    #[test]
    fn other_failures_are_found_one_by_one() {
        let (double, limit) = run((0..4).collect(), 4, &[], &[2]);
        assert_eq!(double.called, [4, 1, 1, 1, 1]);
        assert_eq!((double.failed, limit.now()), (vec![(2, "graph_failed")], 4));
    }

    #[test]
    fn fixed_calls_are_filled_up_and_all_of_one_size() {
        let none: (&[u32], &[u32]) = (&[], &[]);
        let (double, limit) = run_within(CallLimit::new(8), true, (0..3).collect(), 8, none);
        assert_eq!((double.called, double.done.len(), limit), (vec![8], 3, CallLimit::new(8)));
        // Memory runs out: all entries, and every later call, in one smaller size.
        let (double, limit) = run_within(CallLimit::new(16), true, (0..10).collect(), 4, none);
        assert_eq!((double.called, double.done.len()), (vec![16, 8, 4, 4, 4], 10));
        let (double, after) = run_within(limit, true, (0..2).collect(), 4, none);
        assert_eq!((double.called, after.now()), (vec![4], 4));
        // One that fails is found in calls of the same size.
        let (double, _) = run_within(CallLimit::new(4), true, (0..3).collect(), 4, (&[], &[1]));
        assert_eq!((double.called, double.done, double.failed), (vec![4; 4], vec![0, 2], vec![(1, "graph_failed")]));
    }

    #[test]
    fn what_belongs_to_an_entry_that_failed_is_not_tried() {
        let (double, _) = run(vec![100, 101, 1], 3, &[], &[100]);
        assert_eq!((double.called, double.done), (vec![3, 1, 1], vec![1]));
    }
}
