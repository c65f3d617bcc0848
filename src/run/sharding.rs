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

/// Where a worker's number comes from, in the order of preference.
const INDEX: [&str; 5] =
    ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "SLURM_PROCID", "RANK"];
/// Where the number of workers comes from. Slurm's SLURM_ARRAY_TASK_COUNT is not among them: when some tasks of an array are
/// submitted again it counts only these.
const COUNT: [&str; 4] = ["NIGHTSHIFT_NUM_SHARDS", "AWS_BATCH_JOB_ARRAY_SIZE", "SLURM_NTASKS", "WORLD_SIZE"];

impl Share {
    /// Returns the share that the environment gives this process: Slurm (array or task), Kubernetes (indexed job), AWS Batch
    /// (array), torchrun. `look_up` returns the value of a variable.
    ///
    /// # Errors
    /// A sentence that says which variable is missing or wrong, and what to do.
    pub fn from_environment(look_up: impl Fn(&str) -> Option<String>) -> Result<Share, String> {
        let find = |names: &[&'static str]| {
            let mut found = names.iter().filter_map(|name| Some((*name, look_up(name)?)));
            found.find(|(_, value)| !value.trim().is_empty())
        };
        let number = |(name, value): &(&str, String)| {
            value.trim().parse::<u32>().map_err(|_| format!("{name} is `{value}`, not a number"))
        };
        let index = find(&INDEX).ok_or_else(|| format!("none of {} is set: give --shard K/N", INDEX.join(", ")))?;
        // Both of one task list where the number is one's place in it.
        let counts = if index.0 == "SLURM_ARRAY_TASK_ID" { &COUNT[..1] } else { &COUNT[..] };
        let count = find(counts).ok_or_else(|| {
            format!(
                "{} gives this worker's number, but nothing says how many there are: set NIGHTSHIFT_NUM_SHARDS",
                index.0
            )
        })?;
        let share = Share { index: number(&index)?, count: number(&count)? };
        if share.index < share.count {
            return Ok(share);
        }
        Err(format!(
            "{} is {}, and {} says {} workers: numbers go from 0 to {}",
            index.0,
            share.index,
            count.0,
            share.count,
            share.count.saturating_sub(1)
        ))
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected K/N with K from 0 to N-1, such as `0/4`, or `auto`".to_string();
        if text == "auto" {
            return Share::from_environment(|name| std::env::var(name).ok());
        }
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

    #[test]
    fn the_environment_of_a_cluster_gives_the_share() {
        let share = |variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_string());
            Share::from_environment(find).map(|share| (share.index, share.count))
        };
        let array = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "2"), ("SLURM_NTASKS", "1")];
        assert!(share(&array).is_err_and(|error| error.contains("NIGHTSHIFT_NUM_SHARDS")));
        assert_eq!(share(&[array[0], array[1], ("NIGHTSHIFT_NUM_SHARDS", "8")]), Ok((3, 8)));
        assert_eq!(share(&[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")]), Ok((1, 4)));
        assert_eq!(share(&[("JOB_COMPLETION_INDEX", "0"), ("NIGHTSHIFT_NUM_SHARDS", "2")]), Ok((0, 2)));
        assert_eq!(share(&[("AWS_BATCH_JOB_ARRAY_INDEX", "9"), ("AWS_BATCH_JOB_ARRAY_SIZE", "10")]), Ok((9, 10)));
        assert_eq!(share(&[("RANK", "2"), ("WORLD_SIZE", "3")]), Ok((2, 3)));
        assert!(share(&[("RANK", "3"), ("WORLD_SIZE", "3")]).is_err_and(|error| error.contains("from 0 to 2")));
        assert!(share(&[("RANK", "x"), ("WORLD_SIZE", "3")]).is_err());
        assert!(share(&[]).is_err());
    }
}
