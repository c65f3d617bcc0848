//! A1111's attention syntax (stable-diffusion-webui 1.10, `modules/prompt_parser.py`, `parse_prompt_attention`).

use std::iter;

use super::syntax::Segment;
use super::unsupported::refuse_unsupported;
use crate::error::{Error, ErrorKind, Result};

const MORE: f64 = 1.1;
const LESS: f64 = 1.0 / 1.1;
const BREAK: &str = "BREAK";

/// Returns the parts of `text`, neighbours of equal weight as one:
///
/// - `(words)` weigh 1.1 times as much, `[words]` 1.1 times less, `(words:1.3)` 1.3 times as much; brackets nest, and
///   one that is never closed holds to the end; one that was never opened is text.
/// - `\(`, `\)`, `\[`, `\]`, `\\` are those characters; any other backslash vanishes.
/// - `BREAK`, as a word of its own, ends a chunk, and the spaces around it go.
///
/// # Errors
/// Of the row: `prompt_editing`, `prompt_alternation`, `prompt_composition` and `extra_network` for what A1111 would not
/// take as text and is not supported; `bad_weight` for a weight that is no number; `break_in_brackets` for a `BREAK` with a
/// weight, which A1111 takes for a word of negative weight.
pub fn parse_attention(text: &str) -> Result<Vec<Segment>> {
    refuse_unsupported(text)?;
    let mut parser = Parser::default();
    for token in tokens(text) {
        parser.take(token)?;
    }
    parser.finish()
}

/// What the grammar tells apart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    /// A backslash and the character that it keeps from its meaning, which may be none.
    Escape(&'a str),
    OpenRound,
    OpenSquare,
    /// `:number)`: the number, and all of it.
    Weight(&'a str, &'a str),
    CloseRound,
    CloseSquare,
    Text(&'a str),
}

/// Returns the tokens of `text`: every character belongs to one.
fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = text;
    iter::from_fn(move || {
        let (token, length) = first_token(rest)?;
        rest = &rest[length..];
        Some(token)
    })
}

/// Returns the token at the start of `text` and its length.
fn first_token(text: &str) -> Option<(Token<'_>, usize)> {
    let special = |c: char| r"\()[]:".contains(c);
    Some(match text.chars().next()? {
        '\\' => {
            let length = 1 + usize::from(text[1..].starts_with(['(', ')', '[', ']', '\\']));
            (Token::Escape(&text[1..length]), length)
        }
        '(' => (Token::OpenRound, 1),
        '[' => (Token::OpenSquare, 1),
        ')' => (Token::CloseRound, 1),
        ']' => (Token::CloseSquare, 1),
        ':' => weight(text).unwrap_or((Token::Text(&text[..1]), 1)),
        _ => {
            let length = text.find(special).unwrap_or(text.len());
            (Token::Text(&text[..length]), length)
        }
    })
}

/// Returns the `:number)` at the start of `text`, if it is one: dots and digits, whether or not they are a number.
fn weight(text: &str) -> Option<(Token<'_>, usize)> {
    let number = text.strip_prefix(':')?.trim_start();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let after = digits.trim_start_matches(|c: char| c == '.' || c.is_numeric());
    let end = after.trim_start().strip_prefix(')')?;
    let length = text.len() - end.len();
    let number = &number[..number.len() - after.len()];
    (after.len() < digits.len()).then_some((Token::Weight(number, &text[..length]), length))
}

/// A part whose weight may still change.
struct Part {
    text: String,
    weight: f64,
    is_break: bool,
}

/// The parts so far, and where the open brackets stand among them.
#[derive(Default)]
struct Parser {
    parts: Vec<Part>,
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    fn take(&mut self, token: Token<'_>) -> Result<()> {
        match token {
            Token::Escape(text) => self.push(text, 1.0, false),
            Token::OpenRound => self.round.push(self.parts.len()),
            Token::OpenSquare => self.square.push(self.parts.len()),
            Token::Weight(number, all) => match self.round.pop() {
                Some(start) => self.multiply(start, number.parse().map_err(|_| bad_weight(number))?),
                None => self.push_text(all),
            },
            Token::CloseRound => match self.round.pop() {
                Some(start) => self.multiply(start, MORE),
                None => self.push_text(")"),
            },
            Token::CloseSquare => match self.square.pop() {
                Some(start) => self.multiply(start, LESS),
                None => self.push_text("]"),
            },
            Token::Text(text) => self.push_text(text),
        }
        Ok(())
    }

    fn push(&mut self, text: &str, weight: f64, is_break: bool) {
        self.parts.push(Part { text: text.to_string(), weight, is_break });
    }

    /// Adds a text that may hold `BREAK`s. Until the end these have A1111's mark, the weight -1.
    fn push_text(&mut self, text: &str) {
        for (i, part) in split_at_breaks(text).into_iter().enumerate() {
            if i > 0 {
                self.push(BREAK, -1.0, true);
            }
            self.push(part, 1.0, false);
        }
    }

    fn multiply(&mut self, start: usize, factor: f64) {
        self.parts[start..].iter_mut().for_each(|part| part.weight *= factor);
    }

    /// Returns the parts; brackets that are still open close here.
    fn finish(mut self) -> Result<Vec<Segment>> {
        for start in std::mem::take(&mut self.round) {
            self.multiply(start, MORE);
        }
        for start in std::mem::take(&mut self.square) {
            self.multiply(start, LESS);
        }
        if self.parts.is_empty() {
            self.push("", 1.0, false);
        }
        merge(self.parts)
    }
}

fn merge(parts: Vec<Part>) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for part in parts {
        match segments.last_mut() {
            _ if part.is_break && part.weight != -1.0 => return Err(break_in_brackets()),
            _ if part.is_break => segments.push(Segment::Break),
            Some(Segment::Text { text, weight }) if *weight == part.weight => text.push_str(&part.text),
            _ => segments.push(Segment::Text { text: part.text, weight: part.weight }),
        }
    }
    Ok(segments)
}

/// Returns what stands before, between and after the `BREAK`s of `text`, without the spaces next to them.
fn split_at_breaks(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = find_word(rest, BREAK) {
        parts.push(rest[..at].trim_end());
        rest = rest[at + BREAK.len()..].trim_start();
    }
    parts.push(rest);
    parts
}

/// Returns where `word` first stands in `text` as a word of its own: with no letter, digit or `_` next to it.
pub(super) fn find_word(text: &str, word: &str) -> Option<usize> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |at: usize| !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word);
    text.match_indices(word).map(|(at, _)| at).find(|at| alone(*at))
}

fn bad_weight(number: &str) -> Error {
    Error::new(ErrorKind::Row, "bad_weight", format!("the weight `{number}` is not a number"))
        .hint("write `(words:1.3)`, or `\\(` and `\\)` for brackets that are text")
}

fn break_in_brackets() -> Error {
    let message = "`BREAK` stands inside of brackets, where A1111 takes it for a word of negative weight";
    Error::new(ErrorKind::Row, "break_in_brackets", message)
        .hint("close the brackets before `BREAK` and open them again after it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The segments as A1111 prints them: `BREAK` with the weight -1.
    fn parse(text: &str) -> Vec<(String, f64)> {
        let pair = |segment| match segment {
            Segment::Text { text, weight } => (text, weight),
            Segment::Break => (BREAK.into(), -1.0),
        };
        let segments = parse_attention(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        segments.into_iter().map(pair).collect()
    }

    fn pairs(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(text, weight)| (text.to_string(), *weight)).collect()
    }

    fn code(text: &str) -> &'static str {
        parse_attention(text).expect_err(text).code()
    }

    #[test]
    fn the_examples_of_a1111s_own_documentation() {
        assert_eq!(parse("normal text"), pairs(&[("normal text", 1.0)]));
        assert_eq!(parse("an (important) word"), pairs(&[("an ", 1.0), ("important", 1.1), (" word", 1.0)]));
        assert_eq!(parse("(unbalanced"), pairs(&[("unbalanced", 1.1)]));
        assert_eq!(parse(r"\(literal\]"), pairs(&[("(literal]", 1.0)]));
        assert_eq!(parse("(unnecessary)(parens)"), pairs(&[("unnecessaryparens", 1.1)]));
        let long = parse("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).");
        let expected = [
            ("a ", 1.0),
            ("house", 1.5730000000000004),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641000000000006),
            (".", 1.1),
        ];
        assert_eq!(long, pairs(&expected));
    }

    #[test]
    fn weights() {
        assert_eq!(parse("(a: +.5 )"), pairs(&[("a", 0.5)]));
        assert_eq!(parse("(a:-1)b"), pairs(&[("a", -1.0), ("b", 1.0)]));
        assert_eq!(parse("a:1.3)"), pairs(&[("a:1.3)", 1.0)]), "no bracket was opened");
        assert_eq!(parse("(a:b)"), pairs(&[("a:b", 1.1)]));
        assert_eq!(parse("(16:9"), pairs(&[("16:9", 1.1)]));
        assert_eq!(code("(a:1.2.3)"), "bad_weight");
        assert_eq!(code("(a:.)"), "bad_weight");
    }

    #[test]
    fn backslashes() {
        assert_eq!(parse(r"a\\b \( \c d\"), pairs(&[(r"a\b ( c d", 1.0)]));
        assert_eq!(parse(r"(a\)b)"), pairs(&[("a)b", 1.1)]));
    }

    #[test]
    fn brackets_that_were_never_opened_are_text() {
        assert_eq!(parse("a) b] (c"), pairs(&[("a) b] ", 1.0), ("c", 1.1)]));
        assert_eq!(parse("(a]b)"), pairs(&[("a]b", 1.1)]));
        assert_eq!(parse(""), pairs(&[("", 1.0)]));
        assert_eq!(parse("()"), pairs(&[("", 1.0)]));
    }

    #[test]
    fn breaks() {
        let mark = (BREAK, -1.0);
        assert_eq!(parse("a BREAK\n b"), pairs(&[("a", 1.0), mark, ("b", 1.0)]));
        assert_eq!(parse("BREAK BREAK"), pairs(&[("", 1.0), mark, ("", 1.0), mark, ("", 1.0)]));
        assert_eq!(parse("(a),BREAK(b:2)"), pairs(&[("a", 1.1), (",", 1.0), mark, ("", 1.0), ("b", 2.0)]));
        assert_eq!(parse("BREAKFAST, breaks, A_BREAK, break"), pairs(&[("BREAKFAST, breaks, A_BREAK, break", 1.0)]));
        assert_eq!(parse("(a BREAK b:1)"), pairs(&[("a", 1.0), mark, ("b", 1.0)]), "a weight of 1 changes nothing");
        assert_eq!(code("(a BREAK b)"), "break_in_brackets");
        assert_eq!(code("[a BREAK b"), "break_in_brackets");
    }
}
