//! One JSON config file, with errors that say which file and which key.

use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, ErrorKind, Location, Result};

/// A JSON object and the file that it came from.
pub(super) struct Config {
    path: PathBuf,
    /// The file's text, as it is.
    pub(super) text: String,
    value: Value,
}

impl Config {
    /// Reads `path`, which must be there; `hint` says what it is for if it is not.
    pub(super) fn read(path: PathBuf, hint: &str) -> Result<Config> {
        Config::read_if_there(&path)?.ok_or_else(|| missing(&path).hint(hint))
    }

    /// Reads `path`, or returns `None` if it is not there.
    pub(super) fn read_if_there(path: &Path) -> Result<Option<Config>> {
        let Some(text) = read_text_if_there(path)? else { return Ok(None) };
        let value: Value = serde_json::from_str(&text).map_err(|error| {
            bad_config(path, format!("not valid JSON: {error}")).source(error).hint("copy or export the file again")
        })?;
        if !value.is_object() {
            return Err(bad_config(path, "the file must hold one JSON object".into()));
        }
        Ok(Some(Config { path: path.to_path_buf(), text, value }))
    }

    /// Returns the string under `key`, or `None` if it is absent or null.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Returns the whole number under `key`, or `None` if it is absent or null.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number", as_count)
    }

    /// Returns the number under `key`, or `None` if it is absent or null.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// Returns the flag under `key`, or `None` if it is absent or null.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "`true` or `false`", Value::as_bool)
    }

    /// Returns the list of numbers under `key`, or `None` if it is absent or null.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let list = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
        self.typed(key, "a list of numbers", list)
    }

    /// Returns the whole numbers under `key`, where one number stands for a list of one.
    pub(super) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.typed(key, "a whole number or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(as_count).collect(),
            other => as_count(other).map(|one| vec![one]),
        })
    }

    /// Returns what is under `key`, or `None` if it is absent or null.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// Returns an error about what is under `key`.
    pub(super) fn bad(&self, key: &str, message: &str) -> Error {
        bad_config(&self.path, format!("`{key}` {message}"))
    }

    fn typed<'a, T>(&'a self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.bad(key, &format!("must be {expected}, not `{value}`"))),
            },
        }
    }
}

fn as_count(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// Returns the text of `path`, or `None` if it is not there.
pub(super) fn read_text_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Returns the bytes of `path`, or `None` if it is not there.
pub(super) fn read_bytes_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Model, "model_unreadable", format!("cannot read the file: {error}"))
        .at(Location::file(path))
        .source(error)
}

/// Returns the error for a file of the layout that is not there.
pub(super) fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::Model, "model_file_missing", "the model folder lacks this file").at(Location::file(path))
}

fn bad_config(path: &Path, message: String) -> Error {
    Error::new(ErrorKind::Model, "bad_model_config", message).at(Location::file(path))
}
