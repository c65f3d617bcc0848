//! What must hold for a row before its cells are read for their meaning.

use super::columns::Field;
use super::header::{Column, Header};
use super::notices::Notices;
use super::numbers::Problem;
use super::place::Place;
use super::quotes::{Oddity, Opening, Style, oddity};
use super::records::Record;
use super::row::Row;
use super::shown::shown;
use super::{ids, ragged};
use crate::error::{Error, ErrorKind, Location, Result};

/// The cells of a row, or why they cannot be had.
pub(super) enum Cells<'r> {
    /// As text, as many as the header wants.
    Text(Vec<&'r str>),
    /// Errors of the row.
    Bad(Vec<Error>),
}

/// Checks the quotes of a row. `at` gives the place of a line, `column` the name of a cell.
///
/// # Errors
/// A structure error where other rows may have been swallowed.
pub(super) fn quotes(
    record: &Record,
    style: Style,
    at: impl Fn(u64) -> Location,
    column: impl Fn(usize) -> Option<String>,
    notices: &mut Notices,
) -> Result<()> {
    if !record.raw.contains(&b'"') {
        return Ok(());
    }
    let place = |opening: Opening| {
        let place = at(record.line_at(opening.at));
        match column(opening.cell) {
            Some(name) => place.column(name),
            None => place,
        }
    };
    let unclosed = |opening, message: String| {
        let hint = "close the quote; a quote inside quotes is written `\"\"`";
        Err(Error::new(ErrorKind::Manifest, "unclosed_quote", message).at(place(opening)).hint(hint))
    };
    match oddity(record.raw, style) {
        None => Ok(()),
        Some(Oddity::TextAfter(opening)) => {
            notices.repeat("text follows the closing quote and was taken as part of the cell", || place(opening));
            Ok(())
        }
        Some(Oddity::Unclosed(opening)) => unclosed(opening, "the quote that opens here is never closed".into()),
        Some(Oddity::RunAway(opening, close)) => {
            let line = record.line_at(close);
            unclosed(opening, format!("the quote that opens here closes in the middle of a cell of line {line}"))
        }
        Some(Oddity::TooManyLines(opening)) => {
            let lines = style.max_lines;
            unclosed(opening, format!("the quote that opens here is not closed within {lines} lines"))
        }
        Some(Oddity::Backslash(opening)) => {
            let message = "the quotes in this cell are escaped by backslashes";
            Err(Error::new(ErrorKind::Manifest, "backslash_quotes", message)
                .at(place(opening))
                .hint("use `--escape '\\'`, or write a quote inside quotes as `\"\"`"))
        }
    }
}

/// Returns the cells of a row as text.
pub(super) fn cells<'r>(record: &Record<'r>, header: &Header, delimiter: u8, place: Place) -> Cells<'r> {
    let mut cells = Vec::with_capacity(record.cells.len());
    let mut errors = Vec::new();
    for (at, cell) in record.cells.iter().enumerate() {
        match std::str::from_utf8(cell) {
            Ok(text) => cells.push(text),
            Err(_) => errors.push(cell_error(header, place, at, "not_utf8", not_utf8(cell))),
        }
    }
    if !errors.is_empty() {
        return Cells::Bad(errors);
    }
    match ragged::problem(record, header, delimiter) {
        None => Cells::Text(cells),
        Some((code, problem)) => {
            let error = Error::new(ErrorKind::Row, code, problem.message).at(place.location()).hint(problem.hint);
            Cells::Bad(vec![error])
        }
    }
}

/// Returns what is wrong with a cell that is not UTF-8.
pub(super) fn not_utf8(cell: &[u8]) -> Problem {
    no_utf8("cell", cell)
}

/// Returns what is wrong with a line, or whatever it is called, that is not UTF-8.
pub(super) fn no_utf8(what: &str, cell: &[u8]) -> Problem {
    let at = std::str::from_utf8(cell).map_or_else(|error| error.valid_up_to(), str::len);
    let byte = cell.get(at).copied().unwrap_or_default();
    let (text, _) = encoding_rs::WINDOWS_1252.decode_without_bom_handling(cell);
    Problem::new(
        format!("the byte 0x{byte:02X} is not UTF-8; read as windows-1252 the {what} is `{}`", shown(&text)),
        "save the file as UTF-8, or use `--encoding windows-1252`",
    )
}

/// Checks that columns without a name, and columns that we cannot honour yet, are empty in this row.
///
/// # Errors
/// A structure error: the whole column has a meaning that would be lost.
pub(super) fn must_be_empty(row: &Row) -> Result<()> {
    for (at, (column, cell)) in row.header.columns.iter().zip(row.cells).enumerate() {
        let cell = cell.trim();
        let (code, message, hint) = match column {
            Column::Unnamed if !cell.is_empty() => (
                "unnamed_column",
                format!("column {} has no name in the header, but holds `{}`", at + 1, shown(cell)),
                "name the column in the header, or empty it".to_string(),
            ),
            Column::Unsupported if !cell.is_empty() => (
                "unsupported_column",
                format!("nightshift cannot honour this column yet, and it holds `{}`", shown(cell)),
                format!(
                    "remove the column; to carry it along in the metadata, rename it, for example to `src_{}`",
                    row.header.titles[at]
                ),
            ),
            _ => continue,
        };
        let place = row.header.location(row.place, at);
        return Err(Error::new(ErrorKind::Manifest, code, message).at(place).hint(hint));
    }
    Ok(())
}

/// Returns the errors for cells that are too long or have a NUL in them.
pub(super) fn limits(row: &Row, max_field: usize) -> Vec<Error> {
    let mut errors = Vec::new();
    for (at, cell) in row.cells.iter().enumerate() {
        let (code, problem) = if cell.len() > max_field {
            let message = format!("the cell has {} bytes, more than {max_field}", cell.len());
            ("field_too_long", Problem::new(message, "shorten it, or allow more with `--max-field`"))
        } else if cell.contains('\0') {
            let message = format!("`{}` has a NUL character", shown(cell));
            ("nul_character", Problem::new(message, "remove it; it often comes from a damaged or UTF-16 file"))
        } else {
            continue;
        };
        errors.push(cell_error(row.header, row.place, at, code, problem));
    }
    errors
}

/// Returns the error for a last row that seems to be cut: no line break after it, and its last number missing.
pub(super) fn cut(row: &Row, record: &Record) -> Option<Error> {
    let last = row.header.required - 1;
    let number = matches!(row.header.columns[last], Column::Field(field) if field.is_number());
    let empty = row.cells.get(last).is_none_or(|cell| cell.trim().is_empty());
    if !(record.unfinished && number && empty && row.header.required > 1) {
        return None;
    }
    let message = "the file ends here, without a line break and before a value: it may be cut";
    let hint = "check that the file is whole; if it is, end its last line with a line break";
    Some(cell_error(row.header, row.place, last, "cut_row", Problem::new(message, hint)))
}

/// Says what is odd about the cells of a row and yet no error; `quoted` says that there are quotes in the row's text.
pub(super) fn remarks(row: &Row, quoted: bool, notices: &mut Notices) {
    let odd = |byte: &u8| (*byte < b' ' && !b"\t\r\n\0".contains(byte)) || *byte == 0x7F;
    let place = |at: usize| row.header.location(row.place, at);
    let prompt = row.header.position(Field::Prompt);
    if let Some(at) = prompt.filter(|&at| row.cells.get(at).is_some_and(|cell| cell.trim().contains(['\n', '\r']))) {
        notices.repeat("the prompt has several lines", || place(at));
    }
    if let Some(at) = row.cells.iter().position(|cell| cell.as_bytes().iter().any(odd)) {
        notices.repeat("the cell has control characters; they are kept", || place(at));
    }
    if !quoted {
        return;
    }
    let literal = |cell: &&str| cell.starts_with(' ') && cell.trim_start().starts_with('"');
    if let Some(at) = row.cells.iter().position(literal) {
        notices.repeat("a space stands before the quotes, so that they are part of the text", || place(at));
    }
}

/// Returns the id in a cell of a bad row, if it can still name the row.
pub(super) fn usable_id(cell: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(cell).ok()?.trim();
    (!id.is_empty() && ids::check(id).is_ok()).then(|| id.to_string())
}

/// Returns the error of one cell.
fn cell_error(header: &Header, place: Place, at: usize, code: &'static str, problem: Problem) -> Error {
    Error::new(ErrorKind::Row, code, problem.message).at(header.location(place, at)).hint(problem.hint)
}
