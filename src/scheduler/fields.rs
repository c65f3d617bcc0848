//! Reading the fields of a `scheduler_config.json` with the types, defaults and names of the class at hand.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// The fields of a config. A missing field, and one that is `null`, has the default of the class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fields(pub(super) Map<String, Value>);

/// The value of a field that we do not honour with which it does not matter that we don't. `null` always is.
pub(super) enum Neutral {
    /// Whatever it says, it has no effect here.
    Any,
    /// `false`.
    Off,
    /// This word.
    Word(&'static str),
    /// Nothing but `null` or `false`: in diffusers it is a Python object, of which this says what it does. No config of
    /// diffusers' holds one (`save_config` fails).
    Object(&'static str),
}

impl Neutral {
    /// Returns whether `value` changes nothing.
    pub(super) fn holds(&self, value: &Value) -> bool {
        value.is_null()
            || match self {
                Neutral::Any => true,
                Neutral::Off | Neutral::Object(_) => value == &Value::Bool(false),
                Neutral::Word(word) => value.as_str() == Some(word),
            }
    }
}

/// A field whose value is one of a few words.
pub(super) trait Choice: Copy + 'static {
    /// Every value with its word in the config.
    const WORDS: &'static [(&'static str, Self)];
}

impl Fields {
    /// Returns the fields whose name is `known`, those of `defaults` (name, JSON) filled in where they are missing or
    /// `null`.
    pub(super) fn of_class(&self, known: impl Fn(&str) -> bool, defaults: &[(&str, &str)]) -> Fields {
        let mut fields = Fields(self.0.clone().into_iter().filter(|(key, _)| known(key)).collect());
        for (key, json) in defaults {
            if fields.value(key).is_none() {
                fields.0.insert((*key).to_string(), written(json));
            }
        }
        fields
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Returns the field as a flag.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.value(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| bad(key, value, "`true` or `false`")))
    }

    /// Returns the field as a finite number; Python's `-Infinity` and `Infinity` count as numbers too.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.optional_number(key).map(|number| number.unwrap_or(default))
    }

    /// Returns the field as a number, `None` where it is missing.
    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let infinity = match value.as_str() {
            Some("Infinity") => Some(f64::INFINITY),
            Some("-Infinity") => Some(f64::NEG_INFINITY),
            _ => None,
        };
        value.as_f64().or(infinity).map(Some).ok_or_else(|| bad(key, value, "a number"))
    }

    /// Returns the field as a whole number that is not negative.
    pub(super) fn count(&self, key: &str, default: u32) -> Result<u32> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n));
        number.map(|n| n as u32).ok_or_else(|| bad(key, value, "a whole number, 0 or more"))
    }

    /// Returns the field as a seed, `None` where it is missing.
    pub(super) fn seed(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| bad(key, value, "a whole number, 0 or more"))
    }

    /// Returns the field as one of its words.
    pub(super) fn choice<T: Choice>(&self, key: &str, default: T) -> Result<T> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let found = T::WORDS.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, choice)| *choice);
        found.ok_or_else(|| {
            let words: Vec<_> = T::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
            bad(key, value, &words.join(", "))
        })
    }

    /// Returns the field as numbers, `None` where it is missing.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| bad(key, value, "a list of numbers"))
    }
}

/// Returns the value that the registry writes as `json`.
pub(super) fn written(json: &str) -> Value {
    serde_json::from_str(json).expect("the registry's values are written as JSON")
}

/// Returns the error for a field with a value it cannot have; `expected` says what it can be.
pub(super) fn bad(key: &str, value: &Value, expected: &str) -> Error {
    let mut shown = value.to_string();
    if shown.chars().count() > 40 {
        shown = shown.chars().take(37).chain("...".chars()).collect();
    }
    wrong(format!("`{key}` cannot be `{}`", shown.trim_matches('"'))).hint(format!("it can be {expected}"))
}

/// Returns the error for a config that cannot be honoured.
pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Model, "scheduler_config", message)
}

/// Parses the JSON that Python writes: `json.dumps` says `NaN`, `Infinity` and `-Infinity` for floats that JSON does not
/// have (`lambda_min_clipped` is `-Infinity` by default). They become strings.
///
/// # Errors
/// serde_json's, when the rest is no JSON.
pub(super) fn parse_python_json(text: &str) -> serde_json::Result<Value> {
    let mut json = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (first, word) {
            ('"', _) => string_length(rest),
            (_, Some(word)) => word.len(),
            (other, None) => other.len_utf8(),
        };
        match word {
            Some(word) => json.extend(["\"", word, "\""]),
            None => json.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    serde_json::from_str(&json)
}

/// Returns the length in bytes of the JSON string that `text` starts with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        match parse_python_json(text).expect("JSON") {
            Value::Object(map) => Fields(map),
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn pythons_floats_are_read_and_strings_left_alone() {
        let fields = fields(r#"{"a": -Infinity, "b": [Infinity, NaN], "c\"Infinity": "say \"NaN\"", "d": 1e-4}"#);
        assert_eq!(fields.number("a", 0.0).expect("a number"), f64::NEG_INFINITY);
        assert_eq!(fields.0["c\"Infinity"], "say \"NaN\"");
        assert_eq!(fields.number("d", 0.0).expect("a number"), 1e-4);
        assert!(parse_python_json("{\"a\": \"").is_err());
    }

    #[test]
    fn null_and_missing_have_the_default() {
        let fields = fields(r#"{"a": null}"#);
        assert!(fields.flag("a", true).expect("the default"));
        assert_eq!(fields.count("b", 7).expect("the default"), 7);
    }

    #[test]
    fn a_wrong_type_is_an_error_that_names_the_field() {
        let fields = fields(r#"{"a": 1.5, "b": "yes", "c": [1, "x"]}"#);
        assert_eq!(fields.count("a", 0).expect_err("a fraction").to_string(), "`a` cannot be `1.5`");
        let error = fields.flag("b", false).expect_err("a word");
        assert_eq!(error.to_string(), "`b` cannot be `yes`");
        assert_eq!(error.how_to_fix(), Some("it can be `true` or `false`"));
        assert!(fields.numbers("c").is_err());
    }
}
