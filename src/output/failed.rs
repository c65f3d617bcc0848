//! `OUT/.nightshift/failed.csv`: the rows that failed, as they stood in the manifest, and why. It is itself a manifest, so
//! that what failed can be mended there and run again.

use std::collections::HashSet;
use std::path::Path;

use super::durable::{Durable, WholeFile};
use crate::error::{Error, ErrorKind, Result};

/// The columns that are added before the manifest's own: a row that failed for having too many cells keeps them all, at
/// its end, and fails again until someone mends it.
pub const ERROR_COLUMNS: [&str; 2] = ["error_code", "error_message"];

/// The names under which a manifest may give a row's id.
const ID_COLUMNS: [&str; 3] = ["id", "custom_id", "key"];

/// A row that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRow {
    /// The row's key ([`crate::job::Job::key`]).
    pub key: String,
    /// The cells as they stood in the manifest, one for each of its columns.
    pub cells: Vec<String>,
    /// Stable name of the error.
    pub code: String,
    /// The error's message.
    pub message: String,
}

/// Writes the rows that failed to `path`, in the given order and each key once, or removes the file where none did.
///
/// `columns` are the manifest's own. Where none of them is an id, a column `id` with the row's key is put first: without
/// it the rows would get new numbers, and with them new names and seeds.
///
/// # Errors
/// Kind `Storage`.
pub fn write(durable: &Durable, path: &Path, columns: &[String], rows: &[FailedRow]) -> Result<()> {
    if rows.is_empty() {
        return durable.remove(path);
    }
    let bytes = encode(columns, rows).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "failed_csv", "cannot encode the rows that failed").source(error)
    })?;
    durable.commit(&[WholeFile { path: path.to_path_buf(), bytes: &bytes }])
}

fn encode(columns: &[String], rows: &[FailedRow]) -> Result<Vec<u8>, csv::Error> {
    let has_id = columns.iter().any(|column| is_one_of(column, &ID_COLUMNS));
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    let id = (!has_id).then_some("id");
    writer.write_record(ERROR_COLUMNS.into_iter().chain(id).chain(columns.iter().map(String::as_str)))?;
    let mut seen = HashSet::new();
    for row in rows.iter().filter(|row| seen.insert(row.key.as_str())) {
        let id = (!has_id).then_some(row.key.as_str());
        let cells = row.cells.iter().map(String::as_str);
        writer.write_record([row.code.as_str(), row.message.as_str()].into_iter().chain(id).chain(cells))?;
    }
    writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
}

fn is_one_of(column: &str, names: &[&str]) -> bool {
    names.iter().any(|name| column.trim().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(columns: &[&str], rows: &[FailedRow]) -> String {
        let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
        String::from_utf8(encode(&columns, rows).unwrap()).unwrap()
    }

    fn row(key: &str, cells: &[&str]) -> FailedRow {
        let cells = cells.iter().map(ToString::to_string).collect();
        FailedRow { key: key.into(), cells, code: "nan".into(), message: "bad, \"very\" bad".into() }
    }

    #[test]
    fn rows_keep_their_cells_and_get_their_key_as_id() {
        let rows = [row("000000007", &["a, \"b\"\nc", "5"]), row("000000007", &["again", "5"])];
        let expected = "error_code,error_message,id,prompt,seed\n\
                        nan,\"bad, \"\"very\"\" bad\",000000007,\"a, \"\"b\"\"\nc\",5\n";
        assert_eq!(text(&["prompt", "seed"], &rows), expected);
    }

    #[test]
    fn an_id_column_stays_and_surplus_cells_are_kept() {
        let text = text(&["id", "prompt"], &[row("cat", &["cat", "a cat", " on a mat"])]);
        assert_eq!(text, "error_code,error_message,id,prompt\nnan,\"bad, \"\"very\"\" bad\",cat,a cat, on a mat\n");
    }

    #[test]
    fn the_file_goes_when_nothing_failed() {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("failed.csv");
        let durable = Durable::default();
        write(&durable, &path, &["prompt".into()], &[row("0", &["x"])]).unwrap();
        assert!(path.exists());
        write(&durable, &path, &["prompt".into()], &[]).unwrap();
        assert!(!path.exists());
        write(&durable, &path, &["prompt".into()], &[]).unwrap();
    }
}
