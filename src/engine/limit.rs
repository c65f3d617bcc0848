//! How many entries a call of a network may have before memory runs out, found by halving, and later from below.

use serde::{Deserialize, Serialize};

/// Calls that must work at a limit before a larger one is tried.
const CALM: u32 = 64;

/// What is known of the largest call that fits into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLimit {
    /// Entries that the next call may have.
    now: usize,
    /// Entries that are known to be too many.
    fails: usize,
    /// Entries that are known to fit.
    #[serde(default)]
    fits: usize,
    /// Calls at the limit since it was last changed.
    #[serde(skip)]
    calm: u32,
}

impl CallLimit {
    /// Returns the limit of someone who asks for `asked` entries (at least one) and has seen nothing fail.
    pub fn new(asked: usize) -> Self {
        let now = asked.max(1);
        CallLimit { now, fails: now + 1, fits: 0, calm: 0 }
    }

    /// Returns how many entries the next call may have.
    pub fn now(&self) -> usize {
        self.now
    }

    /// Returns the entries to try after a call of `entries` did not fit: the limit, halved until it is less, or what is
    /// known to fit.
    pub(super) fn smaller(&self, entries: usize) -> usize {
        let mut half = self.now;
        while half >= entries.max(2) {
            half /= 2;
        }
        if self.fits < entries { half.max(self.fits) } else { half }
    }

    /// Notes that a call of `entries` worked. After a while at a lowered limit, the next one is half-way to what failed.
    pub(super) fn worked(&mut self, entries: usize) {
        self.fits = self.fits.max(entries);
        if entries < self.now {
            return;
        }
        self.calm += 1;
        if self.calm >= CALM && self.fails - self.now > 1 {
            *self = CallLimit { now: self.now.midpoint(self.fails), calm: 0, ..*self };
        }
    }

    /// Notes that calls of `fails` entries do not fit and those of `fits` do.
    pub(super) fn lower(&mut self, fits: usize, fails: usize) {
        *self = CallLimit { now: fits, fits, fails: fails.max(fits + 1), calm: 0 };
    }

    /// Returns whether it makes sense as a limit of someone who asks for `asked`: it may come from a file.
    pub(super) fn suits(&self, asked: usize) -> bool {
        1 <= self.now && self.now < self.fails && self.fails <= asked.max(1) + 1 && self.fits <= self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes calls as large as the limit allows where `most` fit; returns the calls that failed.
    fn find(most: usize, asked: usize, calls: usize) -> (CallLimit, Vec<usize>) {
        let (mut limit, mut failed) = (CallLimit::new(asked), Vec::new());
        for _ in 0..calls {
            let (first, mut size) = (limit.now(), limit.now());
            while size > most {
                failed.push(size);
                size = limit.smaller(size);
            }
            if size < first {
                limit.lower(size, *failed.last().expect("one failed"));
            }
            limit.worked(size);
        }
        (limit, failed)
    }

    #[test]
    fn sixteen_goes_to_four_in_two_failures_and_stays() {
        let (limit, failed) = find(4, 16, 10);
        assert_eq!((limit.now(), failed), (4, vec![16, 8]));
    }

    #[test]
    fn the_largest_that_fits_is_found_from_below() {
        for most in 1..=32 {
            let (limit, failed) = find(most, 32, 20 * CALM as usize);
            assert_eq!(limit.now(), most);
            assert!(failed.len() <= 10, "{most}: {failed:?}");
            assert!(limit.suits(32));
        }
    }

    #[test]
    fn who_sees_nothing_fail_keeps_what_was_asked_for() {
        assert_eq!(find(99, 7, 1000).0.now(), 7);
        assert_eq!(CallLimit::new(0).now(), 1);
    }

    #[test]
    fn nonsense_of_a_file_is_not_taken() {
        let limit = |now, fails, fits| CallLimit { now, fails, fits, calm: 0 };
        assert!(limit(4, 8, 4).suits(16) && !limit(4, 8, 4).suits(4));
        assert!(!limit(0, 8, 0).suits(16) && !limit(8, 8, 4).suits(16) && !limit(4, 8, 9).suits(16));
    }
}
