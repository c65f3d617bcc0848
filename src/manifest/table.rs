//! A whole manifest: file after file, row after row, good ones to the jobs and bad ones to the errors.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::columns::Field;
use super::format::Format;
use super::header::{Column, Header};
use super::ids::Ids;
use super::notices::Notices;
use super::numbers::Problem;
use super::place::{Files, Place};
use super::row::{Row, RowReader};
use super::rowcheck;
use super::{Manifest, RowError, Rules, content, delimited, encoding, folder, jsonl, lines, parquet, sniff, source};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::Job;

/// A manifest as far as it has been read.
pub(super) struct Reading<'r> {
    pub rules: &'r Rules<'r>,
    pub notices: Notices,
    /// Whether rows came as requests of OpenAI's.
    pub openai_batch: bool,
    reader: RowReader<'r>,
    jobs: Vec<Arc<Job>>,
    bad: Vec<BadRow>,
    columns: Vec<String>,
    extra_columns: Vec<Arc<str>>,
    ids: Ids,
    files: Files,
    rows: u64,
    /// Number of the first row of the file at hand.
    first: u64,
    hasher: blake3::Hasher,
}

/// A bad row whose cells wait for the columns of later files.
struct BadRow {
    row: RowError,
    /// Cells for which the header has no column.
    beyond: Vec<String>,
}

/// What all rows of one file share.
pub(super) struct Table<'t> {
    pub path: &'t Path,
    pub header: Header,
    /// Where each column stands in the columns of all files.
    pub slots: Vec<Option<usize>>,
}

/// What is kept of a bad row.
#[derive(Default)]
pub(super) struct Rejected {
    /// Its id, where that is usable.
    id: Option<String>,
    /// Its cells, in the order of the columns of all files.
    cells: Vec<String>,
    /// Those for which the header has no column.
    beyond: Vec<String>,
}

/// What is wrong with a row before it is read for its meaning: the column, the code and the text.
pub(super) type RowProblem = (Option<usize>, &'static str, Problem);

impl<'r> Reading<'r> {
    /// Returns a manifest of no files yet.
    pub fn new(rules: &'r Rules<'r>) -> Self {
        Reading {
            rules,
            notices: Notices::default(),
            openai_batch: false,
            reader: RowReader::new(rules),
            jobs: Vec::new(),
            bad: Vec::new(),
            columns: Vec::new(),
            extra_columns: Vec::new(),
            ids: Ids::default(),
            files: Files::default(),
            rows: 0,
            first: 0,
            hasher: blake3::Hasher::new(),
        }
    }

    /// Adds the rows of a file, of the manifests in a folder, or of stdin (`-`).
    pub fn path(&mut self, path: &Path) -> Result<()> {
        let files: Vec<PathBuf> = match path.is_dir() {
            true => folder::manifests(path, self.rules.options.format, &mut self.notices)?,
            false => vec![path.to_path_buf()],
        };
        files.iter().try_for_each(|file| self.file(file))
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let source::Source { path, bytes } = source::read(path, &mut self.hasher)?;
        let said = self.rules.options.format.or_else(|| Format::of_name(&path));
        let format = said.unwrap_or_else(|| Format::of_content(&bytes));
        content::refuse_other_formats(&bytes, format, &path)?;
        if format == Format::Parquet {
            return parquet::read(self, bytes, &path);
        }
        let text = encoding::decode(&bytes, self.rules.options.encoding.as_deref(), &path, &mut self.notices)?;
        let text = sniff::without_ctrl_z(&text);
        match format {
            Format::Jsonl => jsonl::read(self, text, &path),
            Format::Txt => lines::read(self, text, &path),
            _ => delimited::read(self, text, format, &path),
        }
    }

    /// Begins the rows of the file at `path`.
    pub fn begin(&mut self, path: &Path, id_column: Option<String>) {
        self.first = self.rows;
        self.files.add(self.first, path, id_column);
    }

    /// Says what the file calls the column of ids, where that is known only later.
    pub fn id_column(&mut self, name: String) {
        self.files.id_column(name);
    }

    /// Ends the rows of the file; `unfinished` says that its last line has no line break, and should have one.
    pub fn end(&mut self, path: &Path, unfinished: bool) {
        if unfinished {
            self.notices.say(format!("{}: the file does not end with a line break: is it whole?", path.display()));
        }
        if self.rows == self.first {
            self.notices.say(format!("{}: the file has a header and no rows", path.display()));
        }
    }

    /// Returns the place of the next row.
    pub fn place<'p>(&self, path: &'p Path, line: u64) -> Place<'p> {
        Place { path, row: self.rows, line }
    }

    /// Returns the place of a column in `failed.csv`.
    pub fn slot(&mut self, name: &str, column: &Column) -> Option<usize> {
        match column {
            Column::Unnamed | Column::Verdict => return None,
            Column::Extra(extra) if !self.extra_columns.contains(extra) => self.extra_columns.push(extra.clone()),
            _ => {}
        }
        let known = self.columns.iter().position(|other| other == name);
        Some(known.unwrap_or_else(|| {
            self.columns.push(name.to_string());
            self.columns.len() - 1
        }))
    }

    /// Reads the pictures that rows of the manifest at `path` will name in these cells.
    pub fn foresee<'c>(&mut self, cells: impl Iterator<Item = &'c str>, path: &Path) {
        self.reader.foresee(cells, path);
    }

    /// Adds a row of texts to the jobs, or, with what is wrong with it, to the errors.
    pub fn row(&mut self, table: &Table, cells: &[&str], line: u64, problems: Vec<RowProblem>) -> Result<()> {
        let place = self.place(table.path, line);
        let row = Row { header: &table.header, cells, place };
        let verdict = if problems.is_empty() {
            self.judge(&row, false, None)?
        } else {
            Err(problems.into_iter().map(|(at, code, problem)| row.problem(at, code, problem)).collect())
        };
        self.settle(verdict, place, || {
            let id = table.header.position(Field::Id).and_then(|at| cells.get(at));
            let cells = cells.iter().map(|cell| Cow::Borrowed(*cell));
            table.rejected(id.and_then(|id| rowcheck::usable_id(id.as_bytes())), cells)
        });
        Ok(())
    }

    /// Adds a row that has no cells to the errors.
    pub fn refuse_line(&mut self, path: &Path, line: u64, code: &'static str, problem: Problem) {
        let place = self.place(path, line);
        let error = Error::new(ErrorKind::Row, code, problem.message).at(place.location()).hint(problem.hint);
        self.settle(Err(vec![error]), place, Rejected::default);
    }

    /// Returns the job of a row, or its errors; the outer error is one of structure. `quoted` says that the row's text has
    /// quotes, `cut` that it seems to be cut.
    pub fn judge(&mut self, row: &Row, quoted: bool, cut: Option<Error>) -> Result<Result<Job, Vec<Error>>> {
        rowcheck::must_be_empty(row)?;
        rowcheck::remarks(row, quoted, &mut self.notices);
        let mut errors = rowcheck::limits(row, self.rules.options.max_field);
        errors.extend(cut);
        if !errors.is_empty() {
            return Ok(Err(errors));
        }
        Ok(self.reader.job(row, &mut self.notices))
    }

    /// Adds a row to the jobs or to the errors.
    pub fn settle(&mut self, row: Result<Job, Vec<Error>>, place: Place, rejected: impl FnOnce() -> Rejected) {
        self.rows += 1;
        match row {
            Ok(job) => {
                if let Some(id) = &job.id {
                    self.ids.add(id, &place, &self.jobs, &self.files);
                }
                self.jobs.push(Arc::new(job));
            }
            Err(errors) => self.refuse(rejected(), place, errors),
        }
    }

    /// Keeps a bad row.
    fn refuse(&mut self, Rejected { id, cells, beyond }: Rejected, place: Place, errors: Vec<Error>) {
        if let Some(id) = &id {
            self.ids.add_bad(id, &place, &self.jobs, &self.files);
        }
        let key = id.unwrap_or_else(|| format!("{:09}", place.row));
        let row = RowError { row: place.row, line: place.line, key, cells, errors };
        self.bad.push(BadRow { row, beyond });
    }

    /// Returns all that was read.
    pub fn finish(mut self) -> Result<Manifest> {
        if self.rows == 0 {
            return Err(Error::new(ErrorKind::Manifest, "no_rows", "the manifest has a header and no rows")
                .at(Location::file(self.files.path(0)))
                .hint("write a row with a prompt below the header"));
        }
        self.ids.finish(&self.jobs, &self.files)?;
        if let Some(remark) = wrong_dialect(&self.bad, self.rows) {
            self.notices.say(remark);
        }
        let width = self.columns.len();
        Ok(Manifest {
            jobs: self.jobs,
            errors: self.bad.into_iter().map(|bad| bad.into_row(width)).collect(),
            notices: self.notices.into_lines(),
            columns: self.columns,
            extra_columns: self.extra_columns,
            rows: self.rows,
            hash: self.hasher.finalize().to_hex().to_string(),
            openai_batch: self.openai_batch,
        })
    }
}

impl BadRow {
    /// Returns the row with a cell for each of `width` columns, unless it had too few or too many of its own.
    fn into_row(mut self, width: usize) -> RowError {
        if self.row.errors.iter().all(|error| error.code() != "too_few_cells") {
            self.row.cells.resize(width.max(self.row.cells.len()), String::new());
        }
        self.row.cells.append(&mut self.beyond);
        self.row
    }
}

impl Table<'_> {
    /// Returns what is kept of a bad row: its id, and its cells in the order of the manifest's columns.
    pub fn rejected<'c>(&self, id: Option<String>, row: impl Iterator<Item = Cow<'c, str>>) -> Rejected {
        let (mut cells, mut beyond) = (Vec::new(), Vec::new());
        for (at, text) in row.enumerate() {
            match self.slots.get(at) {
                Some(Some(slot)) => {
                    cells.resize(cells.len().max(slot + 1), String::new());
                    cells[*slot] = text.into_owned();
                }
                Some(None) => {}
                None => beyond.push(text.into_owned()),
            }
        }
        Rejected { id, cells, beyond }
    }
}

/// Returns the structure error for a file with nothing in it.
pub(super) fn empty_file(path: &Path, hint: &str) -> Error {
    Error::new(ErrorKind::Manifest, "empty_file", "the file is empty").at(Location::file(path)).hint(hint)
}

/// Returns the remark that so many rows do not fit that the file was probably read the wrong way.
fn wrong_dialect(bad: &[BadRow], rows: u64) -> Option<String> {
    let misread = ["too_many_cells", "too_few_cells", "not_utf8"];
    let count = bad.iter().filter(|bad| misread.contains(&bad.row.errors[0].code())).count() as u64;
    (count >= 3 && count * 100 > rows).then(|| {
        format!("{count} of {rows} rows have the wrong number of cells or are not UTF-8: this looks like a wrong delimiter, quoting or encoding")
    })
}
