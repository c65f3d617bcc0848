//! The writing thread: pictures → files → journal, in groups, in the order that a crash cannot spoil.
//!
//! A group is encoded, its files made durable, and only then its records written and synced: a row that the journal
//! calls done has its picture on disk, whatever happens in between.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rayon::prelude::*;

use super::catalogue::{Catalogue, Failure, Made};
use super::events::{Event, Events, ImageEvent, ImageStatus};
use super::first_metadata::FirstMetadata;
use super::progress::Tally;
use crate::engine::{Generated, Outcome};
use crate::error::{Error, Result};
use crate::job::ImageTask;
use crate::journal::{Digest, Failed, Journal, Record};
use crate::output::metadata::MetadataRow;
use crate::output::spool::Spool;
use crate::output::{ImageFormat, Parameters, Provenance, RunFolder, WholeFile, picture};
use crate::scheduler::a1111_name;
use crate::score::Scored;

/// Most pictures in a group.
const GROUP: usize = 512;
/// How long a finished picture waits for company. One group costs two or three disk syncs, however large it is.
const PATIENCE: Duration = Duration::from_millis(250);

/// What the writing thread needs.
pub struct Writer<'a> {
    /// Where pictures go.
    pub folder: &'a RunFolder,
    /// What is written into each picture beside its own row.
    pub provenance: &'a Provenance,
    /// How pictures are encoded.
    pub format: ImageFormat,
    /// What comes beside the first pictures.
    pub first_metadata: &'a FirstMetadata<'a>,
    /// What is done.
    pub journal: &'a Mutex<Journal>,
    /// Every image of the run and what became of it.
    pub catalogue: &'a mut Catalogue,
    /// Where pictures wait for their shards, in layouts whose files hold many.
    pub spool: Option<&'a mut Spool>,
    /// Images that are copies of others, by the others' ordinals.
    pub copies: &'a HashMap<u64, Vec<ImageTask>>,
    /// Counts for those who watch.
    pub tally: &'a Tally,
    /// Who wants to know of each image.
    pub events: &'a Events,
}

struct Encoded {
    task: ImageTask,
    bytes: Vec<u8>,
    suspect: bool,
    scored: Option<Scored>,
}

impl Writer<'_> {
    /// Writes what comes in until the channel closes; returns the seconds spent encoding and writing.
    ///
    /// # Errors
    /// Storage fails. Pictures of the group in hand are lost and will be made again.
    pub fn write_all(&mut self, outcomes: &Receiver<Outcome>) -> Result<f64> {
        let mut busy = 0.0;
        while let Ok(first) = outcomes.recv() {
            let group = gather(first, outcomes);
            let started = Instant::now();
            let (group, copied) = self.with_copies(group);
            self.write_group(group, &copied)?;
            busy += started.elapsed().as_secs_f64();
        }
        Ok(busy)
    }

    /// Returns `outcomes`, and the same for the copies of their images; and the ordinals of the copies.
    fn with_copies(&self, outcomes: Vec<Outcome>) -> (Vec<Outcome>, HashSet<u64>) {
        let copies = |outcome: &Outcome| -> Vec<Outcome> {
            let Some(tasks) = self.copies.get(&outcome.task().ordinal) else { return Vec::new() };
            tasks.iter().map(|task| outcome.for_task(task.clone())).collect()
        };
        let copied: Vec<Outcome> = outcomes.iter().flat_map(copies).collect();
        self.tally.copied.fetch_add(copied.len() as u64, Ordering::Relaxed);
        let ordinals = copied.iter().map(|outcome| outcome.task().ordinal).collect();
        (outcomes.into_iter().chain(copied).collect(), ordinals)
    }

    fn write_group(&mut self, group: Vec<Outcome>, copied: &HashSet<u64>) -> Result<()> {
        let (mut pictures, mut failures) = (Vec::new(), Vec::new());
        for outcome in group {
            match outcome {
                Outcome::Done(generated) => {
                    if generated.is_suspect() {
                        tracing::warn!("{}: the picture is all of one colour; it is kept", generated.task.key());
                    }
                    warn_of_low_score(&generated);
                    pictures.push(generated);
                }
                Outcome::Failed(task, error) => failures.push((task, error)),
            }
        }
        let encoded = self.encode(pictures)?;
        self.folder.check()?;
        let made = self.write_pictures(&encoded)?;
        self.write_records(&encoded, &made, &failures)?;
        self.tally.made(made.len() as u64, made.iter().map(|made| made.bytes).sum());
        failures.iter().for_each(|(_, error)| self.tally.failed_by(error.code()));
        self.tell(&encoded, &failures, copied);
        for (picture, made) in encoded.iter().zip(made) {
            self.catalogue.done(&picture.task, made);
        }
        for (task, error) in failures {
            tracing::warn!("{}: {error}", task.key());
            self.catalogue.failed(&task, Failure { code: error.code().to_string(), message: error.to_string() });
        }
        Ok(())
    }

    /// Tells of each image what became of it, once that is certain.
    fn tell(&self, encoded: &[Encoded], failures: &[(ImageTask, Error)], copied: &HashSet<u64>) {
        if !self.events.are_wanted() {
            return;
        }
        for Encoded { task, bytes, suspect, scored } in encoded {
            let status = if copied.contains(&task.ordinal) { ImageStatus::Copied } else { ImageStatus::Done };
            let file_name = Some(self.catalogue.path(self.catalogue.image(task)));
            let (bytes, suspect) = (Some(bytes.len() as u64), *suspect);
            let (clip_score, retries) = (scored.map(|scored| scored.clip_score), scored.map(|scored| scored.retries));
            let done = ImageEvent::of(task, status);
            self.events.tell(&Event::Image(ImageEvent { file_name, bytes, suspect, clip_score, retries, ..done }));
        }
        for (task, error) in failures {
            let (error_code, error_message) = (Some(error.code()), Some(error.to_string()));
            let failed = ImageEvent::of(task, ImageStatus::Failed);
            self.events.tell(&Event::Image(ImageEvent { error_code, error_message, ..failed }));
        }
    }

    fn encode(&self, pictures: Vec<Generated>) -> Result<Vec<Encoded>> {
        // Not all of `self` can be shared among threads.
        let (provenance, format) = (self.provenance, self.format);
        pictures
            .into_par_iter()
            .map(|generated| {
                let suspect = generated.is_suspect();
                let Generated { task, image, scored, .. } = generated;
                let parameters = Parameters::new(&task, provenance, a1111_name(&task.job.scheduler));
                let parameters = Parameters { suspect, ..parameters }.with_score(scored);
                Ok(Encoded { bytes: picture::encode(&image, &parameters, format)?, task, suspect, scored })
            })
            .collect()
    }

    /// Makes the pictures durable, each in its own file or all in the spool.
    fn write_pictures(&mut self, encoded: &[Encoded]) -> Result<Vec<Made>> {
        let made = |picture: &Encoded, spool| Made {
            bytes: picture.bytes.len() as u64,
            blake3: Digest(*blake3::hash(&picture.bytes).as_bytes()),
            suspect: picture.suspect,
            scored: picture.scored,
            spool,
        };
        if let Some(spool) = &mut self.spool {
            let bytes: Vec<&[u8]> = encoded.iter().map(|picture| &picture.bytes[..]).collect();
            let offsets = spool.append(&bytes)?;
            spool.sync()?;
            let places = offsets.into_iter().map(|offset| Some((spool.name().clone(), offset)));
            return Ok(encoded.iter().zip(places).map(|(picture, place)| made(picture, place)).collect());
        }
        let made: Vec<Made> = encoded.iter().map(|picture| made(picture, None)).collect();
        let rows: Vec<MetadataRow> =
            encoded.iter().zip(&made).map(|(picture, made)| self.catalogue.row(&picture.task, made)).collect();
        // The very first picture comes alone with its metadata, so that the others are never to be seen without any.
        let is_first = !rows.is_empty() && self.first_metadata.is_missing();
        for count in is_first.then_some(1).into_iter().chain([rows.len()]) {
            let rows = &rows[..count];
            let metadata = if is_first { self.first_metadata.beside(rows, self.catalogue)? } else { Vec::new() };
            let pictures = encoded.iter().zip(rows).map(|(picture, row)| (&row.file_name, &picture.bytes[..]));
            // Metadata last: it names no picture that is not there.
            let files = pictures.chain(metadata.iter().map(|(path, bytes)| (path, &bytes[..])));
            let file = |(path, bytes): (&String, _)| WholeFile { path: self.folder.path().join(path), bytes };
            self.folder.durable().commit(&files.map(file).collect::<Vec<_>>())?;
        }
        Ok(made)
    }

    fn write_records(&self, encoded: &[Encoded], made: &[Made], failures: &[(ImageTask, Error)]) -> Result<()> {
        let done =
            encoded.iter().zip(made).map(|(picture, made)| Record::Done(self.catalogue.record(&picture.task, made)));
        let failed = failures.iter().map(|(task, error)| {
            let (code, message) = (error.code().to_string(), error.to_string());
            Record::Failed(Failed { key: task.key(), row_hash: Digest(task.row_hash()), code, message })
        });
        let records: Vec<Record> = done.chain(failed).collect();
        // A panic elsewhere leaves the journal as it is after a whole record.
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(&records)?;
        journal.sync()
    }
}

fn warn_of_low_score(generated: &Generated) {
    let Some(Scored { clip_score, retries, is_low: true }) = generated.scored else { return };
    let key = generated.task.key();
    tracing::warn!("{key}: clip_score {clip_score} is the best of {} pictures; it is kept", retries + 1);
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
