//! A prompt of any length → pieces that a text encoder takes, as A1111 cuts them (stable-diffusion-webui 1.10,
//! `modules/sd_hijack_clip.py`, `tokenize_line`).
//!
//! Of the two habits that there are, A1111's was chosen: where a chunk is full, what follows its last comma moves to the
//! next one, unless that is more than 20 tokens. (kohya and compel cut wherever 75 tokens end, and split words of one thought.)
//!
//! The chunks are encoded one by one and their hidden states joined along the sequence; a pooled output is the first
//! chunk's.

use super::long_prompt::LongPrompt;
use super::syntax::Segment;
use super::tokenizer::{PromptTokenizer, Token, Tokens};
use crate::error::{Error, ErrorKind, Result};

/// The most tokens after a comma that move to the next chunk (A1111's default `comma_padding_backtrack`).
const COMMA_PADDING_BACKTRACK: usize = 20;

/// The comma as CLIP's vocabulary has it at the end of a word. T5's does not, so that its texts are cut anywhere.
const COMMA: &str = ",</w>";

/// How many of the words that were cut off a message tells.
const WORDS_TOLD: usize = 6;

/// A prompt as a text encoder takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunks {
    /// At least one chunk, each of `model_max_length` ids.
    pub ids: Vec<Vec<i64>>,
    /// The weight of each id; start, end and padding have 1.
    pub weights: Vec<Vec<f32>>,
    /// Number of ids of the whole prompt with one start and end, before truncation.
    pub count: usize,
    /// The end of the prompt that found no place and does not reach the picture.
    pub truncated: Option<String>,
}

impl Chunks {
    /// Returns `segments` cut as `long` says.
    ///
    /// # Errors
    /// Of the row: `prompt_too_long` if `long` is [`LongPrompt::Fail`] and the prompt takes more than one chunk;
    /// `break_needs_chunks` for a `BREAK` where there can be only one; `untokenizable` as [`PromptTokenizer::encode`].
    pub fn new(segments: &[Segment], tokenizer: &PromptTokenizer, long: LongPrompt) -> Result<Self> {
        match long {
            LongPrompt::Chunk => Chunks::all(segments, tokenizer),
            LongPrompt::Truncate => Chunks::first(segments, tokenizer),
            LongPrompt::Fail => match Chunks::first(segments, tokenizer)? {
                Chunks { truncated: Some(cut), count, .. } => Err(too_long(count, tokenizer.model_max_length(), &cut)),
                whole => Ok(whole),
            },
        }
    }

    /// Returns as many chunks as the prompt takes.
    fn all(segments: &[Segment], tokenizer: &PromptTokenizer) -> Result<Self> {
        let mut cutter = Cutter::new(tokenizer);
        let mut tokens = 0;
        for segment in segments {
            match segment {
                Segment::Break => cutter.close(),
                Segment::Text { text, weight } => {
                    let split = tokenizer.split(text)?;
                    tokens += split.len();
                    split.iter().for_each(|token| cutter.push(token.id, *weight as f32));
                }
            }
        }
        let (ids, weights) = cutter.finish();
        Ok(Chunks { ids, weights, count: tokenizer.count(tokens), truncated: None })
    }

    /// Returns the only chunk that there may be.
    fn first(segments: &[Segment], tokenizer: &PromptTokenizer) -> Result<Self> {
        let mut cutter = Cutter::new(tokenizer);
        let mut tokens = 0;
        let mut truncated = None;
        for segment in segments {
            let Segment::Text { text, weight } = segment else { return Err(break_needs_chunks()) };
            let split = tokenizer.split(text)?;
            let (kept, cut) = split.split_at(split.len().min(tokenizer.room().saturating_sub(tokens)));
            kept.iter().for_each(|token| cutter.push(token.id, *weight as f32));
            cut_off(&mut truncated, text, cut);
            tokens += split.len();
        }
        let (ids, weights) = cutter.finish();
        let truncated = truncated.map(|text| text.trim().to_string());
        Ok(Chunks { ids, weights, count: tokenizer.count(tokens), truncated })
    }

    /// Returns whether any token has another weight than 1.
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().flatten().any(|weight| *weight != 1.0)
    }

    /// Adds empty chunks, which are what an empty prompt becomes, until there are `count`.
    pub fn pad_to(&mut self, count: usize, tokenizer: &PromptTokenizer) {
        while self.ids.len() < count {
            self.ids.push(tokenizer.frame([]));
            self.weights.push(vec![1.0; tokenizer.model_max_length()]);
        }
    }

    /// Gives `prompt` and `negative` the same number of chunks, since guidance compares them in one call. (A1111 does it
    /// where `pad_cond_uncond` is on.)
    pub fn equalize(prompt: &mut Chunks, negative: &mut Chunks, tokenizer: &PromptTokenizer) {
        let count = prompt.ids.len().max(negative.ids.len());
        prompt.pad_to(count, tokenizer);
        negative.pad_to(count, tokenizer);
    }
}

impl From<Tokens> for Chunks {
    /// Returns the one chunk of a plain text.
    fn from(tokens: Tokens) -> Self {
        let weights = vec![vec![1.0; tokens.input_ids.len()]];
        Chunks { ids: vec![tokens.input_ids], weights, count: tokens.count, truncated: tokens.truncated }
    }
}

/// Chunks in the making.
struct Cutter<'a> {
    tokenizer: &'a PromptTokenizer,
    comma: Option<i64>,
    ids: Vec<Vec<i64>>,
    weights: Vec<Vec<f32>>,
    /// The tokens of the chunk that is being filled.
    open: Vec<(i64, f32)>,
    last_comma: Option<usize>,
}

impl<'a> Cutter<'a> {
    fn new(tokenizer: &'a PromptTokenizer) -> Self {
        let comma = tokenizer.id(COMMA);
        Cutter { tokenizer, comma, ids: Vec::new(), weights: Vec::new(), open: Vec::new(), last_comma: None }
    }

    fn push(&mut self, id: i64, weight: f32) {
        let full = self.open.len() == self.tokenizer.room();
        if self.comma == Some(id) {
            self.last_comma = Some(self.open.len());
        } else if let Some(comma) = self.last_comma.filter(|comma| full && self.is_near(*comma)) {
            let tail = self.open.split_off(comma + 1);
            self.close();
            self.open = tail;
        }
        if self.open.len() == self.tokenizer.room() {
            self.close();
        }
        self.open.push((id, weight));
    }

    fn is_near(&self, comma: usize) -> bool {
        self.open.len() - comma <= COMMA_PADDING_BACKTRACK
    }

    /// Ends the chunk, full or not.
    fn close(&mut self) {
        let (ids, text): (Vec<i64>, Vec<f32>) = std::mem::take(&mut self.open).into_iter().unzip();
        let mut weights = vec![1.0; self.tokenizer.starts()];
        weights.extend(text);
        weights.resize(self.tokenizer.model_max_length(), 1.0);
        self.ids.push(self.tokenizer.frame(ids));
        self.weights.push(weights);
        self.last_comma = None;
    }

    fn finish(mut self) -> (Vec<Vec<i64>>, Vec<Vec<f32>>) {
        if !self.open.is_empty() || self.ids.is_empty() {
            self.close();
        }
        (self.ids, self.weights)
    }
}

/// Adds what `cut` says of `text` to the end that is lost.
fn cut_off(truncated: &mut Option<String>, text: &str, cut: &[Token]) {
    match (truncated, cut.first()) {
        (Some(truncated), _) => truncated.push_str(text),
        (truncated, Some(token)) => *truncated = Some(text[token.start..].to_string()),
        _ => {}
    }
}

fn too_long(count: usize, limit: usize, cut: &str) -> Error {
    let mut words: Vec<&str> = cut.split_whitespace().take(WORDS_TOLD + 1).collect();
    let more = if words.len() > WORDS_TOLD { " …" } else { "" };
    words.truncate(WORDS_TOLD);
    let message = format!(
        "the prompt takes {count} tokens, the text encoder has room for {limit}: `{}{more}` would be cut off",
        words.join(" ")
    );
    Error::new(ErrorKind::Row, "prompt_too_long", message).hint(
        "shorten it, or use `--long-prompt chunk` (all of it counts) or `--long-prompt truncate` (the end is lost)",
    )
}

fn break_needs_chunks() -> Error {
    let message = "`BREAK` begins a new chunk, and long prompts are not cut into chunks";
    Error::new(ErrorKind::Row, "break_needs_chunks", message).hint("use `--long-prompt chunk`, or take `BREAK` out")
}
