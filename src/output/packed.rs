//! The pictures in the files of shards.

use std::path::Path;

use super::layout::Format;
use super::{parquet_shard, webdataset};

/// Gives the pictures in a shard's file to `each`, in order: their names in it and their bytes. What a damaged file gives before
/// it cannot be read any further has been given by then; the last of it may be cut.
///
/// # Errors
/// Why the file cannot be read to its end.
pub fn read_pictures(format: Format, path: &Path, mut each: impl FnMut(String, Vec<u8>)) -> Result<(), String> {
    match format {
        Format::Parquet => parquet_shard::read(path, each).map_err(|error| error.to_string()),
        _ => {
            let each = |name: String, bytes| {
                if !name.ends_with(".json") && !name.ends_with(".txt") {
                    each(name, bytes);
                }
            };
            webdataset::read(path, each).map_err(|error| error.to_string())
        }
    }
}
