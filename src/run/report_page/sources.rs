//! Where it stands what is known of images: metadata, tars, the pictures themselves, and `failed.csv`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::output::layout::Format;
use crate::output::{metadata, picture, webdataset};

/// Columns that nobody looks for, or that the page tells in another way.
const LEFT_OUT: [&str; 6] = ["file_name", "blake3", "row_hash", "model", "model_hash", "noise"];

/// What is known of one row: names and values.
pub type Cells = Vec<(String, String)>;

/// Returns the value of that name.
pub fn value<'c>(cells: &'c Cells, name: &str) -> Option<&'c str> {
    cells.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

/// Returns what the shards' files say of their images. Files that cannot be read are told and left out: `verify` is for these.
pub fn images(out: &Path, format: Format) -> Vec<Cells> {
    let in_folder = |folder: &str| sorted(&out.join(folder));
    let found = match format {
        Format::Imagefolder => {
            let folders = in_folder("images").into_iter().map(|path| path.join(metadata::FILE_NAME));
            folders.filter(|path| path.exists()).map(|path| parquet(&path)).collect::<Vec<_>>()
        }
        Format::Parquet => in_folder("data").iter().map(|path| parquet(path)).collect(),
        Format::Webdataset => {
            let tars = in_folder("").into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "tar"));
            tars.map(|path| tar(&path)).collect()
        }
    };
    found.into_iter().flatten().collect()
}

/// Returns what is in a folder and is none of our temporaries, by name.
fn sorted(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let visible = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(visible).collect();
    paths.sort();
    paths
}

/// Returns the rows of a Parquet file but for the pictures in it.
fn parquet(path: &Path) -> Vec<Cells> {
    let read = || -> std::result::Result<Vec<RecordBatch>, Box<dyn std::error::Error>> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
        let fields = builder.schema().fields().clone();
        let plain =
            |at: &usize| !fields[*at].data_type().is_nested() && !LEFT_OUT.contains(&fields[*at].name().as_str());
        let mask = ProjectionMask::roots(builder.parquet_schema(), (0..fields.len()).filter(plain));
        Ok(builder.with_projection(mask).build()?.collect::<std::result::Result<_, _>>()?)
    };
    let batches = read().unwrap_or_else(|error| {
        tracing::warn!("{}: cannot be read: {error}", path.display());
        Vec::new()
    });
    let row = |batch: &RecordBatch, at: usize| {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        columns.map(|(field, array)| (field.name().clone(), text(array, at))).collect::<Cells>()
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |at| row(batch, at))).collect()
}

fn text(array: &ArrayRef, at: usize) -> String {
    match array.data_type() {
        _ if array.is_null(at) => String::new(),
        DataType::Utf8 => array.as_string::<i32>().value(at).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(at).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(at).to_string(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(at).to_string(),
        _ => String::new(),
    }
}

/// Returns the rows of a tar: the JSON beside each picture.
fn tar(path: &Path) -> Vec<Cells> {
    let mut rows = Vec::new();
    let each = |name: String, bytes: Vec<u8>| {
        let object =
            name.ends_with(".json").then(|| serde_json::from_slice::<Map<String, Value>>(&bytes).ok()).flatten();
        let cell = |(name, value)| (name, plain(value));
        let wanted = |(name, _): &(String, Value)| !LEFT_OUT.contains(&name.as_str());
        rows.extend(object.map(|object| object.into_iter().filter(wanted).map(cell).collect::<Cells>()));
    };
    if let Err(error) = webdataset::read(path, each) {
        tracing::warn!("{}: cannot be read: {error}", path.display());
    }
    rows
}

/// Returns what a picture says of itself, for one whose shard is not complete yet.
pub fn carried(bytes: &[u8]) -> Cells {
    let Some(parameters) = picture::read_parameters(bytes) else { return Vec::new() };
    let Ok(Value::Object(object)) = serde_json::to_value(&parameters) else { return Vec::new() };
    const TOLD_ELSEWHERE: [&str; 5] = ["seed", "suspect", "low_score", "sampler", "version"];
    let wanted = |name: &str| !LEFT_OUT.contains(&name) && !TOLD_ELSEWHERE.contains(&name);
    let name = |name: String| if name == "prompt" { "text".to_string() } else { name };
    let known = object.into_iter().filter(|(name, _)| wanted(name));
    known.map(|(column, value)| (name(column), plain(value))).collect()
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Returns the rows of `failed.csv`.
pub fn failed_rows(path: &Path) -> Vec<Cells> {
    let Ok(mut reader) = csv::ReaderBuilder::new().flexible(true).from_path(path) else { return Vec::new() };
    let names: Vec<String> = reader.headers().map(|names| names.iter().map(String::from).collect()).unwrap_or_default();
    let name = |name: &String| match name.as_str() {
        "prompt" => "text".to_string(),
        "id" => "key".to_string(),
        _ => name.clone(),
    };
    let names: Vec<String> = names.iter().map(name).collect();
    let row = |record: csv::StringRecord| {
        let known = names.iter().cloned().zip(record.iter().map(String::from));
        std::iter::once(("status".to_string(), "failed".to_string())).chain(known).collect()
    };
    reader.records().filter_map(|record| record.ok()).map(row).collect()
}
