//! A text → the ids that a text encoder takes.

use tokenizers::Tokenizer;

use super::files::{TokenizerFiles, invalid, not_in_vocabulary};
use crate::error::{Error, ErrorKind, Result};

/// The ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Exactly `model_max_length` ids: start (T5 has none), text, end, padding.
    pub input_ids: Vec<i64>,
    /// Number of ids of the whole text with start and end, before truncation.
    pub count: usize,
    /// The end of the text that found no place and does not reach the picture.
    pub truncated: Option<String>,
}

/// One token of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: i64,
    /// The byte of the text at which it starts.
    pub start: usize,
}

/// Turns texts into token ids of a fixed number.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    model_max_length: usize,
    bos: Option<i64>,
    eos: i64,
    pad: i64,
}

impl PromptTokenizer {
    /// Returns the tokenizer of a model folder for a text encoder that takes `model_max_length` ids: CLIP's, or T5's
    /// where the class or the vocabulary (Unigram) is T5's.
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
        let (tokenizer, special) = files.tokenizer()?;
        let id = |token: &str| tokenizer.token_to_id(token).map(i64::from).ok_or_else(|| not_in_vocabulary(token));
        let bos = special.bos.as_deref().map(id).transpose()?;
        let (eos, pad) = (id(&special.eos)?, id(&special.pad)?);
        Ok(PromptTokenizer { tokenizer, model_max_length, bos, eos, pad })
    }

    /// Returns the ids of `text`: start of text, its tokens, end of text, padding; a text that is too long loses its end
    /// (diffusers: `padding="max_length", truncation=True`).
    ///
    /// # Errors
    /// The tokenizer's own vocabulary cannot express the text.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let tokens = self.split(text)?;
        let kept = tokens.iter().take(self.room()).map(|token| token.id);
        let truncated = tokens.get(self.room()).map(|token| text[token.start..].trim().to_string());
        Ok(Tokens { input_ids: self.frame(kept), count: self.count(tokens.len()), truncated })
    }

    /// Returns the tokens of `text`, without start, end and padding, however many they are.
    ///
    /// # Errors
    /// The tokenizer's own vocabulary cannot express the text.
    pub fn split(&self, text: &str) -> Result<Vec<Token>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|error| {
            Error::new(ErrorKind::Row, "untokenizable", format!("cannot split the text into tokens: {error}"))
        })?;
        let token = |(id, (start, _)): (&u32, &(usize, usize))| Token {
            id: i64::from(*id),
            start: text.floor_char_boundary(*start),
        };
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(token).collect())
    }

    /// Returns `model_max_length` ids: start of text, `ids`, end of text, padding.
    ///
    /// # Panics
    /// There are more `ids` than [`PromptTokenizer::room`].
    pub fn frame(&self, ids: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut input_ids: Vec<i64> = self.bos.into_iter().chain(ids).chain([self.eos]).collect();
        assert!(input_ids.len() <= self.model_max_length, "more ids than there is room for");
        input_ids.resize(self.model_max_length, self.pad);
        input_ids
    }

    /// Returns how many tokens of a text there is room for between start and end: 75 for CLIP.
    pub fn room(&self) -> usize {
        self.model_max_length - self.count(0)
    }

    /// Returns how many ids a text of `tokens` tokens takes with start and end.
    pub fn count(&self, tokens: usize) -> usize {
        tokens + self.starts() + 1
    }

    /// Returns how many ids stand before a text: 1 for CLIP, 0 for T5.
    pub fn starts(&self) -> usize {
        usize::from(self.bos.is_some())
    }

    /// Returns the id of `token`, if the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.tokenizer.token_to_id(token).map(i64::from)
    }

    /// Returns how many ids every text becomes.
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const START_OF_TEXT: &str = "<|startoftext|>";
    const END_OF_TEXT: &str = "<|endoftext|>";

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

    #[test]
    fn a_t5_folder_without_json_is_told_what_to_do() {
        let config = r#"{"tokenizer_class": "T5Tokenizer"}"#;
        let files = TokenizerFiles { tokenizer_config: Some(config.into()), ..TokenizerFiles::default() };
        let error = PromptTokenizer::new(&files, 8).expect_err("no tokenizer.json");
        assert!(error.to_string().contains("`spiece.model` alone"), "{error}");
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains("save_pretrained")));
    }
}
