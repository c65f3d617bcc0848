//! `nightshift report`: what a night has made, as one page to look at in the morning. Reads `OUT` and changes nothing in it.
//!
//! `sources` reads what is known of each image, `listing` puts it in order, `table` keeps it by columns so that 100,000 rows are a
//! page of a few megabytes. `pictures` finds the pictures, `thumbnails` makes the small ones that the page carries itself, `sheets`
//! the contact sheets. `page.html` shows it all.

mod listing;
mod pictures;
mod places;
mod sheets;
mod sources;
mod table;
mod thumbnails;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::bucket::refuse_bucket;
use super::look::no_run;
use super::progress_log::{self, Moment};
use crate::error::Result;
use crate::journal;
use crate::output::RunFingerprint;
use crate::output::durable::{Durable, WholeFile};
use crate::output::layout::Format;
use crate::output::run_folder;
use crate::output::status::since_1970;
use listing::Listing;
use pictures::Pictures;

/// The page; `{{data}}` and `{{title}}` are filled in.
const PAGE: &str = include_str!("page.html");

/// Options of `nightshift report`.
#[derive(Debug)]
pub struct ReportOptions {
    /// Output folder of a run.
    pub out: PathBuf,
    /// The page to write; `OUT.html` beside the folder where none is given.
    pub page: Option<PathBuf>,
    /// Most pictures that the page carries itself.
    pub embed: usize,
    /// Folder for contact sheets, if there are to be any.
    pub contact_sheets: Option<PathBuf>,
}

/// What `nightshift report` did.
#[derive(Debug, Serialize)]
pub struct Reported {
    /// The page.
    pub page: PathBuf,
    /// Images on it.
    pub images: u64,
    /// Rows that failed.
    pub failed: u64,
    /// Pictures to be looked at.
    pub suspect: u64,
    /// Pictures that the page carries itself.
    pub embedded: u64,
    /// Contact sheets written.
    pub contact_sheets: u64,
}

/// Writes the page of an output folder, of a run that is over or at work.
///
/// # Errors
/// Kind `Usage`: there is no run in it, or the page would lie among its data. Kind `Storage`.
pub fn report_page(options: &ReportOptions) -> Result<Reported> {
    refuse_bucket(&options.out, "report")?;
    let out = &options.out;
    let run = run_folder::read_run(out)?.ok_or_else(|| no_run(out))?;
    let page = options.page.clone().map_or_else(|| Ok(places::beside(out)), |page| places::outside(out, &page))?;
    let sheets = options.contact_sheets.as_ref().map(|folder| places::outside(out, folder)).transpose()?;
    let format = Format::named(&run.format).unwrap_or_default();
    let state = journal::read(&run_folder::journal_folder(out))?;
    let listing = Listing::read(out, format, &state);
    let pictures = Pictures { out, format, state: &state };
    let thumbnails = thumbnails::make(pictures, &listing, options.embed);
    let embedded = thumbnails.len() as u64;
    let html = filled_in(out, &data(out, &run, &listing, thumbnails, places::base(&page, out, format))?);
    Durable::default().commit(&[WholeFile { path: page.clone(), bytes: html.as_bytes() }])?;
    let contact_sheets = sheets.map_or(Ok(0), |folder| sheets::write(pictures, &listing, &folder))?;
    let (failed, suspect) = (listing.failed, listing.suspect);
    let images = listing.table.len() as u64 - failed;
    Ok(Reported { page, images, failed, suspect, embedded, contact_sheets })
}

/// Returns what the page is filled with.
fn data(
    out: &Path,
    run: &RunFingerprint,
    listing: &Listing,
    thumbnails: BTreeMap<usize, String>,
    base: Option<String>,
) -> Result<Value> {
    let status = super::status(out)?;
    Ok(json!({
        "out": out.display().to_string(),
        "model": run.model,
        "version": run.version,
        "format": run.format,
        "manifests": run.manifests.iter().map(|manifest| &manifest.path).collect::<Vec<_>>(),
        "total": status.last.as_ref().map(|last| last.total),
        "live": status.live,
        "written": since_1970().as_secs(),
        "base": base,
        "rows": listing.table.len(),
        "columns": listing.table.columns(),
        "thumbnails": thumbnails,
        "starts": progress_log::read(out).iter().map(|start| series(start)).collect::<Vec<_>>(),
    }))
}

fn series(start: &[Moment]) -> Vec<[f64; 5]> {
    let row = |it: &Moment| [it.time, it.done as f64, it.failed as f64, it.lanes_used as f64, it.lanes_offered as f64];
    start.iter().map(row).collect()
}

fn filled_in(out: &Path, data: &Value) -> String {
    let title = escaped(&out.file_name().map_or("nightshift".into(), |name| name.to_string_lossy()));
    let (head, tail) = PAGE.split_once("{{data}}").expect("the page has a place for its data");
    head.replace("{{title}}", &title) + &in_script(data) + tail
}

/// Returns JSON as it may stand in a script of a page: with no `<`, so that no prompt can end the script.
pub(super) fn in_script(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reported { page, images, failed, suspect, .. } = self;
        write!(f, "{}: {images} images, {failed} failed rows, {suspect} to look at", page.display())?;
        match self.contact_sheets {
            0 => Ok(()),
            sheets => write!(f, ", {sheets} contact sheets"),
        }
    }
}
