//! Parquet → rows: each column of texts, numbers or booleans is one of ours or passes through.

use std::borrow::Cow;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::columns::Field;
use super::header::{self, Column};
use super::numbers::plain_whole;
use super::shown::shown;
use super::table::{Reading, Table};
use crate::error::{Error, ErrorKind, Location, Result};

/// Rows that are turned into cells at once.
const BATCH: usize = 4096;

/// Adds the rows of a Parquet file.
pub(super) fn read(reading: &mut Reading, bytes: Vec<u8>, path: &Path) -> Result<()> {
    let damaged = |error: &str| {
        Error::new(ErrorKind::Manifest, "bad_parquet", format!("the Parquet file cannot be read: {error}"))
            .at(Location::file(path))
            .hint("write it again; snappy, zstd, gzip and lz4 are the compressions that can be read")
    };
    if !bytes.ends_with(super::content::PARQUET) {
        return Err(Error::new(ErrorKind::Manifest, "bad_parquet", "the Parquet file is cut: its end is missing")
            .at(Location::file(path))
            .hint("fetch or write it again"));
    }
    let builder =
        guarded(|| ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))).map_err(|error| damaged(&error))?;
    let (wanted, names) = readable(&builder, reading, path)?;
    let header = header::of_columns(&names, &reading.rules.options, path, &mut reading.notices)?;
    let slots = header.names.iter().zip(&header.columns).map(|(name, column)| reading.slot(name, column)).collect();
    let table = Table { path, header, slots };
    reading.begin(path, table.header.position(Field::Id).map(|at| table.header.titles[at].clone()));
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let mut batches =
        guarded(|| builder.with_projection(mask).with_batch_size(BATCH).build()).map_err(|error| damaged(&error))?;
    while let Some(batch) = guarded(|| batches.next().transpose()).map_err(|error| damaged(&error))? {
        add(reading, &table, &batch)?;
    }
    reading.end(path, false);
    Ok(())
}

/// Returns what `read` returns. The library panics on some damaged files; that, too, is the file's error.
fn guarded<T, E: ToString>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("its parts do not fit together".to_string()),
    }
}

/// Returns the numbers and the names of the columns that have cells. Others are left out, which is said.
///
/// # Errors
/// A structure error where such a column has a meaning to us.
fn readable(
    builder: &ParquetRecordBatchReaderBuilder<Bytes>,
    reading: &mut Reading,
    path: &Path,
) -> Result<(Vec<usize>, Vec<String>)> {
    let (mut wanted, mut names) = (Vec::new(), Vec::new());
    for (at, field) in builder.schema().fields().iter().enumerate() {
        let name = field.name();
        if has_cells(field.data_type()) {
            wanted.push(at);
            names.push(name.clone());
            continue;
        }
        let (shown_name, kind) = (shown(name), kind(field.data_type()));
        if reading.rules.options.is_known(name) {
            let message = format!("the column `{shown_name}` holds {kind}, which no cell can");
            return Err(Error::new(ErrorKind::Manifest, "wrong_type", message)
                .at(Location::file(path))
                .hint("write it as texts or numbers, or give it another name"));
        }
        reading.notices.say(format!("{}: column `{shown_name}` holds {kind} and is left out", path.display()));
    }
    Ok((wanted, names))
}

fn has_cells(kind: &DataType) -> bool {
    use DataType::*;
    match kind {
        Dictionary(_, values) => has_cells(values),
        other => {
            other.is_integer() || other.is_floating() || matches!(other, Null | Boolean | Utf8 | LargeUtf8 | Utf8View)
        }
    }
}

/// Returns what a message calls a type.
fn kind(kind: &DataType) -> &'static str {
    use DataType::*;
    match kind {
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "bytes",
        List(_) | LargeList(_) | ListView(_) | LargeListView(_) | FixedSizeList(..) => "lists",
        Struct(_) | Map(..) | Union(..) => "structures",
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => "decimals",
        Timestamp(..) | Date32 | Date64 | Time32(_) | Time64(_) | Duration(_) | Interval(_) => "times",
        _ => "values of a rare type",
    }
}

fn add(reading: &mut Reading, table: &Table, batch: &RecordBatch) -> Result<()> {
    let columns: Vec<Vec<Cow<str>>> =
        batch.columns().iter().zip(&table.header.columns).map(|(array, column)| texts(array, column)).collect();
    let mut cells: Vec<&str> = Vec::with_capacity(columns.len());
    for row in 0..batch.num_rows() {
        cells.clear();
        cells.extend(columns.iter().map(|column| &*column[row]));
        reading.row(table, &cells, 0, Vec::new())?;
    }
    Ok(())
}

/// Returns the cells of a column; nulls are empty.
fn texts<'a>(array: &'a dyn Array, column: &Column) -> Vec<Cow<'a, str>> {
    let cells = match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().map(borrowed).collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().map(borrowed).collect(),
        DataType::Utf8View => array.as_string_view().iter().map(borrowed).collect(),
        DataType::Boolean => array.as_boolean().iter().map(|value| owned(value, |value| value.to_string())).collect(),
        DataType::Int8 => whole::<Int8Type>(array),
        DataType::Int16 => whole::<Int16Type>(array),
        DataType::Int32 => whole::<Int32Type>(array),
        DataType::Int64 => whole::<Int64Type>(array),
        DataType::UInt8 => whole::<UInt8Type>(array),
        DataType::UInt16 => whole::<UInt16Type>(array),
        DataType::UInt32 => whole::<UInt32Type>(array),
        DataType::UInt64 => whole::<UInt64Type>(array),
        DataType::Float16 => real::<Float16Type>(array),
        DataType::Float32 => real::<Float32Type>(array),
        DataType::Float64 => real::<Float64Type>(array),
        DataType::Dictionary(..) => return of_dictionary(array, column),
        _ => vec![Cow::Borrowed(""); array.len()],
    };
    // pandas writes whole numbers as floats where a column has empty cells.
    let is_whole = matches!(column, Column::Field(field) if field.is_whole()) && array.data_type().is_floating();
    if is_whole { cells.into_iter().map(|cell| Cow::Owned(plain_whole(&cell).into_owned())).collect() } else { cells }
}

fn of_dictionary<'a>(array: &'a dyn Array, column: &Column) -> Vec<Cow<'a, str>> {
    let Some(dictionary) = array.as_any_dictionary_opt() else { return vec![Cow::Borrowed(""); array.len()] };
    let values = texts(dictionary.values().as_ref(), column);
    let empty = Cow::Borrowed("");
    let value = |(at, key): (usize, usize)| if array.is_null(at) { &empty } else { values.get(key).unwrap_or(&empty) };
    match values.is_empty() {
        true => vec![empty; array.len()],
        false => dictionary.normalized_keys().into_iter().enumerate().map(|pair| value(pair).clone()).collect(),
    }
}

fn borrowed(value: Option<&str>) -> Cow<'_, str> {
    Cow::Borrowed(value.unwrap_or(""))
}

fn owned<'a, T>(value: Option<T>, text: impl FnOnce(T) -> String) -> Cow<'a, str> {
    value.map_or(Cow::Borrowed(""), |value| Cow::Owned(text(value)))
}

fn whole<'a, T: ArrowPrimitiveType>(array: &dyn Array) -> Vec<Cow<'a, str>>
where
    T::Native: std::fmt::Display,
{
    array.as_primitive::<T>().iter().map(|value| owned(value, |value| value.to_string())).collect()
}

/// Numbers as Rust's `Debug` writes them: the shortest text that is the same number, with a point or an exponent.
fn real<'a, T: ArrowPrimitiveType>(array: &dyn Array) -> Vec<Cow<'a, str>>
where
    T::Native: std::fmt::Debug,
{
    array.as_primitive::<T>().iter().map(|value| owned(value, |value| format!("{value:?}"))).collect()
}
