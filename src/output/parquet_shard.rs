//! Shards as Parquet files with the pictures inside: the column `image` is what `datasets` calls an Image, a struct of `bytes`
//! and `path`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde_json::{Map, Value, json};

use super::metadata::{self, MetadataRow, properties};
use super::parameters::Provenance;
use crate::error::{Error, ErrorKind, Result};

/// Images of a row group: what a reader loads at once.
const ROW_GROUP: usize = 100;

/// Writes a Parquet file of `rows` to `sink`; `image` returns the bytes of the n-th row's picture.
///
/// # Errors
/// What `image` says; kind `Storage`: `sink` cannot be written.
pub fn write(
    sink: &mut (dyn Write + Send),
    provenance: &Provenance,
    columns: &[Arc<str>],
    rows: &[MetadataRow],
    image: &mut dyn FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let schema = schema(&metadata::batch(table(provenance, columns, &rows[..0])?)?);
    let mut writer =
        ArrowWriter::try_new(sink, schema.clone(), Some(properties(&provenance.version))).map_err(unwritten)?;
    for (group, rows) in rows.chunks(ROW_GROUP).enumerate() {
        let mut pictures = Vec::with_capacity(rows.len());
        for at in 0..rows.len() {
            pictures.push(image(group * ROW_GROUP + at)?);
        }
        let known = metadata::batch(table(provenance, columns, rows)?)?;
        let arrays = std::iter::once(images(rows, &pictures)).chain(known.columns().iter().cloned()).collect();
        let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|error| unwritten(error.into()))?;
        writer.write(&batch).and_then(|()| writer.flush()).map_err(unwritten)?;
    }
    writer.close().map(drop).map_err(unwritten)
}

/// Gives every picture of the Parquet file at `path` to `each`: its name and bytes.
///
/// # Errors
/// The file cannot be read, or is not one of ours.
pub fn read(path: &Path, mut each: impl FnMut(String, Vec<u8>)) -> Result<(), ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.with_batch_size(ROW_GROUP).build()?;
    for batch in reader {
        let batch = batch?;
        let column = batch.column_by_name("image").and_then(|column| column.as_struct_opt());
        let parts = column.and_then(|column| {
            Some((
                column.column_by_name("bytes")?.as_binary_opt::<i32>()?,
                column.column_by_name("path")?.as_string_opt::<i32>()?,
            ))
        });
        let Some((bytes, names)) = parts else {
            return Err(ParquetError::General("there is no column `image` of bytes and path".to_string()));
        };
        for at in 0..batch.num_rows() {
            each(names.value(at).to_string(), bytes.value(at).to_vec());
        }
    }
    Ok(())
}

/// Returns what is known of the images, without the name that stands in `image`.
fn table(provenance: &Provenance, columns: &[Arc<str>], rows: &[MetadataRow]) -> Result<Vec<metadata::Column>> {
    let mut table = metadata::table(provenance, columns, rows)?;
    table.retain(|(name, _)| &**name != "file_name");
    Ok(table)
}

/// Nullable, although every image has both: `datasets` knows an Image only by a field that equals its own to the last bit.
fn image_fields() -> Fields {
    let field = |name, kind| Field::new(name, kind, true);
    Fields::from(vec![field("bytes", DataType::Binary), field("path", DataType::Utf8)])
}

fn images(rows: &[MetadataRow], pictures: &[Vec<u8>]) -> ArrayRef {
    let (mut bytes, mut names) = (BinaryBuilder::new(), StringBuilder::new());
    for (row, picture) in rows.iter().zip(pictures) {
        bytes.append_value(picture);
        names.append_value(row.file_name.rsplit('/').next().unwrap_or(&row.file_name));
    }
    Arc::new(StructArray::new(image_fields(), vec![Arc::new(bytes.finish()), Arc::new(names.finish())], None))
}

/// Returns the schema, with the note by which `datasets` knows that `image` is a picture (`features.py`, `Features.arrow_schema`).
fn schema(known: &RecordBatch) -> Arc<Schema> {
    let image = Field::new("image", DataType::Struct(image_fields()), true);
    let known = known.schema();
    let fields: Vec<Field> =
        std::iter::once(image).chain(known.fields().iter().map(|field| (**field).clone())).collect();
    let feature = |field: &Field| match field.data_type() {
        DataType::Struct(_) => json!({"_type": "Image"}),
        DataType::Int32 => json!({"dtype": "int32", "_type": "Value"}),
        DataType::Int64 => json!({"dtype": "int64", "_type": "Value"}),
        DataType::Float64 => json!({"dtype": "float64", "_type": "Value"}),
        _ => json!({"dtype": "string", "_type": "Value"}),
    };
    let features: Map<String, Value> = fields.iter().map(|field| (field.name().clone(), feature(field))).collect();
    let note = json!({"info": {"features": features}}).to_string();
    let notes = std::collections::HashMap::from([("huggingface".to_string(), note)]);
    Arc::new(Schema::new(fields).with_metadata(notes))
}

fn unwritten(error: ParquetError) -> Error {
    Error::new(ErrorKind::Storage, "storage", format!("cannot write the Parquet file: {error}")).source(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `datasets` compares the field with its own (`features.py`, `Features.from_arrow_schema`), and otherwise gives a dictionary of
    /// bytes where there should be a picture.
    #[test]
    fn the_image_column_is_what_datasets_calls_an_image() {
        let known = RecordBatch::new_empty(Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)])));
        let schema = schema(&known);
        let nullable = |name, kind| Field::new(name, kind, true);
        let parts = vec![nullable("bytes", DataType::Binary), nullable("path", DataType::Utf8)];
        assert_eq!(*schema.field(0), nullable("image", DataType::Struct(parts.into())));
        let note: Value = serde_json::from_str(&schema.metadata()["huggingface"]).unwrap();
        assert_eq!(note["info"]["features"]["image"], json!({"_type": "Image"}));
    }
}
