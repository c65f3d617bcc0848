//! Files that are none of our formats, or another than their names say: recognised by what is in them.

use std::path::Path;

use super::format::Format;
use crate::error::{Error, ErrorKind, Location, Result};

/// First and last bytes of a Parquet file.
pub(super) const PARQUET: &[u8] = b"PAR1";

/// First bytes of a format, what it is, and what to do about it.
const FORMATS: &[(&[u8], &str, &str)] = &[
    (b"PK\x03\x04", "an Excel workbook (.xlsx) or another zip archive", "save it as `CSV UTF-8`, or unzip it first"),
    (b"\xD0\xCF\x11\xE0", "an old Excel workbook (.xls)", "save it as `CSV UTF-8`"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "fetch the file: git lfs pull"),
    (b"\x1F\x8B", "a gzip archive in another archive", "unpack it once: gunzip"),
    (b"\x28\xB5\x2F\xFD", "a zstd archive in another archive", "unpack it once: zstd -d"),
    (b"BZh", "a bzip2 archive", "unpack it first: bunzip2"),
    (b"\xFD7zXZ\0", "an xz archive", "unpack it first: unxz"),
    (PARQUET, "a Parquet file", "call it .parquet, or use `--input-format parquet`"),
    (b"%PDF-", "a PDF document", "write it as CSV first"),
    (b"\x89PNG", "a PNG image", "name a manifest, not an image"),
    (b"\x7FELF", "a program", "name a manifest"),
];

/// Checks that `bytes` are not clearly something else than `format`.
///
/// # Errors
/// A structure error that says what the file is.
pub(super) fn refuse_other_formats(bytes: &[u8], format: Format, path: &Path) -> Result<()> {
    let code = match format {
        Format::Csv => "not_csv",
        Format::Tsv => "not_tsv",
        Format::Jsonl => "not_jsonl",
        Format::Parquet => "not_parquet",
        Format::Txt => "not_txt",
    };
    let refuse = |what: &str, hint: &str| {
        Err(Error::new(ErrorKind::Manifest, code, format!("this is {what}"))
            .at(Location::file(path))
            .hint(hint.to_string()))
    };
    if format == Format::Parquet && bytes.starts_with(PARQUET) {
        return Ok(());
    }
    if let Some((_, what, hint)) = FORMATS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return refuse(what, hint);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return refuse("a tar archive", "unpack it first: tar -xf");
    }
    let head = text_head(bytes);
    if ["<!doctype html", "<html", "<?xml"].iter().any(|tag| head.starts_with(tag)) {
        return refuse("a web page (HTML or XML)", "the download gave a page instead of the file: fetch the raw file");
    }
    let json = |open: char, then: char| head.strip_prefix(open).is_some_and(|rest| rest.trim_start().starts_with(then));
    match format {
        Format::Csv | Format::Tsv | Format::Txt if json('{', '"') => {
            refuse("JSON", "one object a line: call it .jsonl, or use `--input-format jsonl`")
        }
        Format::Csv | Format::Tsv | Format::Txt if json('[', '{') => {
            refuse("a JSON list", "write one object a line (jq -c '.[]'), and call it .jsonl")
        }
        Format::Parquet => refuse("no Parquet file", "say what it is with `--input-format`"),
        _ => Ok(()),
    }
}

/// Returns the first characters after a byte order mark and white space, in lower case.
pub(super) fn text_head(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]);
    head.trim_start().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        let said = |bytes: &[u8]| {
            refuse_other_formats(bytes, Format::Csv, Path::new("a.csv")).map_err(|error| error.to_string())
        };
        assert_eq!(said(b"prompt\na cat\n"), Ok(()));
        assert_eq!(said(b"[red] cat,seed\n"), Ok(()));
        assert_eq!(said(b"\x1F\x8B\x08"), Err("a.csv: this is a gzip archive in another archive".into()));
        assert_eq!(said(b"\xEF\xBB\xBF\n <!DOCTYPE HTML>"), Err("a.csv: this is a web page (HTML or XML)".into()));
        assert_eq!(said(b"{ \"prompt\": \"a cat\"}\n"), Err("a.csv: this is JSON".into()));
    }
}
