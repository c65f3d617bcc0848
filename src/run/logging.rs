//! The log on standard error, drawn around the progress bars.

use std::io::{self, Write};

use clap::ValueEnum;
use indicatif::MultiProgress;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One plain line a message.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error, and returns the bars that the log takes care not to run into.
pub fn init(format: LogFormat) -> MultiProgress {
    let bars = MultiProgress::new();
    let writer = AroundBars(bars.clone());
    // Only our own messages: libraries log for their developers.
    let ours = Targets::new().with_target("nightshift", LevelFilter::INFO);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.without_time().with_target(false).compact().boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_target(false).boxed(),
    };
    // A second call in one process (tests) keeps the first log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(ours)).try_init();
    bars
}

#[derive(Clone)]
struct AroundBars(MultiProgress);

impl Write for AroundBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A closed or full standard error never ends a run.
        self.0.suspend(|| {
            let _ = io::stderr().write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AroundBars {
    type Writer = AroundBars;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}
