//! Text of a cell → its parts. The syntax is that of the Dynamic Prompts extension of A1111, and `${column}`.

use super::choice::{Choice, Node, Sequence, Weighted};
use crate::error::{Error, ErrorKind, Result};

/// Returns the lines of the wildcard of a name, each with its line number.
pub type Wildcards<'w> = dyn Fn(&str) -> Result<Vec<(u64, String)>> + 'w;

/// Characters that mean something, and mean themselves after a backslash.
const SPECIAL: &str = "{}|$_\\";

/// Returns what `text` stands for.
///
/// # Errors
/// Kind `Manifest`: braces that do not match, a wildcard that does not end or leads back to itself, or what `wildcards` fails with.
/// Without a place where it is in `text` itself.
pub fn parse(text: &str, wildcards: &Wildcards) -> Result<Sequence> {
    Parser { chars: text.chars().collect(), at: 0, wildcards, inside: Vec::new() }.whole()
}

struct Parser<'w> {
    chars: Vec<char>,
    at: usize,
    wildcards: &'w Wildcards<'w>,
    /// Wildcards that are being read, the outermost first.
    inside: Vec<String>,
}

impl Parser<'_> {
    fn whole(mut self) -> Result<Sequence> {
        let sequence = self.sequence(false)?;
        match self.chars.get(self.at) {
            None => Ok(sequence),
            Some(_) => Err(self.wrong(self.at, "`}` closes nothing").hint("write `\\}` for the character itself")),
        }
    }

    /// Reads until the end, or until the option of a choice ends.
    fn sequence(&mut self, is_option: bool) -> Result<Sequence> {
        let mut nodes = Vec::new();
        while let Some(&char) = self.chars.get(self.at) {
            match char {
                '}' => break,
                '|' if is_option => break,
                '\\' if self.peek(1).is_some_and(|next| SPECIAL.contains(next)) => {
                    push(&mut nodes, self.chars[self.at + 1]);
                    self.at += 2;
                }
                '{' => nodes.push(Node::Choice(self.choice()?)),
                '$' if self.peek(1) == Some('{') => nodes.push(self.column()?),
                '_' if self.peek(1) == Some('_') => nodes.push(self.wildcard()?),
                _ => {
                    push(&mut nodes, char);
                    self.at += 1;
                }
            }
        }
        Ok(nodes)
    }

    /// Reads `{…}`.
    fn choice(&mut self) -> Result<Choice> {
        let open = self.at;
        self.at += 1;
        let (least, most, joiner) = self.bounds();
        let mut options = Vec::new();
        loop {
            let weight = self.weight();
            let sequence = trimmed(self.sequence(true)?);
            options.push(Weighted { weight, sequence });
            self.at += 1;
            match self.chars.get(self.at - 1) {
                Some('|') => {}
                Some(_) => break,
                None => {
                    let error = self.wrong(open, "`{` is never closed");
                    return Err(error.hint("write `\\{` for the character itself"));
                }
            }
        }
        // `{2$$__animal__}` takes two of the wildcard's lines.
        if let [Weighted { sequence, .. }] = &mut options[..]
            && let [Node::Choice(only)] = &mut sequence[..]
            && (only.least, only.most) == (1, 1)
        {
            options = std::mem::take(&mut only.options);
        }
        Ok(Choice { options, least, most, joiner })
    }

    /// Reads `2$$`, `1-2$$`, `-2$$` or `2-$$`, and `joiner$$` after it.
    fn bounds(&mut self) -> (usize, usize, String) {
        let start = self.at;
        let least = self.digits();
        let is_range = self.chars.get(self.at) == Some(&'-');
        self.at += usize::from(is_range);
        let most = if is_range { self.digits() } else { least };
        if self.at == start || !self.skip("$$") {
            self.at = start;
            return (1, 1, String::new());
        }
        let bounds = (least.unwrap_or(1), most.unwrap_or(usize::MAX).max(least.unwrap_or(1)));
        let rest = &self.chars[self.at..];
        let end = rest.iter().position(|char| "${}".contains(*char)).unwrap_or(rest.len());
        let joiner: String = rest[..end].iter().collect();
        self.at += end;
        if self.skip("$$") {
            return (bounds.0, bounds.1, joiner);
        }
        self.at -= end;
        (bounds.0, bounds.1, ",".to_string())
    }

    fn digits(&mut self) -> Option<usize> {
        let digits: String = self.chars[self.at..].iter().take_while(|char| char.is_ascii_digit()).collect();
        self.at += digits.len();
        digits.parse().ok()
    }

    /// Reads `2::` or `0.5::` before an option.
    fn weight(&mut self) -> f64 {
        let rest: String = self.chars[self.at..].iter().take(24).collect();
        let found = weight_of(&rest).map(|(weight, length)| {
            self.at += length;
            weight
        });
        found.unwrap_or(1.0)
    }

    /// Reads `${name}`.
    fn column(&mut self) -> Result<Node> {
        let open = self.at;
        let rest = &self.chars[open + 2..];
        let Some(length) = rest.iter().position(|char| *char == '}') else {
            return Err(self
                .wrong(open, "`${` is never closed")
                .hint("write `${column}`, or `\\$` for the character itself"));
        };
        let name: String = rest[..length].iter().collect();
        self.at = open + 3 + length;
        Ok(Node::Column(name.trim().to_string()))
    }

    /// Reads `__name__` and what the wildcard stands for.
    fn wildcard(&mut self) -> Result<Node> {
        let open = self.at;
        let rest: String = self.chars[open + 2..].iter().collect();
        let name = rest.split("__").next().unwrap_or_default();
        let is_name = |char: char| char.is_alphanumeric() || "-_/. ".contains(char);
        if name.is_empty() || name.len() == rest.len() || !name.chars().all(is_name) || name.contains("..") {
            let error = self.wrong(open, "`__` begins no wildcard such as `__animal__`");
            return Err(error.hint("write `\\_\\_` for the characters themselves"));
        }
        if self.inside.iter().any(|other| other == name) {
            let way = [&self.inside[..], &[name.to_string()]].concat().join("` → `");
            return Err(self.wrong(open, &format!("wildcard `{name}` leads back to itself: `{way}`")));
        }
        self.at = open + 4 + name.chars().count();
        let mut options = Vec::new();
        for (number, line) in (self.wildcards)(name)? {
            let (weight, length) = weight_of(&line).unwrap_or((1.0, 0));
            let inside = [&self.inside[..], &[name.to_string()]].concat();
            let chars = line.chars().skip(length).collect();
            let parser = Parser { chars, at: 0, wildcards: self.wildcards, inside };
            let sequence = parser.whole().map_err(|error| in_wildcard(error, name, number))?;
            options.push(Weighted { weight, sequence: trimmed(sequence) });
        }
        Ok(Node::Choice(Choice { options, least: 1, most: 1, joiner: String::new() }))
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip(&mut self, text: &str) -> bool {
        let is_there = text.chars().enumerate().all(|(ahead, char)| self.peek(ahead) == Some(char));
        self.at += if is_there { text.len() } else { 0 };
        is_there
    }

    fn wrong(&self, at: usize, message: &str) -> Error {
        Error::new(ErrorKind::Manifest, "bad_template", format!("{message} (character {})", at + 1))
    }
}

/// Names the wildcard and its line in an error that has no place yet.
fn in_wildcard(error: Error, name: &str, line: u64) -> Error {
    if error.location().is_some() || error.message().starts_with("in line") {
        return error;
    }
    let new =
        Error::new(error.kind(), error.code(), format!("in line {line} of wildcard `{name}`: {}", error.message()));
    match error.how_to_fix() {
        Some(hint) => new.hint(hint),
        None => new,
    }
}

/// Returns the weight at the start of an option and how many characters say so.
fn weight_of(text: &str) -> Option<(f64, usize)> {
    let (before, _) = text.split_once("::")?;
    let digits = before.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let weight = digits.parse().ok().filter(|weight: &f64| is_number && weight.is_finite())?;
    Some((weight, before.chars().count() + 2))
}

/// Returns `nodes` without the space at their ends.
fn trimmed(mut nodes: Sequence) -> Sequence {
    if let Some(Node::Text(text)) = nodes.first_mut() {
        *text = text.trim_start().to_string();
    }
    if let Some(Node::Text(text)) = nodes.last_mut() {
        *text = text.trim_end().to_string();
    }
    nodes
}

fn push(nodes: &mut Sequence, char: char) {
    match nodes.last_mut() {
        Some(Node::Text(text)) => text.push(char),
        _ => nodes.push(Node::Text(char.to_string())),
    }
}
