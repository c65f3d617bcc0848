//! The writing thread: pictures → files → journal, in groups, in the order that a crash cannot spoil.
//!
//! A group is encoded, its files made durable, and only then its records written and synced: a row that the journal
//! calls done has its picture on disk, whatever happens in between.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rayon::prelude::*;

use super::ledger::{Ledger, row_hash};
use super::progress::Tally;
use crate::engine::{Generated, Outcome};
use crate::error::{Error, Result};
use crate::job::ImageTask;
use crate::journal::{Digest, Done, Failed, Journal, Record};
use crate::output::{Parameters, Provenance, RunFolder, WholeFile, png};
use crate::scheduler::a1111_name;

/// Most pictures in a group.
const GROUP: usize = 256;
/// How long a finished picture waits for company. One group costs two or three disk syncs, however large it is.
const PATIENCE: Duration = Duration::from_millis(250);

/// What the writing thread needs.
pub struct Writer<'a, 'l> {
    /// Where pictures go.
    pub folder: &'a RunFolder,
    /// What is written into each picture beside its own row.
    pub provenance: &'a Provenance,
    /// What is done.
    pub journal: &'a mut Journal,
    /// Every image of the run and what became of it.
    pub ledger: &'a mut Ledger<'l>,
    /// Counts for those who watch.
    pub tally: &'a Tally,
}

impl Writer<'_, '_> {
    /// Writes what comes in until the channel closes; returns the seconds spent encoding and writing.
    ///
    /// # Errors
    /// Storage fails. Pictures of the group in hand are lost and will be made again.
    pub fn write_all(&mut self, outcomes: &Receiver<Outcome>) -> Result<f64> {
        let mut busy = 0.0;
        while let Ok(first) = outcomes.recv() {
            let group = gather(first, outcomes);
            let started = Instant::now();
            self.write_group(group)?;
            busy += started.elapsed().as_secs_f64();
        }
        Ok(busy)
    }

    fn write_group(&mut self, group: Vec<Outcome>) -> Result<()> {
        let (mut pictures, mut failures) = (Vec::new(), Vec::new());
        for outcome in group {
            match outcome {
                Outcome::Done(generated) => {
                    if generated.is_suspect() {
                        tracing::warn!("{}: the picture is all of one colour; it is kept", generated.task.key);
                    }
                    pictures.push(generated);
                }
                Outcome::Failed(task, error) => failures.push((task, error)),
            }
        }
        let written = self.write_pictures(pictures)?;
        self.write_records(&written, &failures)?;
        self.tally.done.fetch_add(written.len() as u64, Ordering::Relaxed);
        self.tally.failed.fetch_add(failures.len() as u64, Ordering::Relaxed);
        for (task, done) in written {
            self.ledger.done(&task, &done);
        }
        for (task, error) in failures {
            tracing::warn!("{}: {error}", task.key);
            self.ledger.failed(&task, error);
        }
        self.ledger.write_complete_folders()
    }

    fn write_pictures(&self, pictures: Vec<Generated>) -> Result<Vec<(ImageTask, Done)>> {
        let encoded: Vec<(ImageTask, Vec<u8>)> = pictures
            .into_par_iter()
            .map(|Generated { task, image, .. }| {
                let parameters = Parameters::new(&task, self.provenance, a1111_name(&task.job.scheduler));
                png::encode(&image, &parameters).map(|bytes| (task, bytes))
            })
            .collect::<Result<_>>()?;
        let path = |task: &ImageTask| self.folder.path().join(self.ledger.file_name(task));
        let files: Vec<_> = encoded.iter().map(|(task, bytes)| WholeFile { path: path(task), bytes }).collect();
        self.folder.durable().commit(&files)?;
        Ok(encoded.into_iter().map(|(task, bytes)| self.record(task, &bytes)).collect())
    }

    fn record(&self, task: ImageTask, bytes: &[u8]) -> (ImageTask, Done) {
        let done = Done {
            key: task.key.clone(),
            row_hash: row_hash(&task),
            file_name: self.ledger.file_name(&task).to_string(),
            bytes: bytes.len() as u64,
            blake3: Digest(*blake3::hash(bytes).as_bytes()),
            seed: task.seed,
        };
        (task, done)
    }

    fn write_records(&mut self, written: &[(ImageTask, Done)], failures: &[(ImageTask, Error)]) -> Result<()> {
        let done = written.iter().map(|(_, done)| Record::Done(done.clone()));
        let failed = failures.iter().map(|(task, error)| {
            let (code, message) = (error.code().to_string(), error.to_string());
            Record::Failed(Failed { key: task.key.clone(), row_hash: row_hash(task), code, message })
        });
        let records: Vec<Record> = done.chain(failed).collect();
        self.journal.append(&records)?;
        self.journal.sync()
    }
}

/// Collects what arrives within `PATIENCE` of the first.
fn gather(first: Outcome, outcomes: &Receiver<Outcome>) -> Vec<Outcome> {
    let deadline = Instant::now() + PATIENCE;
    let mut group = vec![first];
    while group.len() < GROUP {
        match outcomes.recv_deadline(deadline) {
            Ok(outcome) => group.push(outcome),
            Err(_) => break,
        }
    }
    group
}
