//! CSV and TSV: a header, and rows of cells with a delimiter between them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use super::columns::Field;
use super::format::Format;
use super::header;
use super::quotes::Style;
use super::records::{Record, Records};
use super::row::Row;
use super::rowcheck::{self, Cells};
use super::sniff;
use super::table::{Reading, Rejected, Table, empty_file};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::Job;

/// What all rows of one file share.
struct Delimited<'t> {
    table: Table<'t>,
    style: Style,
}

/// Adds the rows of `text`.
pub(super) fn read(reading: &mut Reading, text: &[u8], format: Format, path: &Path) -> Result<()> {
    let dialect = sniff::dialect(text, format, &reading.rules.options, path, &mut reading.notices)?;
    let mut records = Records::new(text, dialect.start, dialect.style);
    if !records.advance() {
        return Err(empty_file(path, "begin it with the names of its columns, such as `prompt,seed`"));
    }
    let table = Delimited { table: table(reading, &records.current(), path, dialect.style)?, style: dialect.style };
    let header = &table.table.header;
    reading.begin(path, header.position(Field::Id).map(|at| header.titles[at].clone()));
    let columns = [Field::Image, Field::MaskImage].into_iter().filter_map(|field| header.position(field)).collect();
    foresee_pictures(reading, Records::new(text, dialect.start, dialect.style), columns, path);
    let mut unfinished = records.current().unfinished;
    while records.advance() {
        let record = records.current();
        unfinished = record.unfinished;
        table.record(&record, reading)?;
    }
    reading.end(path, unfinished);
    Ok(())
}

/// Reads the pictures that stand in these `columns` of `records`.
fn foresee_pictures(reading: &mut Reading, mut records: Records, columns: Vec<usize>, path: &Path) {
    let mut cells = BTreeSet::new();
    let has_rows = !columns.is_empty() && records.advance();
    while has_rows && records.advance() {
        let record = records.current();
        let named = columns.iter().filter_map(|at| std::str::from_utf8(record.cells.get(*at)?).ok());
        cells.extend(named.map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_string));
    }
    reading.foresee(cells.iter().map(String::as_str), path);
}

/// Reads the header, and finds a place for its columns among those of the files before.
fn table<'t>(reading: &mut Reading, record: &Record, path: &'t Path, style: Style) -> Result<Table<'t>> {
    let at = |line| Location::file(path).line(line);
    rowcheck::quotes(record, style, at, |_| None, &mut reading.notices)?;
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
    let header = header::understand(&cells, &reading.rules.options, path, record.line, &mut reading.notices)?;
    let slots = header.names.iter().zip(&header.columns).map(|(name, column)| reading.slot(name, column)).collect();
    Ok(Table { path, header, slots })
}

impl Delimited<'_> {
    /// Adds a row to the jobs or to the errors.
    fn record(&self, record: &Record, reading: &mut Reading) -> Result<()> {
        let table = &self.table;
        let place = reading.place(table.path, record.line);
        let column = |at: usize| table.header.titles.get(at).cloned();
        let at = |line| Location::file(table.path).row(place.row, line);
        rowcheck::quotes(record, self.style, at, column, &mut reading.notices)?;
        let quoted = record.raw.contains(&b'"');
        if !quoted && !reading.rules.options.allow_empty && record.cells.iter().all(|cell| cell.trim_ascii().is_empty())
        {
            reading.notices.repeat("a row of empty cells is left out", || Location::file(table.path).line(record.line));
            return Ok(());
        }
        let job = self.job(record, quoted, reading)?;
        reading.settle(job, place, || self.rejected(record));
        Ok(())
    }

    /// Returns the job of a row, or its errors; the outer error is one of structure.
    fn job(&self, record: &Record, quoted: bool, reading: &mut Reading) -> Result<Result<Job, Vec<Error>>> {
        let header = &self.table.header;
        let place = reading.place(self.table.path, record.line);
        let cells = match rowcheck::cells(record, header, self.style.delimiter, place) {
            Cells::Text(cells) => cells,
            Cells::Bad(errors) => return Ok(Err(errors)),
        };
        let row = Row { header, cells: &cells, place };
        reading.judge(&row, quoted, rowcheck::cut(&row, record))
    }

    /// Returns what is kept of a bad row.
    fn rejected(&self, record: &Record) -> Rejected {
        let header = &self.table.header;
        let fits = (header.required..=header.columns.len()).contains(&record.cells.len());
        let id = header.position(Field::Id).filter(|_| fits).and_then(|at| record.cells.get(at));
        let cells = record.cells.iter().map(|cell| match std::str::from_utf8(cell) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(cell).0,
        });
        self.table.rejected(id.and_then(rowcheck::usable_id), cells)
    }
}
