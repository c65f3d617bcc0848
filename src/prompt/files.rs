//! The files of a tokenizer folder: which special tokens a text is framed by.

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

use super::clip::clip_tokenizer;
use crate::error::{Error, ErrorKind, Result};

const START_OF_TEXT: &str = "<|startoftext|>";
const END_OF_TEXT: &str = "<|endoftext|>";

/// The files of a tokenizer folder, as far as they exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: a whole tokenizer of the `tokenizers` library.
    pub json: Option<Vec<u8>>,
    /// `vocab.json`: token → id.
    pub vocab_json: Option<Vec<u8>>,
    /// `merges.txt`: one merge a line, most important first.
    pub merges_txt: Option<String>,
    /// `tokenizer_config.json`: names of the special tokens, `model_max_length`, `tokenizer_class`.
    pub tokenizer_config: Option<String>,
    /// `special_tokens_map.json`: names of the special tokens, where the config does not give them.
    pub special_tokens_map: Option<String>,
}

/// Names of the special tokens.
pub(super) struct SpecialTokens {
    /// What a text starts with; T5's starts with itself.
    pub bos: Option<String>,
    pub eos: String,
    pub unk: String,
    pub pad: String,
}

impl TokenizerFiles {
    /// Returns the tokenizer, which neither pads nor cuts, with its special tokens.
    pub(super) fn tokenizer(&self) -> Result<(Tokenizer, SpecialTokens)> {
        let config = parse_object(self.tokenizer_config.as_deref(), "tokenizer_config.json")?;
        let map = parse_object(self.special_tokens_map.as_deref(), "special_tokens_map.json")?;
        let t5 = class(&config).starts_with("T5");
        match (&self.json, &self.vocab_json, &self.merges_txt) {
            (Some(json), _, _) => {
                let tokenizer = parse(json, "tokenizer.json")?;
                let unigram = matches!(tokenizer.get_model(), ModelWrapper::Unigram(_));
                let special = if t5 || unigram {
                    SpecialTokens::t5(t5, &config, &map)
                } else {
                    SpecialTokens::clip(&config, &map)
                };
                Ok((tokenizer, special))
            }
            (None, Some(vocab), Some(merges)) if !t5 => {
                let special = SpecialTokens::clip(&config, &map);
                Ok((clip_tokenizer(vocab, merges, &special)?, special))
            }
            _ => Err(self.missing(t5)),
        }
    }

    fn missing(&self, t5: bool) -> Error {
        let message = match (&self.vocab_json, &self.merges_txt) {
            _ if t5 => "a T5 tokenizer needs `tokenizer.json`: `spiece.model` alone is not read",
            (Some(_), None) => "the tokenizer has `vocab.json` but no `merges.txt`",
            (None, Some(_)) => "the tokenizer has `merges.txt` but no `vocab.json`",
            _ => "the tokenizer has neither `tokenizer.json` nor `vocab.json` with `merges.txt`",
        };
        let hint = if t5 {
            "make it with transformers: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
        } else {
            "copy the model's whole `tokenizer` folder"
        };
        invalid(message.to_string()).hint(hint)
    }
}

impl SpecialTokens {
    /// Reads CLIP's special tokens from the config, then the map, then takes CLIP's. Stable Diffusion 1 pads with the end of
    /// text, 2 and XL's second encoder with `!`.
    fn clip(config: &Value, map: &Value) -> Self {
        let token = |key, default: &str| named(key, config, map).unwrap_or_else(|| default.to_string());
        SpecialTokens {
            bos: Some(token("bos_token", START_OF_TEXT)),
            eos: token("eos_token", END_OF_TEXT),
            unk: token("unk_token", END_OF_TEXT),
            pad: token("pad_token", END_OF_TEXT),
        }
    }

    /// Reads the special tokens of a SentencePiece vocabulary. T5's own class never starts a text with a token, whatever
    /// the config says; others (XLM-RoBERTa) do if they name one.
    fn t5(class_is_t5: bool, config: &Value, map: &Value) -> Self {
        let token = |key, default: &str| named(key, config, map).unwrap_or_else(|| default.to_string());
        SpecialTokens {
            bos: if class_is_t5 { None } else { named("bos_token", config, map) },
            eos: token("eos_token", "</s>"),
            unk: token("unk_token", "<unk>"),
            pad: token("pad_token", "<pad>"),
        }
    }
}

fn class(config: &Value) -> &str {
    config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default()
}

/// Returns the token that the config, or else the map, calls `key`.
fn named(key: &str, config: &Value, map: &Value) -> Option<String> {
    let find = |object: &Value| content(object.get(key)?);
    find(config).or_else(|| find(map))
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

pub(super) fn parse(json: &[u8], name: &str) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| {
        invalid(format!("{name} is not a tokenizer that the `tokenizers` library understands: {error}"))
            .hint("save the tokenizer again with transformers, or keep only `vocab.json` and `merges.txt`")
    })?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
    Ok(tokenizer)
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Model, "bad_tokenizer", message)
}

pub(super) fn not_in_vocabulary(token: &str) -> Error {
    invalid(format!("the special token `{token}` is not in the tokenizer's vocabulary"))
        .hint("check `bos_token`, `eos_token`, `unk_token` and `pad_token` of tokenizer_config.json")
}
