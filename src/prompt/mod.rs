//! What a row says → the token ids that text encoders take. Pure: the files of a tokenizer are read by `model`.
//!
//! A folder with `tokenizer.json` is taken at its word; one with only `vocab.json` and `merges.txt` gets CLIP's pipeline
//! built around its vocabulary.

mod attention;
mod chunks;
mod clip;
mod emphasis;
mod files;
mod long_prompt;
mod syntax;
mod tokenizer;
mod unsupported;

pub use attention::parse_attention;
pub use chunks::Chunks;
pub use emphasis::emphasize;
pub use files::TokenizerFiles;
pub use long_prompt::LongPrompt;
pub use syntax::{PromptSyntax, Segment};
pub use tokenizer::{PromptTokenizer, Token, Tokens};
