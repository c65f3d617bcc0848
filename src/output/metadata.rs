//! `metadata.parquet` beside the images of a folder: one row an image, the caption and every parameter.
//!
//! Parquet, because it carries its types: in a CSV file the captions `NA` and `null` become nothing and the id `007`
//! becomes 7. The same rows give the same bytes: sorted by ordinal, no time, a fixed schema.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::WriterProperties;

use super::durable::{Durable, WholeFile};
use super::parameters::Provenance;
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;

/// The file's name in each folder.
pub const FILE_NAME: &str = "metadata.parquet";

/// One image's row.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataRow {
    /// What was asked for.
    pub task: ImageTask,
    /// The image's path relative to `OUT`, with `/`; its folder decides which file the row goes to.
    pub file_name: String,
    /// Size of the image's file.
    pub bytes: u64,
    /// Hash of the image's file, hex.
    pub blake3: String,
}

impl MetadataRow {
    /// Returns the folder of the image relative to `OUT`, and the file's name in it.
    fn split_file_name(&self) -> (&str, &str) {
        self.file_name.rsplit_once('/').unwrap_or(("", &self.file_name))
    }

    /// Returns the value of a pass-through column; empty where the row has none.
    fn extra(&self, column: &str) -> &str {
        self.task.job.extra.get(column).unwrap_or("")
    }
}

/// Writes the `metadata.parquet` of every folder that `rows` name, each whole and in place of the old one; `rows` must
/// hold all rows of those folders. `columns` are the pass-through columns of the run, in order: every folder has them all.
///
/// # Errors
/// Kind `Storage`; kind `Unexpected` where a pass-through column has the name of one of ours.
pub fn write(
    durable: &Durable,
    out: &Path,
    provenance: &Provenance,
    columns: &[Arc<str>],
    rows: &[MetadataRow],
) -> Result<()> {
    let mut folders: BTreeMap<&str, Vec<&MetadataRow>> = BTreeMap::new();
    for row in rows {
        folders.entry(row.split_file_name().0).or_default().push(row);
    }
    let mut encoded = Vec::with_capacity(folders.len());
    for (folder, rows) in folders {
        encoded.push((out.join(folder).join(FILE_NAME), encode(provenance, columns, rows)?));
    }
    let files: Vec<_> = encoded.iter().map(|(path, bytes)| WholeFile { path: path.clone(), bytes }).collect();
    durable.commit(&files)
}

/// Returns how many rows the metadata file at `path` has, or `None` where there is no readable one.
pub fn count(path: &Path) -> Option<u64> {
    let file = std::fs::File::open(path).ok()?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).ok()?;
    u64::try_from(metadata.file_metadata().num_rows()).ok()
}

/// Returns one folder's Parquet file.
fn encode(provenance: &Provenance, columns: &[Arc<str>], mut rows: Vec<&MetadataRow>) -> Result<Vec<u8>> {
    rows.sort_by_key(|row| row.task.ordinal);
    let columns = [our_columns(provenance, &rows), extra_columns(columns, &rows)].concat();
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(&**name, array.data_type().clone(), false)).collect();
    if let Some(twice) = first_duplicate(&fields) {
        return Err(Error::new(
            ErrorKind::Unexpected,
            "metadata",
            format!("two metadata columns are called `{twice}`"),
        )
        .hint("rename that column of the manifest"));
    }
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "metadata", "cannot build the metadata table").source(error)
    })?;
    to_parquet(schema, &batch, &provenance.version).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "metadata", "cannot encode the metadata table").source(error)
    })
}

type Column = (Arc<str>, ArrayRef);

fn our_columns(provenance: &Provenance, rows: &[&MetadataRow]) -> Vec<Column> {
    let text = |value: fn(&MetadataRow) -> &str| strings(rows.iter().map(|row| value(row)));
    let size = |value: fn(&MetadataRow) -> u32| -> ArrayRef {
        // Larger numbers than i32 holds are no sizes of images; they would have failed long before.
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| i32::try_from(value(row)).unwrap_or(i32::MAX))))
    };
    let number = |value: fn(&MetadataRow) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| value(row))))
    };
    let count = |value: fn(&MetadataRow) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::try_from(value(row)).unwrap_or(i64::MAX))))
    };
    let same = |value: &str| strings(rows.iter().map(|_| value));
    // Signed, since `datasets` 5.2 cannot load an unsigned one of 2^63 or more: such a seed wraps to a negative number,
    // which torch takes for the same seed.
    let seeds: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.task.seed.cast_signed())));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("file_name", text(|row| row.split_file_name().1)),
        ("text", text(|row| &row.task.job.prompt)),
        ("negative_prompt", text(|row| &row.task.job.negative_prompt)),
        ("key", text(|row| &row.task.key)),
        ("id", text(|row| row.task.job.id.as_deref().unwrap_or(""))),
        ("row_index", count(|row| row.task.job.row)),
        ("seed", seeds),
        ("width", size(|row| row.task.job.width)),
        ("height", size(|row| row.task.job.height)),
        ("num_inference_steps", size(|row| row.task.job.num_inference_steps)),
        ("guidance_scale", number(|row| row.task.job.guidance_scale)),
        ("guidance_rescale", number(|row| row.task.job.rare().guidance_rescale)),
        ("eta", number(|row| row.task.job.rare().eta)),
        ("scheduler", text(|row| &row.task.job.scheduler)),
        ("settings", strings(rows.iter().map(|row| row.task.job.rare_settings().to_string()))),
        ("noise", same(&provenance.noise)),
        ("model", same(&provenance.model)),
        ("model_hash", same(&provenance.model_hash)),
        ("row_hash", strings(rows.iter().map(|row| row.task.row_hash()))),
        ("bytes", count(|row| row.bytes)),
        ("blake3", text(|row| &row.blake3)),
    ];
    columns.into_iter().map(|(name, array)| (name.into(), array)).collect()
}

fn extra_columns(columns: &[Arc<str>], rows: &[&MetadataRow]) -> Vec<Column> {
    columns.iter().map(|name| (name.clone(), strings(rows.iter().map(|row| row.extra(name))))).collect()
}

fn strings<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn first_duplicate(fields: &[Field]) -> Option<&str> {
    let repeated = |index: &usize| fields[..*index].iter().any(|before| before.name() == fields[*index].name());
    (0..fields.len()).find(repeated).map(|index| fields[index].name().as_str())
}

fn to_parquet(schema: Arc<Schema>, batch: &RecordBatch, version: &str) -> Result<Vec<u8>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_created_by(format!("nightshift version {version}"))
        .set_compression(Compression::SNAPPY)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes)
}
