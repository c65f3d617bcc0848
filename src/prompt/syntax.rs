//! How prompts are written, and what they come apart into.

use std::fmt;
use std::str::FromStr;

use super::attention::parse_attention;
use crate::error::{Error, ErrorKind, Result};

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment {
    /// Words that all have the same weight.
    Text {
        /// The words, without the signs that gave them their weight. May be empty.
        text: String,
        /// What their hidden states are multiplied by; 1 where nothing was said.
        weight: f64,
    },
    /// `BREAK`: what follows begins a new chunk.
    Break,
}

/// How prompts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PromptSyntax {
    /// Every character means itself, as in diffusers.
    #[default]
    Plain,
    /// A1111's attention: `(more)`, `[less]`, `(words:1.3)`, `BREAK`; see [`parse_attention`].
    A1111,
}

impl PromptSyntax {
    /// Every syntax, for help texts.
    pub const ALL: &'static [PromptSyntax] = &[PromptSyntax::Plain, PromptSyntax::A1111];

    /// Returns the name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            PromptSyntax::Plain => "plain",
            PromptSyntax::A1111 => "a1111",
        }
    }

    /// Returns the parts of `text`.
    ///
    /// # Errors
    /// Those of [`parse_attention`]; `Plain` has none.
    pub fn parse(self, text: &str) -> Result<Vec<Segment>> {
        match self {
            PromptSyntax::Plain => Ok(vec![Segment::Text { text: text.to_string(), weight: 1.0 }]),
            PromptSyntax::A1111 => parse_attention(text),
        }
    }
}

impl fmt::Display for PromptSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PromptSyntax {
    type Err = Error;

    /// Returns the syntax called `text`.
    ///
    /// # Errors
    /// `unknown_prompt_syntax` (usage) when there is none.
    fn from_str(text: &str) -> Result<Self> {
        PromptSyntax::ALL.iter().copied().find(|syntax| syntax.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "unknown_prompt_syntax", format!("`{text}` is not a prompt syntax"))
                .hint("use `plain` or `a1111`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for syntax in PromptSyntax::ALL {
            assert_eq!(syntax.to_string().parse::<PromptSyntax>().expect("its own name"), *syntax);
        }
        let error = "compel".parse::<PromptSyntax>().expect_err("no such syntax");
        assert_eq!(error.to_string(), "`compel` is not a prompt syntax");
    }

    #[test]
    fn plain_means_what_it_says() {
        let text = r"(a:1.3) [b|c] AND \( BREAK <lora:x:1>";
        let segments = PromptSyntax::Plain.parse(text).expect("never an error");
        assert_eq!(segments, [Segment::Text { text: text.into(), weight: 1.0 }]);
    }
}
