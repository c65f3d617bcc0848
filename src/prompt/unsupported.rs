//! What A1111 reads into a prompt beyond attention, and is not supported: such a row is an error, because its picture
//! would have little to do with A1111's.
//!
//! In doubt it is one too: where A1111 finds something odd around an editing or alternation, it takes all brackets of the
//! prompt for attention, which no one can have meant.

use super::attention::find_word;
use crate::error::{Error, ErrorKind, Result};

const BRACKETS: &str = "write `\\[` and `\\]` for brackets that are text";

/// Returns an error where `text` has prompt editing, alternation, composition or an extra network.
///
/// # Errors
/// See [`super::parse_attention`].
pub(super) fn refuse_unsupported(text: &str) -> Result<()> {
    let text = &Unescaped::new(text);
    in_square_brackets(text)?;
    if let Some(at) = find_word(&text.masked, "AND") {
        let around = text.shown(at.saturating_sub(20), at + 24);
        let message = format!("`{around}` composes prompts with `AND`, which is not supported");
        return Err(error("prompt_composition", message).hint("write `and`, or `\\AND` for the word"));
    }
    if let Some((start, end)) = extra_network(&text.masked) {
        let message = format!("`{}` is an extra network, which is not supported", text.shown(start, end));
        return Err(error("extra_network", message)
            .hint("merge it into the model before exporting, or write `\\<` for a bracket that is text"));
    }
    Ok(())
}

/// A text, and the same with every escaped character made harmless.
struct Unescaped<'a> {
    text: &'a str,
    /// As long as `text`.
    masked: String,
}

impl<'a> Unescaped<'a> {
    fn new(text: &'a str) -> Self {
        let mut escaped = false;
        let mask = |c: char| {
            let masked = match escaped {
                false => c.to_string(),
                // Letters stay letters and signs stay signs to their neighbours.
                true => (if c.is_alphanumeric() || c == '_' { "_" } else { " " }).repeat(c.len_utf8()),
            };
            escaped = c == '\\' && !escaped;
            masked
        };
        Unescaped { text, masked: text.chars().map(mask).collect() }
    }

    /// Returns the text from `start` to `end`, both moved to whole characters, cut to what fits into a message.
    fn shown(&self, start: usize, end: usize) -> String {
        let (start, end) = (self.text.floor_char_boundary(start), self.text.ceil_char_boundary(end));
        let shown = &self.text[start..end.min(self.text.len())];
        match shown.char_indices().nth(60) {
            Some((cut, _)) => format!("{}…", &shown[..cut]),
            None => shown.to_string(),
        }
    }
}

/// An open bracket, and what stands directly in it.
struct Frame {
    square: bool,
    start: usize,
    colons: usize,
    /// The byte after its last colon.
    after_colon: usize,
    bars: bool,
}

impl Frame {
    fn new(square: bool, start: usize) -> Self {
        Frame { square, start, colons: 0, after_colon: 0, bars: false }
    }
}

/// Finds `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]`, at any depth.
fn in_square_brackets(text: &Unescaped<'_>) -> Result<()> {
    let mut frames: Vec<Frame> = Vec::new();
    for (at, c) in text.masked.char_indices() {
        match (c, frames.last_mut()) {
            ('[' | '(', _) => frames.push(Frame::new(c == '[', at)),
            (':', Some(frame)) => {
                frame.colons += 1;
                frame.after_colon = at + 1;
            }
            ('|', Some(frame)) => frame.bars = true,
            (']' | ')', Some(frame)) if frame.square == (c == ']') => {
                check(text, frame, at)?;
                frames.pop();
            }
            // A bracket that closes nothing, or that crosses another, makes attention of all of them in A1111.
            (']' | ')', _) => frames.clear(),
            _ => {}
        }
    }
    Ok(())
}

/// Checks a bracket that closes at `end`.
fn check(text: &Unescaped<'_>, frame: &Frame, end: usize) -> Result<()> {
    let shown = text.shown(frame.start, end + 1);
    if frame.square && frame.bars {
        let message = format!("`{shown}` alternates between prompts, which is not supported");
        return Err(error("prompt_alternation", message).hint(BRACKETS));
    }
    if frame.square && (1..=2).contains(&frame.colons) && is_number(text.masked[frame.after_colon..end].trim()) {
        let message = format!("`{shown}` edits the prompt while it is painted, which is not supported");
        return Err(error("prompt_editing", message).hint(BRACKETS));
    }
    Ok(())
}

/// Returns whether A1111's grammar (lark's `SIGNED_NUMBER`) takes `text` for a number: no `inf`, no `nan`.
fn is_number(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
    text.chars().all(plain) && text.parse::<f64>().is_ok()
}

/// Returns where a `<name:arguments>` stands in `text` (A1111's `extra_networks.py`: `<(\w+):([^>]+)>`).
fn extra_network(text: &str) -> Option<(usize, usize)> {
    text.match_indices('<').find_map(|(start, _)| {
        let (inside, _) = text[start + 1..].split_once('>')?;
        let (name, arguments) = inside.split_once(':')?;
        let word = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        (word && !arguments.is_empty()).then_some((start, start + inside.len() + 2))
    })
}

fn error(code: &'static str, message: String) -> Error {
    Error::new(ErrorKind::Row, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<&'static str> {
        refuse_unsupported(text).err().map(|error| error.code())
    }

    #[test]
    fn editing_is_what_ends_in_a_number() {
        for text in ["[a:b:0.5]", "[b:3]", "[a::.5 ]", "[ (a:1.2) : b : 1e1 ]", "x ([a:b:3]) y", "[16:9]", "[a:-3]"] {
            assert_eq!(code(text), Some("prompt_editing"), "{text}");
        }
        for text in ["[red:blue]", "(a:1.3)", "[a (b:1.2)]", "[a:b 5]", "[a:b:c:3]", "[5]", "a:3", "[a:inf]", "[a:3"] {
            assert_eq!(code(text), None, "{text}");
        }
    }

    #[test]
    fn alternation_is_a_bar_in_square_brackets() {
        for text in ["[a|b]", "[a|]", "[[a|b]]", "([a|b|c]:1.2)", "[(a)|b]"] {
            assert_eq!(code(text), Some("prompt_alternation"), "{text}");
        }
        for text in ["a|b", "(a|b)", "[a] | [b]", "[a|b"] {
            assert_eq!(code(text), None, "{text}");
        }
    }

    #[test]
    fn composition_is_a_word() {
        for text in ["a cat AND a dog", "a,AND:b", "(a AND b)", r"\)AND"] {
            assert_eq!(code(text), Some("prompt_composition"), "{text}");
        }
        for text in ["a cat and a dog", "BRAND, SANDY, ANDROID", "AND_1", "ANDÉ"] {
            assert_eq!(code(text), None, "{text}");
        }
    }

    #[test]
    fn extra_networks() {
        for text in ["a <lora:x:0.8>", "<hypernet:y>", "a < b <lyco:z:1>"] {
            assert_eq!(code(text), Some("extra_network"), "{text}");
        }
        for text in ["a < b: c", "<3", "<:x>", "<a b:c>", "<lora:>", "<lora>"] {
            assert_eq!(code(text), None, "{text}");
        }
    }

    #[test]
    fn each_has_an_escape() {
        for text in [r"\[a:b:0.5\]", r"[a\:3]", r"[a\|b]", r"\AND", r"\<lora:x:1>"] {
            assert_eq!(code(text), None, "{text}");
        }
        assert_eq!(code(r"\\[a|b]"), Some("prompt_alternation"), "an escaped backslash escapes nothing");
    }

    #[test]
    fn the_construct_is_named() {
        let error = refuse_unsupported("Äa [red ÄÖÜ:blue:0.5] b").expect_err("editing");
        assert_eq!(
            error.to_string(),
            "`[red ÄÖÜ:blue:0.5]` edits the prompt while it is painted, which is not supported"
        );
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains(r"`\[`")));
        let error = refuse_unsupported("ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ AND 日本語日本語日本語日本語").expect_err("composition");
        assert!(error.to_string().contains("AND"));
    }
}
