//! What a row says → the token ids that text encoders take. Pure: the files of a tokenizer are read by `model`.
//!
//! A folder with `tokenizer.json` is taken at its word; one with only `vocab.json` and `merges.txt` gets CLIP's pipeline
//! built around its vocabulary.

mod attention;
mod clip;
mod files;
mod syntax;
mod tokenizer;
mod unsupported;

pub use attention::parse_attention;
pub use files::TokenizerFiles;
pub use syntax::{PromptSyntax, Segment};
pub use tokenizer::{PromptTokenizer, Token, Tokens};
