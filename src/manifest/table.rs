//! A whole manifest: file after file, row after row, good ones to the jobs and bad ones to the errors.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::columns::Field;
use super::header::{self, Column, Header};
use super::ids::Ids;
use super::notices::Notices;
use super::place::{Files, Place};
use super::quotes::Style;
use super::records::{Record, Records};
use super::row::{Row, RowReader};
use super::rowcheck::{self, Cells};
use super::{Manifest, RowError, Rules, content, encoding, sniff, source};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::Job;

/// A manifest as far as it has been read.
pub(super) struct Reading<'r> {
    rules: &'r Rules<'r>,
    reader: RowReader<'r>,
    jobs: Vec<Arc<Job>>,
    bad: Vec<BadRow>,
    notices: Notices,
    columns: Vec<String>,
    extra_columns: Vec<Arc<str>>,
    ids: Ids,
    files: Files,
    rows: u64,
    hasher: blake3::Hasher,
}

/// A bad row whose cells wait for the columns of later files.
struct BadRow {
    row: RowError,
    /// Cells for which the header has no column.
    beyond: Vec<String>,
}

/// What all rows of one file share.
struct Table<'t> {
    path: &'t Path,
    header: Header,
    style: Style,
    /// Where each column stands in the columns of all files.
    slots: Vec<Option<usize>>,
}

impl<'r> Reading<'r> {
    /// Returns a manifest of no files yet.
    pub fn new(rules: &'r Rules<'r>) -> Self {
        Reading {
            rules,
            reader: RowReader::new(rules),
            jobs: Vec::new(),
            bad: Vec::new(),
            notices: Notices::default(),
            columns: Vec::new(),
            extra_columns: Vec::new(),
            ids: Ids::default(),
            files: Files::default(),
            rows: 0,
            hasher: blake3::Hasher::new(),
        }
    }

    /// Adds the rows of a file.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let source = source::read(path)?;
        self.bytes(&source.bytes, &source.path)
    }

    /// Adds the rows of `bytes`, which are called `path`.
    pub fn bytes(&mut self, bytes: &[u8], path: &Path) -> Result<()> {
        self.hasher.update(bytes);
        content::refuse_other_formats(bytes, path)?;
        let text = encoding::decode(bytes, self.rules.options.encoding.as_deref(), path, &mut self.notices)?;
        self.text(sniff::without_ctrl_z(&text), path)
    }

    /// Adds the rows of a CSV text.
    fn text(&mut self, text: &[u8], path: &Path) -> Result<()> {
        let dialect = sniff::dialect(text, &self.rules.options, path, &mut self.notices)?;
        let mut records = Records::new(text, dialect.start, dialect.style);
        if !records.advance() {
            return Err(Error::new(ErrorKind::Manifest, "empty_file", "the file is empty")
                .at(Location::file(path))
                .hint("begin it with the names of its columns, such as `prompt,seed`"));
        }
        let table = self.table(&records.current(), path, dialect.style)?;
        let first = self.rows;
        let id_column = table.header.position(Field::Id).map(|at| table.header.titles[at].clone());
        self.files.add(first, path, id_column);
        let mut unfinished = records.current().unfinished;
        while records.advance() {
            let record = records.current();
            unfinished = record.unfinished;
            self.record(&record, &table)?;
        }
        if unfinished {
            self.notices.say(format!("{}: the file does not end with a line break: is it whole?", path.display()));
        }
        if self.rows == first {
            self.notices.say(format!("{}: the file has a header and no rows", path.display()));
        }
        Ok(())
    }

    /// Reads the header, and finds a place for its columns among those of the files before.
    fn table<'t>(&mut self, record: &Record, path: &'t Path, style: Style) -> Result<Table<'t>> {
        let at = |line| Location::file(path).line(line);
        rowcheck::quotes(record, style, at, |_| None, &mut self.notices)?;
        if let Some((cell, _)) = record.cells.iter().enumerate().find(|(_, cell)| std::str::from_utf8(cell).is_err()) {
            let problem = rowcheck::not_utf8(&record.cells[cell]);
            return Err(Error::new(ErrorKind::Manifest, "wrong_encoding", problem.message)
                .at(at(record.line))
                .hint(problem.hint));
        }
        if record.raw.contains(&0) {
            return Err(Error::new(ErrorKind::Manifest, "wrong_encoding", "the header has NUL characters")
                .at(at(record.line))
                .hint("save the file as UTF-8"));
        }
        let cells = header::cells(record);
        let header = header::understand(&cells, &self.rules.options, path, record.line, &mut self.notices)?;
        let slots = header.names.iter().zip(&header.columns).map(|(name, column)| self.slot(name, column)).collect();
        Ok(Table { path, header, style, slots })
    }

    /// Returns the place of a column in `failed.csv`.
    fn slot(&mut self, name: &str, column: &Column) -> Option<usize> {
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

    /// Adds a row to the jobs or to the errors.
    fn record(&mut self, record: &Record, table: &Table) -> Result<()> {
        let place = Place { path: table.path, row: self.rows, line: record.line };
        let column = |at: usize| table.header.titles.get(at).cloned();
        let at = |line| Location::file(table.path).row(place.row, line);
        rowcheck::quotes(record, table.style, at, column, &mut self.notices)?;
        let quoted = record.raw.contains(&b'"');
        if !quoted && !self.rules.options.allow_empty && record.cells.iter().all(|cell| cell.trim_ascii().is_empty()) {
            self.notices.repeat("a row of empty cells is left out", || Location::file(table.path).line(record.line));
            return Ok(());
        }
        self.rows += 1;
        match self.job(record, table, place)? {
            Ok(job) => {
                if let Some(id) = &job.id {
                    self.ids.add(id, &place, &self.jobs, &self.files);
                }
                self.jobs.push(Arc::new(job));
            }
            Err(errors) => self.refuse(record, table, place, errors),
        }
        Ok(())
    }

    /// Returns the job of a row, or its errors; the outer error is one of structure.
    fn job(&mut self, record: &Record, table: &Table, place: Place) -> Result<Result<Job, Vec<Error>>> {
        let cells = match rowcheck::cells(record, &table.header, table.style.delimiter, place) {
            Cells::Text(cells) => cells,
            Cells::Bad(errors) => return Ok(Err(errors)),
        };
        let row = Row { header: &table.header, cells: &cells, place };
        rowcheck::must_be_empty(&row)?;
        rowcheck::remarks(&row, record, &mut self.notices);
        let mut errors = rowcheck::limits(&row, self.rules.options.max_field);
        errors.extend(rowcheck::cut(&row, record));
        if !errors.is_empty() {
            return Ok(Err(errors));
        }
        Ok(self.reader.job(&row, &mut self.notices))
    }

    /// Keeps a bad row.
    fn refuse(&mut self, record: &Record, table: &Table, place: Place, errors: Vec<Error>) {
        let id = rowcheck::usable_id(record, &table.header);
        if let Some(id) = &id {
            self.ids.add_bad(id, &place, &self.jobs, &self.files);
        }
        let (cells, beyond) = original_cells(record, table);
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

/// Returns the cells of a bad row in the order of the manifest's columns, and those that the header has no column for.
fn original_cells(record: &Record, table: &Table) -> (Vec<String>, Vec<String>) {
    let (mut cells, mut beyond) = (Vec::new(), Vec::new());
    for (at, cell) in record.cells.iter().enumerate() {
        let text = match std::str::from_utf8(cell) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(cell).0,
        };
        match table.slots.get(at) {
            Some(Some(slot)) => {
                cells.resize(cells.len().max(slot + 1), String::new());
                cells[*slot] = text.into_owned();
            }
            Some(None) => {}
            None => beyond.push(text.into_owned()),
        }
    }
    (cells, beyond)
}

/// Returns the remark that so many rows do not fit that the file was probably read the wrong way.
fn wrong_dialect(bad: &[BadRow], rows: u64) -> Option<String> {
    let misread = ["too_many_cells", "too_few_cells", "not_utf8"];
    let count = bad.iter().filter(|bad| misread.contains(&bad.row.errors[0].code())).count() as u64;
    (count >= 3 && count * 100 > rows).then(|| {
        format!("{count} of {rows} rows have the wrong number of cells or are not UTF-8: this looks like a wrong delimiter, quoting or encoding")
    })
}
