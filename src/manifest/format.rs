//! How the rows of a file are written.

use std::path::Path;
use std::str::FromStr;

/// A way to write rows (`--input-format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Cells with commas (or semicolons, tabs, bars) between them, below a header.
    Csv,
    /// The same with tabs.
    Tsv,
    /// One JSON object a line; requests of OpenAI's Batch API are known by their shape.
    Jsonl,
    /// Parquet.
    Parquet,
    /// One prompt a line, and nothing else.
    Txt,
}

/// Endings of names, without those of archives.
const ENDINGS: [(&str, Format); 8] = [
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("tab", Format::Tsv),
    ("jsonl", Format::Jsonl),
    ("ndjson", Format::Jsonl),
    ("parquet", Format::Parquet),
    ("pq", Format::Parquet),
    ("txt", Format::Txt),
];

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ENDINGS.iter().find(|(ending, _)| *ending == text.to_ascii_lowercase());
        known.map(|(_, format)| *format).ok_or_else(|| "expected csv, tsv, jsonl, parquet or txt".to_string())
    }
}

impl Format {
    /// Returns the format that the name of a file says, packed or not.
    pub(super) fn of_name(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = [".gz", ".zst", ".zstd"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
        let (_, ending) = name.rsplit_once('.')?;
        ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, format)| *format)
    }

    /// Returns the format that the first bytes of a file look like: CSV unless they are clearly another.
    pub(super) fn of_content(bytes: &[u8]) -> Format {
        let head = super::content::text_head(bytes);
        match head.strip_prefix('{').map(str::trim_start) {
            _ if bytes.starts_with(super::content::PARQUET) => Format::Parquet,
            Some(then) if then.starts_with(['"', '}']) => Format::Jsonl,
            _ => Format::Csv,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_format() {
        let of = |name: &str| Format::of_name(Path::new(name));
        assert_eq!(
            (of("a/b.csv"), of("b.TSV.gz"), of("x.ndjson.zst")),
            (Some(Format::Csv), Some(Format::Tsv), Some(Format::Jsonl))
        );
        assert_eq!(
            (of("a.parquet"), of("a.b.txt"), of("txt"), of("a.gz"), of("<stdin>")),
            (Some(Format::Parquet), Some(Format::Txt), None, None, None)
        );
    }

    #[test]
    fn so_does_the_content() {
        assert_eq!(Format::of_content(b"\xEF\xBB\xBF\n { \"prompt\": 1}"), Format::Jsonl);
        assert_eq!(Format::of_content(b"PAR1..."), Format::Parquet);
        assert_eq!(Format::of_content(b"{red|blue} cat,seed\n"), Format::Csv);
        assert_eq!(Format::of_content(b""), Format::Csv);
    }
}
