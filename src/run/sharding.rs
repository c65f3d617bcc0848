//! Which shards are a worker's: those of its number, and those that others left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::error::Result;
use crate::journal::Lease;
use crate::output::RunFolder;

/// One of several workers on one output folder: number K of N, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// This worker's number.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

impl Share {
    /// The only worker.
    pub const WHOLE: Share = Share { index: 0, count: 1 };

    /// Returns the worker's name.
    pub fn worker(self) -> String {
        format!("worker-{}-of-{}", self.index, self.count)
    }

    /// Returns whether a shard is this worker's by number.
    pub fn owns(self, shard: u32) -> bool {
        shard % self.count == self.index
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected K/N with K from 0 to N-1, such as `0/4`, or `auto`".to_string();
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let share = Share { index: index.parse().map_err(|_| wrong())?, count: count.parse().map_err(|_| wrong())? };
        if share.index < share.count { Ok(share) } else { Err(wrong()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The shards that this worker holds, and those that it has seen held by others.
#[derive(Debug, Default)]
pub struct Claims {
    held: BTreeMap<u32, Lease>,
    busy: BTreeSet<u32>,
}

impl Claims {
    /// Claims a shard; returns whether it is ours now.
    ///
    /// # Errors
    /// Storage fails.
    pub fn take(&mut self, folder: &RunFolder, shard: u32) -> Result<bool> {
        if self.held.contains_key(&shard) {
            return Ok(true);
        }
        match folder.claim(shard)? {
            Some(lease) => {
                self.held.insert(shard, lease);
                self.busy.remove(&shard);
                Ok(true)
            }
            None => {
                self.busy.insert(shard);
                Ok(false)
            }
        }
    }

    /// Gives a shard back.
    pub fn release(&mut self, shard: u32) {
        self.held.remove(&shard);
    }

    /// Returns the shards that are ours, in order.
    pub fn held(&self) -> Vec<u32> {
        self.held.keys().copied().collect()
    }

    /// Returns whether a shard was found to be another's.
    pub fn is_busy(&self, shard: u32) -> bool {
        self.busy.contains(&shard)
    }

    /// Forgets which shards were others': they may be free by now.
    pub fn look_again(&mut self) {
        self.busy.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_from_zero() {
        let share: Share = "1/3".parse().expect("a share");
        assert_eq!((0..6).filter(|shard| share.owns(*shard)).collect::<Vec<_>>(), [1, 4]);
        assert_eq!((share.to_string(), share.worker()), ("1/3".to_string(), "worker-1-of-3".to_string()));
        for wrong in ["3/3", "1", "a/2", "-1/2", "0/0"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
