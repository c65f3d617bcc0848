//! `metadata.parquet` beside the images of a folder: one row an image, the caption and every parameter.
//!
//! Parquet, because it carries its types: in a CSV file the captions `NA` and `null` become nothing and the id `007`
//! becomes 7. The same rows give the same bytes: sorted by ordinal, no time, a fixed schema.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::parameters::Provenance;
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::score::Scored;

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
    /// Whether the picture looks like none.
    pub suspect: bool,
    /// What the scorer says of it.
    pub scored: Option<Scored>,
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

/// Returns what the column `status` says of a picture: `suspect`, `low_score` or `ok`.
pub fn status(suspect: bool, scored: Option<Scored>) -> &'static str {
    match scored {
        _ if suspect => "suspect",
        Some(Scored { is_low: true, .. }) => "low_score",
        _ => "ok",
    }
}

/// Returns the `metadata.parquet` of one folder, whose images `rows` are. `columns` are the pass-through columns of the run, in
/// order: every folder has them all.
///
/// # Errors
/// Kind `Unexpected` where a pass-through column has the name of one of ours.
pub fn encode(provenance: &Provenance, columns: &[Arc<str>], rows: &[MetadataRow]) -> Result<Vec<u8>> {
    let batch = batch(table(provenance, columns, rows)?)?;
    to_parquet(&batch, &provenance.version).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "metadata", "cannot encode the metadata table").source(error)
    })
}

/// Returns what is known of each image, column by column.
///
/// # Errors
/// Kind `Unexpected` where a pass-through column has the name of one of ours.
pub fn table(provenance: &Provenance, columns: &[Arc<str>], rows: &[MetadataRow]) -> Result<Vec<Column>> {
    let scores = if provenance.scorer_hash.is_some() { score_columns(rows) } else { Vec::new() };
    let table = [our_columns(provenance, rows), scores, extra_columns(columns, rows)].concat();
    let repeated = |at: &usize| table[..*at].iter().any(|(name, _)| *name == table[*at].0);
    if let Some(at) = (0..table.len()).find(repeated) {
        let message = format!("two metadata columns are called `{}`", table[at].0);
        return Err(Error::new(ErrorKind::Unexpected, "metadata", message).hint("rename that column of the manifest"));
    }
    Ok(table)
}

/// Returns a table as a record batch.
///
/// # Errors
/// Kind `Unexpected`: columns of different lengths.
pub fn batch(table: Vec<Column>) -> Result<RecordBatch> {
    let fields = table.iter().map(|(name, array)| Field::new(&**name, array.data_type().clone(), false));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = table.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(schema, arrays)
        .map_err(|error| Error::new(ErrorKind::Unexpected, "metadata", "cannot build the metadata table").source(error))
}

/// A column: its name, and a value for each image.
pub type Column = (Arc<str>, ArrayRef);

fn our_columns(provenance: &Provenance, rows: &[MetadataRow]) -> Vec<Column> {
    let text = |value: fn(&MetadataRow) -> &str| strings(rows.iter().map(value));
    let size = |value: fn(&MetadataRow) -> u32| -> ArrayRef {
        // Larger numbers than i32 holds are no sizes of images; they would have failed long before.
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| i32::try_from(value(row)).unwrap_or(i32::MAX))))
    };
    let number = |value: fn(&MetadataRow) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(value)))
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
        ("key", strings(rows.iter().map(|row| row.task.key()))),
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
        ("row_hash", strings(rows.iter().map(|row| hex(&row.task.row_hash())))),
        ("status", text(|row| status(row.suspect, row.scored))),
        ("bytes", count(|row| row.bytes)),
        ("blake3", text(|row| &row.blake3)),
    ];
    columns.into_iter().map(|(name, array)| (name.into(), array)).collect()
}

/// What the scorer says of each picture; runs without one have none of these columns.
fn score_columns(rows: &[MetadataRow]) -> Vec<Column> {
    let scored = || rows.iter().map(|row| row.scored);
    let score = |scored: Option<Scored>| scored.map_or(0.0, |scored| scored.clip_score.value());
    let retries = |scored: Option<Scored>| scored.map_or(0, |scored| i32::try_from(scored.retries).unwrap_or(i32::MAX));
    let scores: ArrayRef = Arc::new(Float64Array::from_iter_values(scored().map(score)));
    let retries: ArrayRef = Arc::new(Int32Array::from_iter_values(scored().map(retries)));
    vec![("clip_score".into(), scores), ("retries".into(), retries)]
}

fn extra_columns(columns: &[Arc<str>], rows: &[MetadataRow]) -> Vec<Column> {
    columns.iter().map(|name| (name.clone(), strings(rows.iter().map(|row| row.extra(name))))).collect()
}

fn strings<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns how Parquet files of ours are written: compressed, and the same bytes for the same rows.
pub fn properties(version: &str) -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(format!("nightshift version {version}"))
        .set_compression(Compression::SNAPPY)
        .build()
}

fn to_parquet(batch: &RecordBatch, version: &str) -> Result<Vec<u8>, ParquetError> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties(version)))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes)
}
