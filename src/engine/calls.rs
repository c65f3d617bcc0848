//! Calls that fail: smaller ones are made until each entry has its result or has failed by itself.

use super::limit::CallLimit;
use crate::error::{Error, ErrorKind, Result};

/// Code of the error of a call that is larger than the memory at hand.
pub(super) const OUT_OF_MEMORY: &str = "out_of_memory";

/// Makes calls of a network for several entries.
pub(super) trait Calls {
    /// One entry of a call.
    type Entry;

    /// Makes one call and hands out its results.
    fn call(&mut self, entries: &[Self::Entry]) -> Result<()>;

    /// Gives up an entry that fails even alone.
    fn give_up(&mut self, entry: Self::Entry, error: Error);

    /// Returns whether the result of an entry is still of use.
    fn is_wanted(&self, entry: &Self::Entry) -> bool;
}

/// Makes one call for all `entries`. Where there is not enough memory, the same entries are tried again in smaller calls,
/// and `limit` is lowered to what fits; where a call fails for another reason, they are tried one by one. An entry that
/// fails alone costs its neighbours nothing: one that runs out of memory by itself does not lower the limit either.
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
    let (all, mut left, mut made) = (entries.len(), entries, 0);
    let (mut size, mut too_many, mut culprit) = (all, None, false);
    while !left.is_empty() {
        let now = size.min(left.len());
        made += 1;
        match calls.call(&left[..now]) {
            Ok(()) => {
                limit.worked(now);
                left.drain(..now);
            }
            Err(error) if error.kind() == ErrorKind::GpuLost => return Err(error),
            Err(error) if now > 1 && error.code() == OUT_OF_MEMORY => {
                (too_many, size) = (Some(now), limit.smaller(now));
            }
            Err(_) if now > 1 => size = 1,
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
        huge: Vec<u32>,
        broken: Vec<u32>,
        called: Vec<usize>,
        done: Vec<u32>,
        failed: Vec<(u32, &'static str)>,
    }

    impl Calls for Double {
        type Entry = u32;

        fn call(&mut self, entries: &[u32]) -> Result<()> {
            self.called.push(entries.len());
            let any = |set: &[u32]| entries.iter().any(|entry| set.contains(entry));
            let fail = |code| Err(Error::new(ErrorKind::Unexpected, code, "a double"));
            match entries.len() {
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
        let (huge, broken) = (huge.to_vec(), broken.to_vec());
        let mut double = Double { most, huge, broken, called: Vec::new(), done: Vec::new(), failed: Vec::new() };
        let mut limit = CallLimit::new(entries.len());
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
    fn what_belongs_to_an_entry_that_failed_is_not_tried() {
        let (double, _) = run(vec![100, 101, 1], 3, &[], &[100]);
        assert_eq!((double.called, double.done), (vec![3, 1, 1], vec![1]));
    }
}
