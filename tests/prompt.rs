//! Our prompts against transformers' and A1111's. `tests/golden/*.py` made the data, and say how.

mod support;

use std::fs;

use nightshift::prompt::{PromptSyntax, PromptTokenizer, Segment, TokenizerFiles};
use serde::Deserialize;
use support::root;

#[derive(Deserialize)]
struct Tokenized {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    max_length: usize,
    count: usize,
    input_ids: Vec<i64>,
}

/// The folder of the tiny T5 tokenizer, with another config if one is given.
fn t5(config: Option<&str>) -> TokenizerFiles {
    let read = |name| fs::read_to_string(root().join("tests/golden/t5").join(name)).expect("a golden file");
    TokenizerFiles {
        json: Some(read("tokenizer.json").into_bytes()),
        tokenizer_config: Some(config.map_or_else(|| read("tokenizer_config.json"), str::to_string)),
        ..TokenizerFiles::default()
    }
}

#[test]
fn t5_texts_become_what_transformers_makes_of_them() {
    let golden = fs::read_to_string(root().join("tests/golden/t5/cases.json")).expect("a golden file");
    let golden: Tokenized = serde_json::from_str(&golden).expect("valid JSON");
    assert!(golden.cases.len() > 20);
    for case in golden.cases {
        let tokens =
            PromptTokenizer::new(&t5(None), case.max_length).and_then(|t| t.encode(&case.text)).expect("valid");
        assert_eq!(tokens.input_ids, case.input_ids, "`{}`", case.text);
        assert_eq!(tokens.count, case.count, "`{}`", case.text);
        assert_eq!(tokens.truncated.is_some(), case.count > case.max_length, "`{}`", case.text);
    }
}

#[test]
fn a_unigram_vocabulary_is_known_without_its_class() {
    let encode = |config| PromptTokenizer::new(&t5(config), 6).and_then(|t| t.encode("a red ring")).expect("valid");
    assert_eq!(encode(Some("{}")), encode(None));
    let with_bos = encode(Some(r#"{"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<extra_id_0>"}"#));
    assert_eq!(with_bos.input_ids[0], 77, "a class that starts its texts does so");
}

#[test]
fn what_t5_loses_is_told() {
    let tokens = PromptTokenizer::new(&t5(None), 5).and_then(|t| t.encode("a red, ring")).expect("valid");
    assert_eq!(tokens.truncated.as_deref(), Some("d, ring"));
}

/// A prompt, and what A1111 makes of it.
#[derive(Deserialize)]
struct Read {
    prompt: String,
    #[serde(default)]
    construct: Vec<String>,
    #[serde(default)]
    crash: bool,
    #[serde(default)]
    segments: Vec<(String, f64)>,
}

fn as_a1111_writes(segment: Segment) -> (String, f64) {
    match segment {
        Segment::Text { text, weight } => (text, weight),
        Segment::Break => ("BREAK".into(), -1.0),
    }
}

#[test]
fn prompts_are_read_as_a1111_reads_them() {
    let golden = fs::read_to_string(root().join("tests/golden/attention.json")).expect("a golden file");
    let cases: Vec<Read> = serde_json::from_str(&golden).expect("valid JSON");
    let mut in_doubt = 0;
    // What we add to A1111: a way to write the word.
    let escaped = |prompt: &str| prompt.contains(r"\AND");
    for Read { prompt, construct, crash, segments } in cases.iter().filter(|case| !escaped(&case.prompt)) {
        // A `BREAK` whose weight the brackets around it have changed is a word to A1111.
        let weighed_break = segments.iter().any(|(text, weight)| text == "BREAK" && *weight != -1.0);
        match PromptSyntax::A1111.parse(prompt) {
            Ok(ours) => {
                assert!(construct.is_empty() && !crash && !weighed_break, "`{prompt}` is not supported: {construct:?}");
                let ours: Vec<_> = ours.into_iter().map(as_a1111_writes).collect();
                assert_eq!(ours, *segments, "`{prompt}`");
            }
            Err(_) if !construct.is_empty() || *crash || weighed_break => {}
            Err(error) => {
                println!("in doubt: {prompt:?}: {error}");
                in_doubt += 1;
            }
        }
    }
    assert!(cases.len() > 700);
    assert!(in_doubt * 100 < cases.len() * 4, "{in_doubt} prompts that A1111 reads are refused");
}
