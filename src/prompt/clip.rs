//! CLIP's tokenizer around `vocab.json` and `merges.txt` (transformers 5.23, `CLIPTokenizer`), what slow tokenizers save.

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::files::{SpecialTokens, invalid, not_in_vocabulary, parse};
use crate::error::Result;

/// CLIP's splitting pattern: special tokens, English contractions, words, single digits, runs of anything else.
const PATTERN: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Returns CLIP's pipeline around a vocabulary: NFC, whitespace runs to one space, lower case; split by [`PATTERN`]; bytes
/// to printable characters; byte-pair merges with `</w>` at a word's end.
pub(super) fn clip_tokenizer(vocab: &[u8], merges: &str, special: &SpecialTokens) -> Result<Tokenizer> {
    let vocab: Value = serde_json::from_slice(vocab)
        .map_err(|error| invalid(format!("vocab.json is not valid JSON: {error}")).source(error))?;
    let added = added_tokens(&vocab, special)?;
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": special.unk, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merge_pairs(merges)?,
        },
    });
    parse(tokenizer.to_string().as_bytes(), "vocab.json with merges.txt")
}

/// Returns the special tokens in the form of `tokenizer.json`: they are found in a text before it is normalized.
fn added_tokens(vocab: &Value, special: &SpecialTokens) -> Result<Vec<Value>> {
    let mut names: Vec<&String> = special.bos.iter().chain([&special.eos, &special.unk, &special.pad]).collect();
    names.sort_unstable();
    names.dedup();
    let id = |name: &String| vocab.get(name).and_then(Value::as_u64).ok_or_else(|| not_in_vocabulary(name));
    let token = |name| {
        let flags =
            json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let mut token = json!({"id": id(name)?, "content": name});
        token
            .as_object_mut()
            .into_iter()
            .for_each(|token| token.extend(flags.as_object().cloned().unwrap_or_default()));
        Ok(token)
    };
    let mut tokens = names.into_iter().map(token).collect::<Result<Vec<_>>>()?;
    tokens.sort_by_key(|token| token["id"].as_u64());
    Ok(tokens)
}

fn merge_pairs(merges: &str) -> Result<Vec<[&str; 2]>> {
    let lines = merges.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    lines
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok([left, right]),
            _ => Err(invalid(format!("merges.txt: line {}: `{line}` is not two tokens", number + 1))),
        })
        .collect()
}
