//! Answers to requests of OpenAI's Batch API, a JSON line each, as its `output.jsonl` and `errors.jsonl` have them. Pure:
//! the same request gets the same line, on whatever day it is made.

use serde_json::{Value, json};

/// A picture of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture<'a> {
    /// Its path relative to the output folder, with `/`.
    pub file_name: &'a str,
    /// The prompt as it was used, where that is not the prompt as it was given.
    pub revised_prompt: Option<&'a str>,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request's: it cannot be made as it is. Answered with the status 400.
    Request,
    /// Ours: the request may be made another time. It has no answer, as one that OpenAI let expire.
    Service,
}

/// Returns the line for a request whose pictures are made, without a line break.
pub fn response_line(custom_id: &str, pictures: &[Picture]) -> String {
    let data: Vec<Value> = pictures.iter().map(|picture| picture.to_json()).collect();
    let line = Line { custom_id, names: &pictures.iter().map(|picture| picture.file_name).collect::<Vec<_>>() };
    // Nothing in an output folder may depend on the clock.
    let body = json!({ "created": 0, "data": data });
    line.render(line.response(200, body), Value::Null)
}

/// Returns the line for a request that failed with `code` and `message`, without a line break.
pub fn error_line(custom_id: &str, fault: Fault, code: &str, message: &str) -> String {
    let line = Line { custom_id, names: &[code, message] };
    let error = json!({ "code": code, "message": message });
    let response = match fault {
        Fault::Request => {
            let told = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": code });
            line.response(400, json!({ "error": told }))
        }
        Fault::Service => Value::Null,
    };
    line.render(response, error)
}

impl Picture<'_> {
    fn to_json(self) -> Value {
        match self.revised_prompt {
            Some(prompt) => json!({ "url": self.file_name, "revised_prompt": prompt }),
            None => json!({ "url": self.file_name }),
        }
    }
}

/// One line, and what its ids are made of.
struct Line<'a> {
    custom_id: &'a str,
    names: &'a [&'a str],
}

impl Line<'_> {
    fn render(&self, response: Value, error: Value) -> String {
        let id = format!("batch_req_{}", self.hash("line"));
        json!({ "id": id, "custom_id": self.custom_id, "response": response, "error": error }).to_string()
    }

    fn response(&self, status_code: u16, body: Value) -> Value {
        json!({ "status_code": status_code, "request_id": format!("req_{}", self.hash("request")), "body": body })
    }

    /// Returns 32 hex digits that tell this line from all others.
    fn hash(&self, purpose: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in ["nightshift batch v1", purpose, self.custom_id].into_iter().chain(self.names.iter().copied()) {
            // With lengths: `a`, `bc` are not `ab`, `c`.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a line with `ID` for the hash of each id.
    fn without_hashes(line: &str) -> String {
        let mut parts = line.split("req_");
        let first = parts.next().unwrap_or_default().to_string();
        parts.fold(first, |line, part| line + "req_ID" + &part[32..])
    }

    #[test]
    fn an_answer_names_its_pictures() {
        let pictures = [
            Picture { file_name: "images/00000/a_0.png", revised_prompt: None },
            Picture { file_name: "images/00000/a_1.png", revised_prompt: Some("a \"cat\"") },
        ];
        let line = response_line("a", &pictures);
        assert_eq!(
            without_hashes(&line),
            "{\"id\":\"batch_req_ID\",\"custom_id\":\"a\",\"response\":{\"status_code\":200,\
             \"request_id\":\"req_ID\",\"body\":{\"created\":0,\"data\":[{\"url\":\"images/00000/a_0.png\"},\
             {\"url\":\"images/00000/a_1.png\",\"revised_prompt\":\"a \\\"cat\\\"\"}]}},\"error\":null}"
        );
        assert_eq!(line, response_line("a", &pictures), "no clock");
    }

    #[test]
    fn failures_say_whose_fault_they_are() {
        assert_eq!(
            without_hashes(&error_line("a", Fault::Request, "empty_prompt", "the prompt\nis empty")),
            "{\"id\":\"batch_req_ID\",\"custom_id\":\"a\",\"response\":{\"status_code\":400,\
             \"request_id\":\"req_ID\",\"body\":{\"error\":{\"message\":\"the prompt\\nis empty\",\
             \"type\":\"invalid_request_error\",\"param\":null,\"code\":\"empty_prompt\"}}},\
             \"error\":{\"code\":\"empty_prompt\",\"message\":\"the prompt\\nis empty\"}}"
        );
        assert_eq!(
            without_hashes(&error_line("a", Fault::Service, "vae_failed", "x")),
            "{\"id\":\"batch_req_ID\",\"custom_id\":\"a\",\"response\":null,\
             \"error\":{\"code\":\"vae_failed\",\"message\":\"x\"}}"
        );
    }

    #[test]
    fn ids_differ_where_lines_do() {
        let id = |line: &str| line[..54].to_string();
        let one = response_line("ab", &[Picture { file_name: "c", revised_prompt: None }]);
        let other = response_line("a", &[Picture { file_name: "bc", revised_prompt: None }]);
        assert_ne!(id(&one), id(&other));
        assert_ne!(id(&one), id(&error_line("ab", Fault::Service, "c", "")));
    }
}
