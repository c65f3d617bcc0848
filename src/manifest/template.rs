//! A template's file → names of columns and cells as they are written; what the cells stand for is `crate::template`'s.

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::{Field, field_named};
use super::format::Format;
use super::header::{self, Column, Header};
use super::notices::Notices;
use super::place::Place;
use super::records::Records;
use super::rowcheck::{self, Cells};
use super::table::empty_file;
use super::{Options, content, encoding, sniff, source};
use crate::error::{Error, ErrorKind, Location, Result};

/// A template: a CSV file, or a mapping in YAML or a list of them.
#[derive(Debug)]
pub struct TemplateFile {
    /// Its columns, in order.
    pub columns: Vec<TemplateColumn>,
    /// Its rows: where each stands, and its cells in the order of the columns.
    pub rows: Vec<(Location, Vec<TemplateCell>)>,
    /// Remarks about what is not wrong but worth knowing.
    pub notices: Vec<String>,
}

/// A column of a template.
#[derive(Debug, Clone)]
pub struct TemplateColumn {
    /// Its name; ours for a column that we know.
    pub name: String,
    /// Whether its cells hold numbers, so that `1-10` is a range.
    pub is_number: bool,
}

/// A cell of a template, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateCell {
    /// One text.
    Text(String),
    /// A list in YAML: each of these in turn.
    List(Vec<String>),
}

/// Reads the template in `path`.
///
/// # Errors
/// Structure errors, as those of a manifest; kind `Usage` for wrong options.
pub fn read_template(path: &Path, options: &Options) -> Result<TemplateFile> {
    let source::Source { path, bytes } = source::read(path, &mut blake3::Hasher::new())?;
    let mut notices = Notices::default();
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let said = options.format.or_else(|| Format::of_name(&path)).unwrap_or(Format::Csv);
    if !is_yaml && !matches!(said, Format::Csv | Format::Tsv) {
        return Err(Error::new(ErrorKind::Usage, "template_format", "a template is a CSV, TSV or YAML file")
            .at(Location::file(&path))
            .hint("give it one of the endings .csv, .tsv, .yaml"));
    }
    if !is_yaml {
        content::refuse_other_formats(&bytes, said, &path)?;
    }
    let text = encoding::decode(&bytes, options.encoding.as_deref(), &path, &mut notices)?;
    let (header, rows) = match is_yaml {
        true => yaml(&text, &path, options, &mut notices)?,
        false => delimited(sniff::without_ctrl_z(&text), said, &path, options, &mut notices)?,
    };
    let columns =
        header.names.iter().zip(&header.columns).map(|(name, column)| template_column(name, column)).collect();
    Ok(TemplateFile { columns, rows, notices: notices.into_lines() })
}

fn template_column(name: &str, column: &Column) -> TemplateColumn {
    let is_number = match column {
        // Two numbers in one cell.
        Column::Field(Field::Size | Field::OriginalSize | Field::CropsCoordsTopLeft | Field::TargetSize) => false,
        Column::Field(field) => field.is_number(),
        _ => false,
    };
    // Aliases such as `steps` are told by the names that the run would use.
    let name = field_named(name).map_or(name, |field| field.name());
    TemplateColumn { name: name.to_string(), is_number }
}

type Rows = Vec<(Location, Vec<TemplateCell>)>;

fn delimited(
    text: &[u8],
    format: Format,
    path: &Path,
    options: &Options,
    notices: &mut Notices,
) -> Result<(Header, Rows)> {
    let dialect = sniff::dialect(text, format, options, path, notices)?;
    let mut records = Records::new(text, dialect.start, dialect.style);
    if !records.advance() {
        return Err(empty_file(path, "begin it with the names of its columns, such as `prompt,seed`"));
    }
    let record = records.current();
    rowcheck::quotes(&record, dialect.style, |line| Location::file(path).line(line), |_| None, notices)?;
    let header = header::understand(&header::cells(&record), options, path, record.line, notices)?;
    let mut rows = Rows::new();
    while records.advance() {
        let record = records.current();
        let place = Place { path, row: rows.len() as u64, line: record.line };
        let column = |at: usize| header.titles.get(at).cloned();
        let at = |line| Location::file(path).row(place.row, line);
        rowcheck::quotes(&record, dialect.style, at, column, notices)?;
        match rowcheck::cells(&record, &header, dialect.style.delimiter, place) {
            Cells::Text(cells) => {
                let cell = |at: usize| TemplateCell::Text(cells.get(at).copied().unwrap_or_default().to_string());
                rows.push((place.location(), (0..header.columns.len()).map(cell).collect()));
            }
            // In a template there is no row to be left out: each stands for many.
            Cells::Bad(mut errors) => return Err(errors.swap_remove(0).with_kind(ErrorKind::Manifest)),
        }
    }
    Ok((header, rows))
}

fn yaml(text: &[u8], path: &Path, options: &Options, notices: &mut Notices) -> Result<(Header, Rows)> {
    let wrong = |message: String| Error::new(ErrorKind::Manifest, "bad_yaml", message).at(Location::file(path));
    let text = String::from_utf8_lossy(text);
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let shape = || wrong("is neither a mapping nor a list of mappings".into()).hint("write `prompt: a {red|blue} cat`");
    let maps: Vec<Map<String, Value>> = match value {
        Value::Object(map) => vec![map],
        Value::Array(items) => {
            let map = |item| if let Value::Object(map) = item { Ok(map) } else { Err(shape()) };
            items.into_iter().map(map).collect::<Result<_>>()?
        }
        _ => return Err(shape()),
    };
    let mut names: Vec<String> = Vec::new();
    for name in maps.iter().flat_map(Map::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let header = header::of_columns(&names, options, path, notices)?;
    let row = |(number, map): (usize, &Map<String, Value>)| {
        let place = Place { path, row: number as u64, line: 0 }.location();
        let cell = |name: &String| cell(map.get(name)).ok_or_else(|| nested(place.clone().column(name)));
        Ok((place.clone(), names.iter().map(cell).collect::<Result<_>>()?))
    };
    let rows = maps.iter().enumerate().map(row).collect::<Result<_>>()?;
    Ok((header, rows))
}

/// Returns a value of YAML as a cell, unless it holds more than a cell can.
fn cell(value: Option<&Value>) -> Option<TemplateCell> {
    let plain = |value: &Value| match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        None => Some(TemplateCell::Text(String::new())),
        Some(Value::Array(items)) => items.iter().map(plain).collect::<Option<_>>().map(TemplateCell::List),
        Some(value) => plain(value).map(TemplateCell::Text),
    }
}

fn nested(place: Location) -> Error {
    Error::new(ErrorKind::Manifest, "bad_yaml", "a cell is a text, a number or a list of these")
        .at(place)
        .hint("texts that begin with `{` or hold `: ` stand in quotes in YAML")
}
