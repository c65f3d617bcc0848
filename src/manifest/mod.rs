//! Manifest files → validated jobs, with every bad cell reported at its place. Reads files.
//!
//! A manifest is read whole and once, before any model is loaded. What breaks its *structure* (no prompt column, a
//! quote that is never closed, two rows of one id) stops the run: nothing in it can be trusted to mean what it says.
//! What is wrong with one *row* only takes that row out: it is kept with its errors and its cells for `failed.csv`.
//!
//! The way of a file: `source` (bytes; `packed` unpacks them) → `format` and `content` (which format, and is it?) →
//! `encoding` (UTF-8) → names and cells: `delimited` (CSV: `sniff` finds the delimiter, `records` splits rows, `quotes`
//! looks for the ones that swallowed others), `jsonl` (`json`, `openai`), `parquet` or `lines` → `header` (what the columns
//! mean) → `rowcheck` (can the cells be trusted?) → `row` (cells to a job). `table` leads it along; `folder` stands for the
//! files in it.

mod columns;
mod content;
mod delimited;
mod effects;
mod encoding;
mod folder;
mod format;
mod header;
mod ids;
mod images;
mod json;
mod jsonl;
mod lines;
mod notices;
mod numbers;
mod openai;
mod packed;
mod parquet;
mod place;
mod quotes;
mod ragged;
mod records;
mod row;
mod rowcheck;
mod shared;
mod shown;
mod sniff;
mod source;
mod table;
mod template;

use std::path::PathBuf;
use std::sync::Arc;

pub use columns::{COLUMNS, KnownColumn};
pub use format::Format;
pub use ids::split_word;
pub use template::{TemplateCell, TemplateColumn, TemplateFile, read_template};

use crate::error::{Error, ErrorKind, Result};
use crate::job::{Defaults, Job};
use crate::recipe::Recipe;

/// Bytes that a cell may have by default.
pub const MAX_FIELD: usize = 64 * 1024;

/// See [`Rules::read_levels`].
pub type ReadLevels = dyn Fn(bool, &str, Option<u32>) -> Result<Vec<f64>>;

/// What a row must satisfy that depends on the model and the flags.
pub struct Rules<'a> {
    /// Values for empty cells.
    pub defaults: &'a Defaults,
    /// Pixels that width and height must be a multiple of: `vae_scale_factor` × the UNet's down-sampling.
    pub size_multiple: u32,
    /// Most pixels of a side.
    pub max_size: u32,
    /// Most steps: the model's `num_train_timesteps`.
    pub max_steps: u32,
    /// How the model's networks are used: what of a row has an effect.
    pub recipe: &'a Recipe,
    /// Returns the canonical name of a scheduler, or an error with a hint.
    pub resolve_scheduler: &'a dyn Fn(&str) -> Result<String>,
    /// Returns the numbers of a cell of `timesteps` (or of `sigmas`, where the flag is not set) with the number of steps that
    /// the row asks for: a list with commas between them, or the name of a table.
    pub read_levels: &'a ReadLevels,
    /// Fails if prompts or scheduler cannot do what a row asks for.
    pub check: &'a dyn Fn(&Job) -> Result<()>,
    /// How the files are written.
    pub options: Options,
}

/// How manifest files are written, where they cannot say it themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How the rows are written (`--input-format`); by default what the name of a file says, or else its content.
    pub format: Option<Format>,
    /// Name of the column that holds the prompt (`--prompt-col`); columns called `prompt` then pass through.
    pub prompt_col: Option<String>,
    /// Name of the column that holds the id (`--id-col`).
    pub id_col: Option<String>,
    /// Encoding of files without byte order mark (`--encoding`), by its WHATWG label; default UTF-8.
    pub encoding: Option<String>,
    /// Byte between cells (`--delimiter`); by default found in the header.
    pub delimiter: Option<u8>,
    /// Byte before a quote that belongs to the value (`--escape`), besides doubled quotes.
    pub escape: Option<u8>,
    /// Bytes that a cell may have (`--max-field`).
    pub max_field: usize,
    /// Whether a row may have an empty prompt (`--allow-empty`).
    pub allow_empty: bool,
}

impl Default for Options {
    /// Returns the options that read well-formed UTF-8 files.
    fn default() -> Self {
        Options {
            format: None,
            prompt_col: None,
            id_col: None,
            encoding: None,
            delimiter: None,
            escape: None,
            max_field: MAX_FIELD,
            allow_empty: false,
        }
    }
}

/// What the files of a manifest say.
#[derive(Debug)]
pub struct Manifest {
    /// Good rows, in order.
    pub jobs: Vec<Arc<Job>>,
    /// Bad rows, in order.
    pub errors: Vec<RowError>,
    /// Remarks about what is not wrong but worth knowing, one line each.
    pub notices: Vec<String>,
    /// Names of all columns for `failed.csv`, in order of appearance: known ones by their own names, others as read.
    pub columns: Vec<String>,
    /// Names of the pass-through columns as jobs carry them, in order of appearance.
    pub extra_columns: Vec<Arc<str>>,
    /// Data rows, good and bad.
    pub rows: u64,
    /// BLAKE3 hash, 64 hex digits, of the bytes of all files one after the other.
    pub hash: String,
    /// Whether rows came as requests of OpenAI's Batch API, so that their answers are to be written as such.
    pub openai_batch: bool,
}

/// A row that cannot be made.
#[derive(Debug)]
pub struct RowError {
    /// 0-based number among the data rows of all files.
    pub row: u64,
    /// 1-based line in its file; 0 where the file has no lines.
    pub line: u64,
    /// The row's id where that is usable, else its number as 9 digits.
    pub key: String,
    /// Its cells, in the order of [`Manifest::columns`]. A row with too many or too few cells keeps them as they are, so
    /// that `failed.csv` does not make a good row of it; cells that are not UTF-8 are read as windows-1252.
    pub cells: Vec<String>,
    /// Everything that is wrong with it; the first is what `failed.csv` says.
    pub errors: Vec<Error>,
}

impl Manifest {
    /// Returns what a bad row calls itself, fit for a file name or not; its key where it says nothing.
    pub fn custom_id<'a>(&self, row: &'a RowError) -> &'a str {
        let id = self.columns.iter().position(|column| column == "id").and_then(|at| row.cells.get(at));
        id.map(|id| id.trim()).filter(|id| !id.is_empty()).unwrap_or(&row.key)
    }

    /// Checks that every row is good (`--strict`).
    ///
    /// # Errors
    /// A structure error that counts the bad rows; what is wrong with them is in [`Manifest::errors`].
    pub fn strict(&self) -> Result<()> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let message = format!("{} of {} rows cannot be made, and `--strict` allows none", self.errors.len(), self.rows);
        Err(Error::new(ErrorKind::Manifest, "bad_rows", message).hint("mend them, or leave out `--strict`"))
    }
}

/// Returns the jobs of the manifest files `paths`, one after the other; `-` is stdin, and a folder stands for the manifests
/// in it. Rows are numbered through.
///
/// Memory: the text of one file at a time, and the jobs.
///
/// # Errors
/// Structure errors (kind `Manifest`) and wrong options (kind `Usage`); the errors of rows are in the result.
pub fn read(paths: &[PathBuf], rules: &Rules) -> Result<Manifest> {
    if paths.is_empty() {
        return Err(
            Error::new(ErrorKind::Usage, "no_manifest", "no manifest is named").hint("name a file, a folder, or `-`")
        );
    }
    let mut reading = table::Reading::new(rules);
    for path in paths {
        reading.path(path)?;
    }
    reading.finish()
}
