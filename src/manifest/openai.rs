//! Lines of OpenAI's Batch API (`/v1/images/generations`), known by their shape.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::json::{Object, kind};
use super::numbers::Problem;
use super::shown::shown;

/// The only endpoint that makes pictures of prompts.
const URL: &str = "/v1/images/generations";

/// Settings of OpenAI's that nothing here corresponds to.
const WITHOUT_EFFECT: [&str; 12] = [
    "model",
    "quality",
    "style",
    "response_format",
    "user",
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "stream",
    "partial_images",
    "input_fidelity",
];

/// Returns whether `object` is a request.
pub(super) fn is_request(object: &Object) -> bool {
    let text = |name| object.get(name).is_some_and(|value| value.get().starts_with('"'));
    text("custom_id") && text("url") && object.get("body").is_some_and(|body| body.get().starts_with('{'))
}

/// Returns the columns of a request: its id, and what its body asks for. A request that is no such thing keeps only its id,
/// so that nothing can make a row of it, and comes with the code and the text of its error.
pub(super) fn columns<'l>(object: Object<'l>) -> (Object<'l>, Option<(&'static str, Problem)>) {
    match asked(&object) {
        Ok(columns) => (columns, None),
        Err(error) => {
            let id = object.0.into_iter().filter(|(name, _)| name == "custom_id").take(1);
            (Object(id.collect()), Some(error))
        }
    }
}

fn asked<'l>(object: &Object<'l>) -> Result<Object<'l>, (&'static str, Problem)> {
    let mut columns = Vec::new();
    for (name, value) in &object.0 {
        match &**name {
            "method" => must_be("method", value, "POST")?,
            "url" => must_be("url", value, URL)?,
            "body" => columns.extend(body(value)?.0),
            _ => columns.push((name.clone(), *value)),
        }
    }
    for name in ["method", "url", "body"] {
        if object.get(name).is_none() {
            let hint = "a request has `custom_id`, `method`, `url` and `body`";
            return Err(("bad_request", Problem::new(format!("the request has no `{name}`"), hint)));
        }
    }
    // OpenAI's word for "as you like" is our empty cell.
    columns.retain(|(name, value)| name != "size" || value.get() != "\"auto\"");
    Ok(Object(columns))
}

fn must_be(name: &str, value: &RawValue, wanted: &str) -> Result<(), (&'static str, Problem)> {
    match serde_json::from_str::<Cow<str>>(value.get()) {
        Ok(found) if found == wanted => Ok(()),
        found => {
            let found = found.unwrap_or_else(|_| value.get().into());
            let message = format!("`{name}` is `{}`, which cannot be answered here", shown(&found));
            Err(("bad_request", Problem::new(message, format!("only `{wanted}` can"))))
        }
    }
}

fn body<'l>(value: &'l RawValue) -> Result<Object<'l>, (&'static str, Problem)> {
    serde_json::from_str(value.get()).map_err(|_| {
        let message = format!("`body` is {}, not an object", kind(value));
        ("bad_request", Problem::new(message, "write an object, such as {\"prompt\": \"a cat\"}"))
    })
}

/// Adds those of the `names` that have no effect to `found`.
pub(super) fn note_without_effect<'n>(names: impl Iterator<Item = &'n str>, found: &mut BTreeSet<&'static str>) {
    for name in names {
        found.extend(WITHOUT_EFFECT.iter().find(|known| **known == name));
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::object;
    use super::*;

    fn read(line: &str) -> (String, Option<String>) {
        let object = object(line, false).expect("JSON");
        let (columns, error) = columns(object);
        let cells: Vec<String> = columns.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (cells.join(" "), error.map(|(_, problem)| problem.message))
    }

    #[test]
    fn a_request_is_its_id_and_its_body() {
        let line = r#"{"custom_id":"a","method":"POST","url":"/v1/images/generations","body":{"prompt":"x","n":2,"size":"auto","seed":5}}"#;
        assert!(is_request(&object(line, false).expect("JSON")));
        assert_eq!(read(line), (r#"custom_id="a" prompt="x" n=2 seed=5"#.into(), None));
        assert!(!is_request(&object(r#"{"custom_id":"a","prompt":"x"}"#, false).expect("JSON")));
    }

    #[test]
    fn other_requests_keep_their_id_only() {
        let told = |line: &str| read(line);
        let url = "`url` is `/v1/chat/completions`, which cannot be answered here";
        assert_eq!(
            told(r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"prompt":"x"}}"#),
            (r#"custom_id="a""#.into(), Some(url.into()))
        );
        assert_eq!(
            told(r#"{"custom_id":"a","method":"GET","url":"u"}"#).1.expect("bad"),
            "`method` is `GET`, which cannot be answered here"
        );
        let method = r#""custom_id":"a","method":"POST","url":"/v1/images/generations""#;
        assert_eq!(told(&format!("{{{method}}}")).1.expect("bad"), "the request has no `body`");
        assert_eq!(told(&format!("{{{method},\"body\":[1]}}")).1.expect("bad"), "`body` is a JSON list, not an object");
    }
}
