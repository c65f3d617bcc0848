//! Events of a run, one JSON object a line, for a program that follows it. The last one is the summary, or the error.
//!
//! Lines are written on a thread of their own, so that a reader who is slow never keeps a picture waiting: what it has no room for is
//! left out, and told as `missed`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use super::progress::{self, Tally};
use super::summary::Summary;
use crate::error::Error;
use crate::job::ImageTask;
use crate::output::status::since_1970;
use crate::score::ClipScore;

/// Lines that may wait for the reader.
const WAITING: usize = 100_000;

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// It is known what is to be made; nothing is made yet.
    Started(Started<'a>),
    /// An image is on disk and in the journal, or cannot be made.
    Image(ImageEvent<'a>),
    /// How far the run is: every five seconds.
    Progress(Progress),
    /// So many events were left out, since nobody read them.
    Missed {
        /// How many.
        events: u64,
    },
    /// The run is over: the same object that `--json` prints.
    Finished(&'a Summary),
    /// The run as a whole has failed.
    Error(ErrorEvent<'a>),
}

/// What a run sets out to do.
#[derive(Debug, Serialize)]
pub struct Started<'a> {
    /// Version of nightshift.
    pub version: &'static str,
    /// The process.
    pub pid: u32,
    /// The machine.
    pub host: String,
    /// Output folder.
    pub out: &'a Path,
    /// Rows in the manifests.
    pub rows: u64,
    /// Rows that are bad to begin with.
    pub bad_rows: u64,
    /// Images of this worker.
    pub images: u64,
    /// Of which there already.
    pub skipped: u64,
    /// Images to make now, as far as can be known.
    pub planned: u64,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageStatus {
    /// It was made.
    Done,
    /// It equals another in all that changes pixels, and was copied.
    Copied,
    /// It cannot be made.
    Failed,
}

/// One image that is dealt with.
#[derive(Debug, Serialize)]
pub struct ImageEvent<'a> {
    /// Its name.
    pub key: String,
    /// What became of it.
    pub status: ImageStatus,
    /// Number of its row, from 0.
    pub row: u64,
    /// Its own seed, with which the picture was made.
    pub seed: u64,
    /// Its path relative to the output folder; in packed layouts the file is there once its shard is complete.
    pub file_name: Option<String>,
    /// Size of the picture's file.
    pub bytes: Option<u64>,
    /// Whether it looks like no picture.
    pub suspect: bool,
    /// How well it fits its prompt, where pictures are scored.
    pub clip_score: Option<ClipScore>,
    /// How many more pictures were made for it, where pictures are scored.
    pub retries: Option<u32>,
    /// Stable name of the error.
    pub error_code: Option<&'a str>,
    /// The error.
    pub error_message: Option<String>,
}

impl ImageEvent<'_> {
    /// Returns what is known of an image by its task alone.
    pub fn of(task: &ImageTask, status: ImageStatus) -> Self {
        ImageEvent {
            key: task.key(),
            status,
            row: task.job.row,
            seed: task.seed,
            file_name: None,
            bytes: None,
            suspect: false,
            clip_score: None,
            retries: None,
            error_code: None,
            error_message: None,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    /// Images to make in this run.
    pub planned: u64,
    /// Of which on disk.
    pub done: u64,
    /// Of which failed.
    pub failed: u64,
    /// Images a second since the networks were asked for.
    pub rate: f64,
    /// Seconds to go, once it is known.
    pub eta: Option<f64>,
    /// Share of the lanes that were used, 0 to 1.
    pub lane_occupancy: f64,
}

impl Progress {
    /// Returns how far the run is that began its work at `since`.
    pub fn of(tally: &Tally, since: Instant) -> Progress {
        Progress {
            planned: tally.planned,
            done: tally.done.load(Ordering::Relaxed),
            failed: tally.failed.load(Ordering::Relaxed),
            rate: progress::rate(tally, since),
            eta: progress::seconds_left(tally, since),
            lane_occupancy: tally.occupancy(),
        }
    }
}

/// An error that ended the run.
#[derive(Debug, Serialize)]
pub struct ErrorEvent<'a> {
    /// Its stable name.
    pub error_code: &'a str,
    /// Where, and what is wrong.
    pub error_message: String,
    /// How to fix it.
    pub hint: Option<&'a str>,
    /// What the process exits with.
    pub exit_code: u8,
}

impl<'a> From<&'a Error> for ErrorEvent<'a> {
    fn from(error: &'a Error) -> Self {
        let (error_code, error_message) = (error.code(), error.to_string());
        ErrorEvent { error_code, error_message, hint: error.how_to_fix(), exit_code: error.kind().exit_code() }
    }
}

/// A line: the event, and when it happened.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event<'a>,
    /// Seconds since 1970, in UTC.
    time: f64,
}

/// Where events go; nowhere by default. Clones go to the same place.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<Stream>>);

struct Stream {
    lines: Sender<Message>,
    missed: AtomicU64,
}

enum Message {
    Line(String),
    /// To be answered when all before it is written.
    Written(Sender<()>),
}

impl Events {
    /// Writes events to `reader`, where one that has gone away changes nothing.
    pub fn to(reader: impl Write + Send + 'static) -> Events {
        let (lines, received) = bounded(WAITING);
        thread::spawn(move || write_lines(reader, &received));
        Events(Some(Arc::new(Stream { lines, missed: AtomicU64::new(0) })))
    }

    /// Returns whether anybody wants to know.
    pub fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Tells an event, if there is room for it.
    pub fn tell(&self, event: &Event<'_>) {
        let Some(stream) = &self.0 else { return };
        if stream.lines.try_send(Message::Line(line(event))).is_err() {
            stream.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the last event, and waits until all are written.
    pub fn finish(&self, event: &Event<'_>) {
        let Some(stream) = &self.0 else { return };
        let missed = stream.missed.swap(0, Ordering::Relaxed);
        let missed = (missed > 0).then(|| line(&Event::Missed { events: missed }));
        let (written, answer) = bounded(1);
        let lines = missed.into_iter().chain([line(event)]).map(Message::Line);
        // Neither fails: the thread goes on for as long as there is a sender.
        lines.chain([Message::Written(written)]).for_each(|message| drop(stream.lines.send(message)));
        let _ = answer.recv();
    }
}

fn line(event: &Event<'_>) -> String {
    let time = (since_1970().as_secs_f64() * 1000.0).round() / 1000.0;
    serde_json::to_string(&Line { event, time }).expect("strings and numbers are valid JSON") + "\n"
}

fn write_lines(mut reader: impl Write, received: &Receiver<Message>) {
    for message in received {
        match message {
            Message::Line(line) => drop(reader.write_all(line.as_bytes())),
            Message::Written(answer) => {
                let _ = reader.flush();
                let _ = answer.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn events_are_lines_and_the_last_one_is_the_summary() {
        let reader = Shared::default();
        let events = Events::to(reader.clone());
        events.tell(&Event::Missed { events: 3 });
        events.finish(&Event::Finished(&Summary { images: 7, ..Summary::default() }));
        let text = String::from_utf8(reader.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["event"], &lines[0]["events"]), (&"missed".into(), &3.into()));
        assert_eq!((&lines[1]["event"], &lines[1]["images"]), (&"finished".into(), &7.into()));
        assert!(lines[1]["time"].as_f64().unwrap() > 1.6e9);
    }

    /// A reader who does not read until it is let.
    struct Slow(Receiver<()>, Shared);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_keeps_nobody_waiting_and_is_told_what_it_missed() {
        let (go, wait) = bounded(0);
        let reader = Shared::default();
        let events = Events::to(Slow(wait, reader.clone()));
        (0..WAITING + 10).for_each(|events_so_far| events.tell(&Event::Missed { events: events_so_far as u64 }));
        drop(go);
        events.finish(&Event::Finished(&Summary::default()));
        let text = String::from_utf8(reader.0.lock().unwrap().clone()).unwrap();
        let last: Vec<serde_json::Value> =
            text.lines().rev().take(2).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(last[0]["event"], "finished");
        // The thread may have taken one line before it had to wait.
        assert!([9, 10].contains(&last[1]["events"].as_u64().unwrap()), "{}", last[1]);
    }

    #[test]
    fn nobody_is_told_nothing() {
        let events = Events::default();
        events.tell(&Event::Missed { events: 1 });
        events.finish(&Event::Finished(&Summary::default()));
        assert!(!events.are_wanted());
    }
}
