//! What becomes of a prompt that is longer than the text encoder takes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// What becomes of a prompt that is longer than the text encoder takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LongPrompt {
    /// Its end is lost, as in diffusers.
    #[default]
    Truncate,
    /// It is encoded in several chunks, as in A1111.
    Chunk,
    /// Its row is an error.
    Fail,
}

impl LongPrompt {
    /// Every way, for help texts.
    pub const ALL: &'static [LongPrompt] = &[LongPrompt::Truncate, LongPrompt::Chunk, LongPrompt::Fail];

    /// Returns the name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            LongPrompt::Truncate => "truncate",
            LongPrompt::Chunk => "chunk",
            LongPrompt::Fail => "fail",
        }
    }
}

impl fmt::Display for LongPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LongPrompt {
    type Err = Error;

    /// Returns the way called `text`.
    ///
    /// # Errors
    /// `unknown_long_prompt` (usage) when there is none.
    fn from_str(text: &str) -> Result<Self> {
        LongPrompt::ALL.iter().copied().find(|way| way.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "unknown_long_prompt", format!("`{text}` is no way to treat long prompts"))
                .hint("use `truncate`, `chunk` or `fail`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for way in LongPrompt::ALL {
            assert_eq!(way.to_string().parse::<LongPrompt>().expect("its own name"), *way);
        }
        assert_eq!("cut".parse::<LongPrompt>().expect_err("no such way").code(), "unknown_long_prompt");
    }
}
