//! How manifests are read.

use clap::Args;

use crate::manifest::{self, Format as ManifestFormat, MAX_FIELD};

/// How manifests are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reading manifests")]
pub struct ReadingArgs {
    /// Format of the manifests: csv, tsv, jsonl, parquet or txt  [default: by the ending of the name, else by the content]
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<ManifestFormat>,
    /// Column that holds the prompt  [default: prompt, text or caption]
    #[arg(long, value_name = "NAME")]
    pub prompt_col: Option<String>,
    /// Column that holds the id  [default: id, custom_id or key]
    #[arg(long, value_name = "NAME")]
    pub id_col: Option<String>,
    /// Encoding of the files, such as windows-1252  [default: UTF-8, or UTF-16 with a byte order mark]
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// Character between cells; `\t` is a tab  [default: found in the header]
    #[arg(long, value_name = "CHAR", value_parser = one_byte)]
    pub delimiter: Option<u8>,
    /// Character before a quote that belongs to the value, besides doubled quotes
    #[arg(long, value_name = "CHAR", value_parser = one_byte)]
    pub escape: Option<u8>,
    /// Bytes that a cell may have
    #[arg(long, value_name = "BYTES", default_value_t = MAX_FIELD)]
    pub max_field: usize,
    /// Accept rows with an empty prompt
    #[arg(long)]
    pub allow_empty: bool,
}

/// Reads one ASCII character, or `\t`.
fn one_byte(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err("expected one ASCII character, or `\\t`".to_string()),
    }
}

impl ReadingArgs {
    pub(super) fn into_options(self) -> manifest::Options {
        manifest::Options {
            format: self.input_format,
            prompt_col: self.prompt_col,
            id_col: self.id_col,
            encoding: self.encoding,
            delimiter: self.delimiter,
            escape: self.escape,
            max_field: self.max_field,
            allow_empty: self.allow_empty,
        }
    }
}
