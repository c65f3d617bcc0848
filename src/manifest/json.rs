//! One line of JSON → names and cells, or what is wrong with it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::columns::Field;
use super::numbers::{Problem, plain_whole};
use super::shown::shown;

/// The entries of an object as they are written, in their order, repeated names and all.
#[derive(Debug, Default)]
pub(super) struct Object<'l>(pub Vec<(Cow<'l, str>, &'l RawValue)>);

impl<'l> Object<'l> {
    /// Returns the value called `name`.
    pub fn get(&self, name: &str) -> Option<&'l RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

/// Returns the object that `line` is; `unfinished` says that the file ends with it, without a line break.
///
/// # Errors
/// The code and the text of the row's error.
pub(super) fn object(line: &str, unfinished: bool) -> Result<Object<'_>, (&'static str, Problem)> {
    let line = line.trim_ascii();
    let error = if line.starts_with('{') {
        match serde_json::from_str(line) {
            Ok(object) => return Ok(object),
            Err(error) => error,
        }
    } else {
        match serde_json::from_str::<&RawValue>(line) {
            Ok(value) => {
                let hint = "write an object, such as {\"prompt\": \"a cat\", \"seed\": 1}";
                return Err(("not_object", Problem::new(format!("the line is {}, not an object", kind(value)), hint)));
            }
            Err(error) => error,
        }
    };
    if error.is_eof() && unfinished {
        let hint = "fetch or write the file again, or remove its last line";
        return Err(("cut_row", Problem::new("the file ends in the middle of this line: it is cut", hint)));
    }
    let told = error.to_string();
    let what = told.split(" at line ").next().unwrap_or_default();
    let message = format!("the line is not JSON: {what} (byte {})", error.column());
    Err(("bad_json", Problem::new(message, "write one whole JSON object on each line")))
}

/// Returns the cell that `value` is in the column of `field`, or in one that passes through: there, lists and objects stay
/// JSON text.
///
/// # Errors
/// A list or object where the column has a meaning to us, and texts that are no characters.
pub(super) fn cell<'l>(value: &'l RawValue, field: Option<Field>) -> Result<Cow<'l, str>, Problem> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'"') if !text.contains('\\') => Ok(text[1..text.len() - 1].into()),
        Some(b'"') => serde_json::from_str::<String>(text).map(Cow::Owned).map_err(|error| {
            let told = error.to_string();
            let what = told.split(" at line ").next().unwrap_or_default();
            Problem::new(format!("`{}`: {what}", shown(text)), "write the character itself")
        }),
        Some(b'n') => Ok("".into()),
        Some(b'[') if matches!(field, Some(Field::Timesteps | Field::Sigmas)) => levels(text),
        Some(b'[' | b'{') if field.is_some() => {
            let message = format!("`{}` is {}, not a text or a number", shown(text), kind(value));
            Err(Problem::new(message, "write the value itself"))
        }
        Some(b'[' | b'{' | b't' | b'f') => Ok(text.into()),
        _ => Ok(if field.is_some_and(Field::is_whole) { plain_whole(text) } else { text.into() }),
    }
}

/// Returns a list of numbers as a cell writes it.
fn levels(text: &str) -> Result<Cow<'_, str>, Problem> {
    match serde_json::from_str::<Vec<f64>>(text) {
        Ok(_) => Ok(text[1..text.len() - 1].trim().into()),
        Err(_) => {
            Err(Problem::new(format!("`{}` is not a list of numbers", shown(text)), "write it as [999, 749, 499]"))
        }
    }
}

/// Returns what a message calls a value.
pub(super) fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "a JSON object",
        Some(b'[') => "a JSON list",
        Some(b'"') => "a JSON text",
        Some(b't' | b'f') => "a JSON boolean",
        Some(b'n') => "a JSON null",
        _ => "a JSON number",
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

/// A name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Entries {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some((Key(key), value)) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(line: &str, field: Option<Field>) -> Vec<(String, Result<String, String>)> {
        let object = object(line, false).unwrap_or_else(|error| panic!("{line}: {error:?}"));
        let told = |value| cell(value, field).map(Cow::into_owned).map_err(|problem| problem.message);
        object.0.into_iter().map(|(key, value)| (key.into_owned(), told(value))).collect()
    }

    #[test]
    fn values_are_cells() {
        let line =
            r#" { "a" : "x", "\u0062":"\"\n\ud83d\ude00", "c": 7.50, "d":null,"e":true,"f":[1, "x"] ,"a":{"y": 1} } "#;
        let found = cells(line, None);
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e", "f", "a"]);
        let texts: Vec<_> = found.iter().map(|(_, text)| text.as_deref().expect("good")).collect();
        assert_eq!(texts, ["x", "\"\n😀", "7.50", "", "true", "[1, \"x\"]", "{\"y\": 1}"]);
    }

    #[test]
    fn known_columns_take_values_only() {
        let one = |value: &str, field| cells(&format!("{{\"x\":{value}}}"), Some(field)).remove(0).1;
        assert_eq!(one("20.0", Field::NumInferenceSteps), Ok("20".into()));
        assert_eq!(one("20.5", Field::NumInferenceSteps), Ok("20.5".into()));
        assert_eq!(one("18446744073709551615", Field::Seed), Ok("18446744073709551615".into()));
        assert_eq!(one("20.0", Field::GuidanceScale), Ok("20.0".into()));
        assert_eq!(one("[999, 4.5e1]", Field::Timesteps), Ok("999, 4.5e1".into()));
        assert_eq!(one("[\"a\"]", Field::Sigmas), Err("`[\"a\"]` is not a list of numbers".into()));
        assert_eq!(one("{}", Field::Prompt), Err("`{}` is a JSON object, not a text or a number".into()));
        assert_eq!(one(r#""\ud800x""#, Field::Prompt), Err(r#"`"\ud800x"`: unexpected end of hex escape"#.into()));
    }

    #[test]
    fn bad_lines_say_where() {
        let told = |line: &str, unfinished| {
            object(line, unfinished).map(|_| ()).map_err(|(code, problem)| (code, problem.message))
        };
        assert_eq!(told("[1]", false), Err(("not_object", "the line is a JSON list, not an object".into())));
        assert_eq!(
            told("{\"a\":1} {\"b\":2}", false),
            Err(("bad_json", "the line is not JSON: trailing characters (byte 9)".into()))
        );
        assert_eq!(
            told("{\"a\":1", true),
            Err(("cut_row", "the file ends in the middle of this line: it is cut".into()))
        );
        assert_eq!(
            told("{\"a\":1", false),
            Err(("bad_json", "the line is not JSON: EOF while parsing an object (byte 6)".into()))
        );
        assert_eq!(
            told("{'a':1}", false),
            Err(("bad_json", "the line is not JSON: key must be a string (byte 2)".into()))
        );
    }
}
