//! `nightshift trace`: how one image comes to be, as a strip, an animation and a page.
//!
//! The row is written down first, as a manifest of one row: it is checked as any other, and `run` makes the same picture of it.

mod animation;
mod chart;
mod frames;
mod networks;
mod page;
mod strip;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::options::JobOptions;
use super::prepare::prepare;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{Device, Kernels};
use crate::output::durable::{Durable, WholeFile};
use crate::output::png;
use frames::Phase;

/// Options of `nightshift trace`.
#[derive(Debug)]
pub struct TraceOptions {
    /// The row: column and cell.
    pub row: Vec<(&'static str, String)>,
    /// Model, flags, noise; its manifests are filled in.
    pub job: JobOptions,
    /// Folder to write to.
    pub out: PathBuf,
    /// Most frames in a row of the strip.
    pub columns: usize,
    /// Where the networks run.
    pub device: Device,
    /// Whose kernels compute on a processor.
    pub kernels: Kernels,
    /// Threads for the networks; `None`: the processor's cores.
    pub threads: Option<usize>,
    /// ONNX Runtime's shared library.
    pub ort_lib: Option<PathBuf>,
}

/// What `nightshift trace` has made.
#[derive(Debug, Serialize)]
pub struct TraceReport {
    /// The page with a slider.
    pub page: PathBuf,
    /// The strip.
    pub strip: PathBuf,
    /// The animation.
    pub animation: PathBuf,
    /// The numbers of each frame, as JSON.
    pub numbers: PathBuf,
    /// The row as a manifest.
    pub manifest: PathBuf,
    /// The picture.
    pub picture: PathBuf,
    /// Evaluations of the network, each with one or more calls.
    pub evaluations: usize,
}

/// Makes one image and shows how.
///
/// # Errors
/// Whatever is wrong with row, model or device; a scheduler whose guesses are not known; storage.
pub fn trace(mut options: TraceOptions) -> Result<TraceReport> {
    let durable = Durable::default();
    durable.make_folder(&options.out)?;
    let path = |name: &str| options.out.join(name);
    let manifest = path("trace.csv");
    durable.commit(&[WholeFile { path: manifest.clone(), bytes: &row(&options.row)? }])?;
    options.job.manifests = vec![manifest.clone()];
    let prepared = prepare(&options.job)?;
    if let Some(error) = prepared.manifest.errors.first().and_then(|row| row.errors.first()) {
        return Err(error.again().with_kind(ErrorKind::Usage));
    }
    let frames = networks::frames(&prepared, &options)?;
    let report = TraceReport {
        page: path("trace.html"),
        strip: path("strip.png"),
        animation: path("trace.webp"),
        numbers: path("trace.json"),
        manifest,
        picture: path("picture.png"),
        evaluations: frames.iter().filter(|frame| frame.phase == Phase::Backward).count() - 1,
    };
    let last = frames.last().expect("there is at least the picture");
    let job = &prepared.jobs[0];
    let files = [
        (&report.strip, strip::strip(&frames, options.columns)?),
        (&report.animation, animation::animation(&frames)?),
        (&report.numbers, page::numbers(&frames)),
        (&report.page, page::page(&frames, job)?),
        (&report.picture, png::encode_plain(&last.sample)?),
    ];
    let whole = files.iter().map(|(path, bytes)| WholeFile { path: (*path).clone(), bytes }).collect::<Vec<_>>();
    durable.commit(&whole)?;
    Ok(report)
}

/// Returns the row as a manifest.
fn row(cells: &[(&'static str, String)]) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Necessary).from_writer(Vec::new());
    let written = writer
        .write_record(cells.iter().map(|(name, _)| name))
        .and_then(|()| writer.write_record(cells.iter().map(|(_, cell)| cell)));
    let bytes =
        written.map_err(|error| error.to_string()).and_then(|()| writer.into_inner().map_err(|e| e.to_string()));
    bytes.map_err(|error| Error::new(ErrorKind::Unexpected, "trace_csv", format!("cannot encode the row: {error}")))
}

impl fmt::Display for TraceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |path: &Path| path.display().to_string();
        writeln!(f, "page       {}", line(&self.page))?;
        writeln!(f, "strip      {}", line(&self.strip))?;
        writeln!(f, "animation  {}", line(&self.animation))?;
        writeln!(f, "numbers    {}", line(&self.numbers))?;
        write!(
            f,
            "picture    {} ({} evaluations; the row is {})",
            line(&self.picture),
            self.evaluations,
            line(&self.manifest)
        )
    }
}
