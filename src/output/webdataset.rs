//! Shards as tar files in the form of the `webdataset` library: the members of one sample stand together under one key, sorted
//! by their endings as its TarWriter sorts them (webdataset 1.0.2, `writer.py`), with fixed owners and times, so that the same
//! images give the same bytes.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_schema::DataType;
use serde_json::{Map, Value};

use super::metadata::{self, Column, MetadataRow};
use super::parameters::Provenance;
use crate::error::{Error, ErrorKind, Result};

/// Writes a tar of `rows` to `sink`; `image` returns the bytes of the n-th row's picture.
///
/// # Errors
/// What `image` says; kind `Storage`: `sink` cannot be written.
pub fn write(
    sink: &mut dyn Write,
    provenance: &Provenance,
    columns: &[Arc<str>],
    rows: &[MetadataRow],
    image: &mut dyn FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let table = metadata::table(provenance, columns, rows)?;
    let mut tar = tar::Builder::new(sink);
    for (at, row) in rows.iter().enumerate() {
        let (key, extension) = key_and_extension(row);
        let (picture, json) = (image(at)?, json(&table, at));
        let text = row.task.job.prompt.as_bytes();
        let mut members = [(extension, &picture[..]), ("json", &json), ("txt", text)];
        members.sort_by_key(|(ending, _)| *ending);
        for (ending, bytes) in members {
            append(&mut tar, &format!("{key}.{ending}"), bytes).map_err(unwritten)?;
        }
    }
    tar.finish().map_err(unwritten)
}

/// Returns the members of the tar at `path` that are whole, in order: name and bytes.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path, mut each: impl FnMut(String, Vec<u8>)) -> io::Result<()> {
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 20, File::open(path)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        each(name, bytes);
    }
    Ok(())
}

/// Returns the name that the members of the image `key` have in common: the key, with a `~` before one that begins with `__`.
/// `datasets` passes over such a member as hidden (5.2, `file_utils.py`, `ArchiveIterable`), and so over the whole sample.
pub fn sample_name(key: &str) -> Cow<'_, str> {
    if key.starts_with("__") { Cow::Owned(format!("~{key}")) } else { Cow::Borrowed(key) }
}

fn key_and_extension(row: &MetadataRow) -> (&str, &str) {
    let name = row.file_name.rsplit('/').next().unwrap_or(&row.file_name);
    name.rsplit_once('.').unwrap_or((name, ""))
}

fn append(tar: &mut tar::Builder<&mut dyn Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o444);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("bigdata")?;
    header.set_groupname("bigdata")?;
    tar.append_data(&mut header, name, bytes)
}

/// Returns everything that is known of the image, with every column in every sample.
fn json(table: &[Column], at: usize) -> Vec<u8> {
    let value = |array: &arrow_array::ArrayRef| match array.data_type() {
        DataType::Int32 => Value::from(array.as_primitive::<Int32Type>().value(at)),
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(at)),
        DataType::Float64 => Value::from(array.as_primitive::<Float64Type>().value(at)),
        _ => Value::from(array.as_string::<i32>().value(at)),
    };
    let object: Map<String, Value> = table.iter().map(|(name, array)| (name.to_string(), value(array))).collect();
    serde_json::to_vec(&object).expect("strings and numbers are valid JSON")
}

fn unwritten(error: io::Error) -> Error {
    Error::new(ErrorKind::Storage, "storage", format!("cannot write the tar: {error}")).source(error)
}
