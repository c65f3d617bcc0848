//! Our prompts against transformers' and A1111's. `tests/golden/*.py` made the data, and say how.

mod support;

use std::fs;

use nightshift::prompt::{PromptTokenizer, TokenizerFiles};
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
