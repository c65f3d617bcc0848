//! `OUT/.nightshift/run.json`: which run an output folder belongs to.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::durable::storage_error;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::Defaults;
use crate::score::ClipScore;

/// Version of what `OUT/.nightshift` looks like. A newer one than this is not touched.
pub const LAYOUT: u32 = 1;

/// One manifest of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPrint {
    /// The file as the user named it.
    pub path: String,
    /// Hash of the file.
    pub hash: String,
    /// How many data rows it has.
    pub rows: u64,
}

/// What makes two runs the same run: everything that changes pixels or layout beyond what the rows themselves say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFingerprint {
    /// Version of nightshift; may change between starts.
    pub version: String,
    /// Name of the model; may change (a folder that was moved).
    pub model: String,
    /// Hash of the model's files.
    pub model_hash: String,
    /// Values for empty cells.
    pub defaults: Defaults,
    /// Name of the noise generator.
    pub noise: String,
    /// How prompts are written.
    #[serde(default = "plain_syntax")]
    pub prompt_syntax: String,
    /// What becomes of long prompts.
    #[serde(default = "truncate")]
    pub long_prompt: String,
    /// Whether all large pictures are decoded in tiles.
    #[serde(default)]
    pub vae_tiling: bool,
    /// Layout of the output, such as `imagefolder`.
    pub format: String,
    /// Images of a shard.
    #[serde(default = "a_thousand")]
    pub shard_size: u32,
    /// Format of the pictures, such as `png`.
    #[serde(default = "png")]
    pub image_format: String,
    /// Their quality, in formats that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_quality: Option<u8>,
    /// Hash of the scorer's files, where pictures are scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer_hash: Option<String>,
    /// The least score, where one is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_clip_score: Option<ClipScore>,
    /// How many more pictures are made of an image for that, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// The manifests; may change (rows are known by key and hash).
    pub manifests: Vec<ManifestPrint>,
}

/// What folders of an older version were made with.
fn plain_syntax() -> String {
    "plain".to_string()
}

/// As [`plain_syntax`].
fn png() -> String {
    "png".to_string()
}

/// As [`plain_syntax`].
fn a_thousand() -> u32 {
    1000
}

/// As [`plain_syntax`].
fn truncate() -> String {
    "truncate".to_string()
}

/// What is in `run.json`.
#[derive(Serialize, Deserialize)]
struct RunFile {
    layout: u32,
    #[serde(flatten)]
    run: RunFingerprint,
}

/// A field in which two runs differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The field's name, which is the flag's.
    pub field: String,
    /// Its value in the folder.
    pub was: Value,
    /// Its value now.
    pub now: Value,
}

impl RunFingerprint {
    /// Returns the bytes of `run.json`.
    pub fn to_json(&self) -> String {
        let file = RunFile { layout: LAYOUT, run: self.clone() };
        serde_json::to_string_pretty(&file).expect("strings and finite numbers are valid JSON") + "\n"
    }

    /// Returns what `path` (a `run.json`) says, or `None` where there is no such file.
    ///
    /// # Errors
    /// Kind `Storage`: it cannot be read or is damaged. Kind `Usage`: a newer nightshift wrote it.
    pub fn read(path: &Path) -> Result<Option<RunFingerprint>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| storage_error("read", path, 0, error))?,
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| damaged(path, error))?;
        if let Some(layout) = value["layout"].as_u64().filter(|&layout| layout > u64::from(LAYOUT)) {
            let message = format!("a newer nightshift wrote this folder (layout {layout}, this one knows {LAYOUT})");
            return Err(Error::new(ErrorKind::Usage, "newer_layout", message)
                .at(Location::file(path))
                .hint("use that newer nightshift, or another --out"));
        }
        let file: RunFile = serde_json::from_value(value).map_err(|error| damaged(path, error))?;
        Ok(Some(file.run))
    }

    /// Returns the fields in which `now` is another run than this one: model hash, defaults, noise and format.
    pub fn differences(&self, now: &RunFingerprint) -> Vec<Difference> {
        let (was, now) = (self.binding_fields(), now.binding_fields());
        let only_now = now.keys().filter(|name| !was.contains_key(*name));
        let value = |fields: &Map<String, Value>, name: &str| fields.get(name).cloned().unwrap_or_default();
        let all = was.keys().chain(only_now).map(|name| {
            let (was, now) = (value(&was, name), value(&now, name));
            Difference { field: name.clone(), was, now }
        });
        all.filter(Difference::counts).collect()
    }

    /// Returns the fields that may not change, flat. Numbers are taken through their text: `run.json` holds text, and
    /// reading it may round the last digit.
    fn binding_fields(&self) -> Map<String, Value> {
        let value: Value = serde_json::from_str(&self.to_json()).expect("our own JSON is valid");
        let names = [
            "model_hash",
            "noise",
            "prompt_syntax",
            "long_prompt",
            "vae_tiling",
            "format",
            "shard_size",
            "image_format",
            "image_quality",
            "scorer_hash",
            "min_clip_score",
            "retries",
        ];
        let top = names.map(|name| (name.to_string(), value[name].clone()));
        let defaults = value["defaults"].as_object().cloned().unwrap_or_default();
        top.into_iter().chain(defaults).collect()
    }
}

impl Difference {
    /// Returns whether it is one. Only some formats have a quality: where one of two has none, the formats differ.
    fn counts(&self) -> bool {
        let no_quality = self.field == "image_quality" && (self.was.is_null() || self.now.is_null());
        self.was != self.now && !no_quality
    }
}

/// Returns the error for a folder that belongs to another run: each field with both values, kind `OtherRun`.
pub fn other_run(out: &Path, differences: &[Difference]) -> Error {
    let fields: Vec<String> = differences
        .iter()
        .map(|difference| {
            format!("`{}` was `{}`, now `{}`", difference.field, plain(&difference.was), plain(&difference.now))
        })
        .collect();
    let flags: Vec<String> = differences.iter().filter_map(flag).collect();
    let same = if flags.is_empty() { unnamed(differences).to_string() } else { flags.join(" ") };
    Error::new(ErrorKind::OtherRun, "other_run", format!("this folder belongs to another run: {}", fields.join("; ")))
        .at(Location::file(out))
        .hint(format!("give another --out, or what that run had: {same}"))
}

/// Returns what that run had where no flag of its own sets it back.
fn unnamed(differences: &[Difference]) -> &'static str {
    match differences.iter().find(|difference| difference.field == "scorer_hash") {
        Some(scorer) if scorer.was.is_null() => "no --scorer",
        Some(_) => "the same --scorer",
        None if differences.iter().any(|difference| difference.was.is_null()) => "none of these flags",
        None => "the same model",
    }
}

/// Returns the flag that sets a field back, or `None` for the model's and the scorer's hash, which no flag sets, and where there
/// was none.
fn flag(difference: &Difference) -> Option<String> {
    if difference.field.ends_with("_hash") || difference.was.is_null() {
        return None;
    }
    let value = plain(&difference.was);
    let value = if value.is_empty() || value.contains(' ') { format!("\"{value}\"") } else { value };
    Some(format!("--{} {value}", difference.field.replace('_', "-")))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn damaged(path: &Path, source: serde_json::Error) -> Error {
    Error::new(
        ErrorKind::Storage,
        "run_json_damaged",
        "this file is damaged, so it is unknown which run made the folder",
    )
    .at(Location::file(path))
    .hint("put back a copy; or remove it and move `journal` beside it away, which makes all images again")
    .source(source)
}
