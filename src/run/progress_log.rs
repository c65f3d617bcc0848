//! `OUT/.nightshift/progress/WORKER.csv`: how far a worker was when, a line every few seconds; for the report's charts. Like the
//! status it is worth little after a crash: nothing is synced, and what cannot be written never ends a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::progress::Tally;
use crate::output::RunFolder;
use crate::output::run_folder::STATE_FOLDER;
use crate::output::status::since_1970;

/// A moment of a worker. The numbers count from the start of its process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Seconds since 1970, in UTC.
    pub time: f64,
    /// Images made.
    pub done: u64,
    /// Images that failed.
    pub failed: u64,
    /// Lanes that the UNet's calls used.
    pub lanes_used: u64,
    /// Lanes that they could have used.
    pub lanes_offered: u64,
}

/// Adds the moment at hand; `is_first` begins a new start of the worker.
pub fn append(folder: &RunFolder, tally: &Tally, is_first: bool) {
    let time = since_1970().as_secs_f64();
    let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let line = format!(
        "{}{time:.1},{},{},{},{}\n",
        if is_first { "start\n" } else { "" },
        count(&tally.done),
        count(&tally.failed),
        tally.lanes_used(),
        tally.lanes_offered()
    );
    let path = path(folder.path(), folder.worker());
    let made = path.parent().map_or(Ok(()), |parent| folder.durable().make_folder(parent));
    if made.is_ok() {
        let written = folder.durable().disk().append(&path).and_then(|mut file| file.write_all(line.as_bytes()));
        // The charts miss a moment then.
        drop(written);
    }
}

fn path(out: &Path, worker: &str) -> PathBuf {
    out.join(STATE_FOLDER).join("progress").join(format!("{worker}.csv"))
}

/// Returns the moments of every start of every worker in `out`; lines that are not whole are left out.
pub fn read(out: &Path) -> Vec<Vec<Moment>> {
    let Ok(entries) = fs::read_dir(out.join(STATE_FOLDER).join("progress")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let texts = paths.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| starts(&text)).collect()
}

fn starts(text: &str) -> Vec<Vec<Moment>> {
    let starts = text.split("start\n").map(|part| part.split_inclusive('\n').filter_map(moment).collect::<Vec<_>>());
    starts.filter(|moments| moments.len() > 1).collect()
}

fn moment(line: &str) -> Option<Moment> {
    let mut cells = line.strip_suffix('\n')?.split(',');
    let time = cells.next()?.parse().ok()?;
    let mut number = || cells.next()?.parse().ok();
    Some(Moment { time, done: number()?, failed: number()?, lanes_used: number()?, lanes_offered: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_not_whole_are_left_out() {
        let text = "start\n1.0,0,0,0,0\n2.0,3,1,30,40\nstart\n9.0,0,0,0,0\nx,1\n10.0,1,0,5,5\n11.0,2,0,9";
        let starts = starts(text);
        assert_eq!(starts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        let second = Moment { time: 2.0, done: 3, failed: 1, lanes_used: 30, lanes_offered: 40 };
        assert_eq!(starts[0][1], second);
    }
}
