//! A text → token ids, as CLIP's tokenizer makes them (transformers 5.23, `CLIPTokenizer`).
//!
//! Pure: the files are read by `model`. A folder with `tokenizer.json` is taken at its word; one with only `vocab.json`
//! and `merges.txt` (what slow tokenizers save) gets the same pipeline built around its vocabulary.

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::{Error, ErrorKind, Result};

const START_OF_TEXT: &str = "<|startoftext|>";
const END_OF_TEXT: &str = "<|endoftext|>";

/// CLIP's splitting pattern: special tokens, English contractions, words, single digits, runs of anything else.
const PATTERN: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The files of a tokenizer folder, as far as they exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: a whole tokenizer of the `tokenizers` library.
    pub json: Option<Vec<u8>>,
    /// `vocab.json`: token → id.
    pub vocab_json: Option<Vec<u8>>,
    /// `merges.txt`: one merge a line, most important first.
    pub merges_txt: Option<String>,
    /// `tokenizer_config.json`: names of the special tokens, `model_max_length`.
    pub tokenizer_config: Option<String>,
    /// `special_tokens_map.json`: names of the special tokens, where the config does not give them.
    pub special_tokens_map: Option<String>,
}

/// The ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Exactly `model_max_length` ids: start, text, end, padding.
    pub input_ids: Vec<i64>,
    /// Number of ids of the whole text with start and end, before truncation.
    pub count: usize,
    /// The end of the text that found no place and does not reach the picture.
    pub truncated: Option<String>,
}

/// Turns texts into token ids of a fixed number.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    model_max_length: usize,
    bos: i64,
    eos: i64,
    pad: i64,
}

impl PromptTokenizer {
    /// Returns the tokenizer of a model folder for a text encoder that takes `model_max_length` ids.
    ///
    /// # Errors
    /// Neither `tokenizer.json` nor `vocab.json` with `merges.txt` is there, one of them is broken, or a special token
    /// is not in the vocabulary.
    pub fn new(files: &TokenizerFiles, model_max_length: usize) -> Result<Self> {
        if model_max_length < 2 {
            return Err(invalid(format!(
                "model_max_length `{model_max_length}` leaves no place for start and end of text"
            )));
        }
        let special = SpecialTokens::new(files)?;
        let mut tokenizer = match (&files.json, &files.vocab_json, &files.merges_txt) {
            (Some(json), _, _) => parse(json, "tokenizer.json")?,
            (None, Some(vocab), Some(merges)) => clip_tokenizer(vocab, merges, &special)?,
            _ => return Err(missing_files(files)),
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        let id = |token: &str| tokenizer.token_to_id(token).map(i64::from).ok_or_else(|| not_in_vocabulary(token));
        let (bos, eos, pad) = (id(&special.bos)?, id(&special.eos)?, id(&special.pad)?);
        Ok(PromptTokenizer { tokenizer, model_max_length, bos, eos, pad })
    }

    /// Returns the ids of `text`: start of text, its tokens, end of text, padding; a text that is too long loses its end
    /// (diffusers: `padding="max_length", truncation=True`).
    ///
    /// # Errors
    /// The tokenizer's own vocabulary cannot express the text.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let encoding = self.tokenizer.encode(text, false).map_err(|error| {
            Error::new(ErrorKind::Row, "untokenizable", format!("cannot split the text into tokens: {error}"))
        })?;
        let room = self.model_max_length - 2;
        let kept = encoding.get_ids().iter().take(room).map(|id| i64::from(*id));
        let mut input_ids = Vec::with_capacity(self.model_max_length);
        input_ids.push(self.bos);
        input_ids.extend(kept);
        input_ids.push(self.eos);
        input_ids.resize(self.model_max_length, self.pad);
        let truncated = encoding.get_offsets().get(room).map(|(start, _)| {
            let start = text.floor_char_boundary(*start);
            text[start..].trim().to_string()
        });
        Ok(Tokens { input_ids, count: encoding.get_ids().len() + 2, truncated })
    }

    /// Returns how many ids every text becomes.
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }
}

/// Names of the special tokens.
struct SpecialTokens {
    bos: String,
    eos: String,
    unk: String,
    pad: String,
}

impl SpecialTokens {
    /// Reads them from the config, then the map, then takes CLIP's. Stable Diffusion 1 pads with the end of text, 2 and
    /// XL's second encoder with `!`.
    fn new(files: &TokenizerFiles) -> Result<Self> {
        let config = parse_object(files.tokenizer_config.as_deref(), "tokenizer_config.json")?;
        let map = parse_object(files.special_tokens_map.as_deref(), "special_tokens_map.json")?;
        let token = |key: &str, default: &str| {
            let find = |object: &Value| content(object.get(key)?);
            find(&config).or_else(|| find(&map)).unwrap_or_else(|| default.to_string())
        };
        Ok(SpecialTokens {
            bos: token("bos_token", START_OF_TEXT),
            eos: token("eos_token", END_OF_TEXT),
            unk: token("unk_token", END_OF_TEXT),
            pad: token("pad_token", END_OF_TEXT),
        })
    }
}

/// Returns the text of a token that is written as a string or as an object with `content`.
fn content(token: &Value) -> Option<String> {
    let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
    Some(text.to_string())
}

fn parse_object(text: Option<&str>, name: &str) -> Result<Value> {
    let Some(text) = text else { return Ok(Value::Null) };
    serde_json::from_str(text).map_err(|error| invalid(format!("{name} is not valid JSON: {error}")).source(error))
}

fn parse(json: &[u8], name: &str) -> Result<Tokenizer> {
    Tokenizer::from_bytes(json).map_err(|error| {
        invalid(format!("{name} is not a tokenizer that the `tokenizers` library understands: {error}"))
            .hint("save the tokenizer again with transformers, or keep only `vocab.json` and `merges.txt`")
    })
}

/// Returns CLIP's pipeline around a vocabulary: NFC, whitespace runs to one space, lower case; split by [`PATTERN`]; bytes
/// to printable characters; byte-pair merges with `</w>` at a word's end.
fn clip_tokenizer(vocab: &[u8], merges: &str, special: &SpecialTokens) -> Result<Tokenizer> {
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
    let mut names = vec![&special.bos, &special.eos, &special.unk, &special.pad];
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

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Model, "bad_tokenizer", message)
}

fn not_in_vocabulary(token: &str) -> Error {
    invalid(format!("the special token `{token}` is not in the tokenizer's vocabulary"))
        .hint("check `bos_token`, `eos_token`, `unk_token` and `pad_token` of tokenizer_config.json")
}

fn missing_files(files: &TokenizerFiles) -> Error {
    let message = match (&files.vocab_json, &files.merges_txt) {
        (Some(_), None) => "the tokenizer has `vocab.json` but no `merges.txt`",
        (None, Some(_)) => "the tokenizer has `merges.txt` but no `vocab.json`",
        _ => "the tokenizer has neither `tokenizer.json` nor `vocab.json` with `merges.txt`",
    };
    invalid(message.to_string()).hint("copy the model's whole `tokenizer` folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of four merges: every printable ASCII byte, alone and at a word's end, `th`, `the</w>`, and so on.
    fn files(config: &str) -> TokenizerFiles {
        let mut tokens: Vec<String> = ('!'..='~').map(String::from).collect();
        tokens.extend(('!'..='~').map(|c| format!("{c}</w>")));
        tokens.extend(["th", "the</w>", "ca", "cat</w>", START_OF_TEXT, END_OF_TEXT].map(String::from));
        let vocab: serde_json::Map<_, _> =
            tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
        TokenizerFiles {
            vocab_json: Some(Value::Object(vocab).to_string().into_bytes()),
            merges_txt: Some("#version: 0.2\nt h\nth e</w>\nc a\nca t</w>\n".into()),
            tokenizer_config: Some(config.into()),
            ..TokenizerFiles::default()
        }
    }

    const THE: i64 = 189;
    const CAT: i64 = 191;
    const BOS: i64 = 192;
    const EOS: i64 = 193;

    #[test]
    fn a_text_is_lower_cased_merged_and_padded_with_the_end_of_text() {
        let tokens = PromptTokenizer::new(&files("{}"), 8).and_then(|t| t.encode("The\t CAT  ")).expect("valid");
        assert_eq!(
            tokens,
            Tokens { input_ids: vec![BOS, THE, CAT, EOS, EOS, EOS, EOS, EOS], count: 4, truncated: None }
        );
    }

    #[test]
    fn the_padding_is_the_configs() {
        let config = r#"{"pad_token": {"content": "!", "__type": "AddedToken"}}"#;
        let tokens = PromptTokenizer::new(&files(config), 5).and_then(|t| t.encode("cat")).expect("valid");
        assert_eq!(tokens.input_ids, [BOS, CAT, EOS, 0, 0]);
    }

    #[test]
    fn an_empty_text_is_start_and_end() {
        let tokens = PromptTokenizer::new(&files("{}"), 3).and_then(|t| t.encode("")).expect("valid");
        assert_eq!(tokens, Tokens { input_ids: vec![BOS, EOS, EOS], count: 2, truncated: None });
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let tokenizer = PromptTokenizer::new(&files("{}"), 4).expect("valid");
        let tokens = tokenizer.encode("the cat  The  CAT").expect("valid");
        assert_eq!(tokens.input_ids, [BOS, THE, CAT, EOS]);
        assert_eq!((tokens.count, tokens.truncated.as_deref()), (6, Some("The  CAT")));
        assert_eq!(tokenizer.encode("the cat").expect("valid").truncated, None, "it just fits");
    }

    #[test]
    fn broken_files_are_told_apart() {
        let message = |files: &TokenizerFiles| PromptTokenizer::new(files, 8).expect_err("broken").to_string();
        assert!(message(&TokenizerFiles { merges_txt: None, ..files("{}") }).contains("no `merges.txt`"));
        assert!(message(&TokenizerFiles::default()).contains("neither"));
        assert!(message(&TokenizerFiles { json: Some(b"{".to_vec()), ..files("{}") }).contains("tokenizer.json"));
        assert!(
            message(&TokenizerFiles { merges_txt: Some("a b c".into()), ..files("{}") }).contains("line 1: `a b c`")
        );
        assert!(message(&files("{")).contains("tokenizer_config.json is not valid JSON"));
        assert!(message(&files(r#"{"pad_token": "<pad>"}"#)).contains("`<pad>` is not in"));
    }
}
