//! Our prompts against transformers' and A1111's. `tests/golden/*.py` made the data, and say how.

mod support;

use std::fs;

use ndarray::Array2;
use nightshift::prompt::{Chunks, LongPrompt, PromptSyntax, PromptTokenizer, Segment, TokenizerFiles, emphasize};
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

#[derive(Deserialize)]
struct Chunked {
    cases: Vec<Cut>,
    weights: Vec<f32>,
    before: Vec<Vec<f32>>,
    after: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Cut {
    prompt: String,
    model_max_length: usize,
    ids: Vec<Vec<i64>>,
    weights: Vec<Vec<f64>>,
}

fn chunked() -> Chunked {
    let golden = fs::read_to_string(root().join("tests/golden/chunks.json")).expect("a golden file");
    serde_json::from_str(&golden).expect("valid JSON")
}

/// The tiny CLIP tokenizer.
fn clip(model_max_length: usize) -> PromptTokenizer {
    let read = |name| fs::read_to_string(root().join("tests/fixtures/tiny/tokenizer").join(name)).expect("a fixture");
    let files = TokenizerFiles {
        vocab_json: Some(read("vocab.json").into_bytes()),
        merges_txt: Some(read("merges.txt")),
        tokenizer_config: Some(read("tokenizer_config.json")),
        ..TokenizerFiles::default()
    };
    PromptTokenizer::new(&files, model_max_length).expect("valid")
}

fn cut(prompt: &str, model_max_length: usize, long: LongPrompt) -> nightshift::error::Result<Chunks> {
    Chunks::new(&PromptSyntax::A1111.parse(prompt)?, &clip(model_max_length), long)
}

#[test]
fn long_prompts_are_cut_as_a1111_cuts_them() {
    let cases = chunked().cases;
    assert!(cases.len() > 40);
    for case in cases {
        let ours = cut(&case.prompt, case.model_max_length, LongPrompt::Chunk).expect("supported");
        assert_eq!(ours.ids, case.ids, "`{}`", case.prompt);
        let theirs: Vec<Vec<f32>> =
            case.weights.iter().map(|chunk| chunk.iter().map(|w| *w as f32).collect()).collect();
        assert_eq!(ours.weights, theirs, "`{}`", case.prompt);
        assert_eq!(ours.truncated, None);
    }
}

#[test]
fn weights_change_hidden_states_as_in_a1111() {
    let Chunked { weights, before, after, .. } = chunked();
    let array = |rows: Vec<Vec<f32>>| {
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).expect("rows of one length")
    };
    let (mut ours, theirs) = (array(before), array(after));
    emphasize(&mut ours, &weights);
    let largest = theirs.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let difference = (&ours - &theirs).iter().fold(0f32, |most, value| most.max(value.abs()));
    assert!(difference <= 2e-6 * largest, "{difference} of {largest}");
}

#[test]
fn plain_truncation_is_what_the_tokenizer_does() {
    let text = "a red circle, (a blue star:1.3) [of] BREAK a ring, a heart";
    for model_max_length in [5, 12, 77] {
        let tokenizer = clip(model_max_length);
        let segments = PromptSyntax::Plain.parse(text).expect("plain");
        let ours = Chunks::new(&segments, &tokenizer, LongPrompt::Truncate).expect("valid");
        assert_eq!(ours, Chunks::from(tokenizer.encode(text).expect("valid")));
    }
}

#[test]
fn what_is_cut_off_spans_segments() {
    let ours = cut("a (red:1.3) a a [a] (red) end", 7, LongPrompt::Truncate).expect("valid");
    assert_eq!(
        (ours.count, ours.ids.len()),
        (cut("a red a a a red end", 77, LongPrompt::Fail).expect("short").count, 1)
    );
    assert_eq!(ours.truncated.as_deref(), Some("red end"));
    assert_eq!(ours.weights[0], [1.0, 1.0, 1.3, 1.0, 1.0, (1.0f64 / 1.1) as f32, 1.0], "start, 5 tokens, end");
}

#[test]
fn too_long_and_breaks_are_errors_where_asked() {
    let error = cut("a a a a a a, a red circle of a blue star", 7, LongPrompt::Fail).expect_err("too long");
    assert_eq!(error.code(), "prompt_too_long");
    assert!(error.to_string().contains("room for 7: `a, a red circle of a …` would be cut off"), "{error}");
    for long in [LongPrompt::Truncate, LongPrompt::Fail] {
        assert_eq!(cut("a BREAK b", 77, long).expect_err("one chunk only").code(), "break_needs_chunks");
    }
}

#[test]
fn prompt_and_negative_get_as_many_chunks() {
    let tokenizer = clip(7);
    let (mut prompt, mut negative) =
        (cut("a a a a a a", 7, LongPrompt::Chunk).expect("valid"), cut("(a)", 7, LongPrompt::Chunk).expect("valid"));
    Chunks::equalize(&mut prompt, &mut negative, &tokenizer);
    assert_eq!((prompt.ids.len(), negative.ids.len(), negative.weights.len()), (2, 2, 2));
    assert_eq!(negative.ids[1], tokenizer.encode("").expect("valid").input_ids);
    assert!(negative.is_weighted() && !prompt.is_weighted());
}

#[test]
fn t5_texts_can_be_cut_too() {
    let tokenizer = PromptTokenizer::new(&t5(None), 6).expect("valid");
    let segments = PromptSyntax::A1111.parse("a (red:1.5), ring").expect("valid");
    let chunks = Chunks::new(&segments, &tokenizer, LongPrompt::Chunk).expect("valid");
    let (ids, weights) = (&chunks.ids, &chunks.weights);
    assert!(ids.len() > 1 && ids.iter().all(|chunk| chunk.len() == 6 && chunk.contains(&1)), "{ids:?}");
    assert_eq!((weights[0][0], weights[0][5]), (1.0, 1.0), "no start of text moves the weights");
    assert!(weights[0].contains(&1.5));
}
