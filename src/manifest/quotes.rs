//! Quotes gone wrong: the mistake that lets one row swallow the rest of a file without a parser's complaint.
//!
//! The scan follows the states of csv-core 0.1: a quote opens a cell only as its first byte, `""` inside stands for one
//! quote, and text after the closing quote belongs to the cell.

/// Where a quoted cell begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    /// Offset of the opening quote in the scanned bytes.
    pub at: usize,
    /// 0-based number of the cell in its row.
    pub cell: usize,
}

/// Something odd about the quotes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oddity {
    /// The file ends inside the quotes.
    Unclosed(Opening),
    /// The quotes close some lines later in the middle of a cell: the offset of the closing quote.
    RunAway(Opening, usize),
    /// More than the allowed number of line breaks between the quotes.
    TooManyLines(Opening),
    /// `\"` inside quotes, where no escape character was asked for.
    Backslash(Opening),
    /// `"abc" def`: text after the closing quote on the same line. Harmless, the others are not.
    TextAfter(Opening),
}

/// How quotes are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// The byte between cells.
    pub delimiter: u8,
    /// The byte before a quote that is part of the value, if there is one besides `""`.
    pub escape: Option<u8>,
    /// Line breaks allowed inside one cell.
    pub max_lines: usize,
}

/// Returns the first serious oddity in the bytes of one row, or else the first harmless one.
pub(super) fn oddity(row: &[u8], style: Style) -> Option<Oddity> {
    let mut harmless = None;
    let mut cell = 0;
    let mut at = 0;
    loop {
        if row.get(at) == Some(&b'"') {
            let opening = Opening { at, cell };
            let close = match closing_quote(row, opening, style) {
                Ok(close) => close,
                Err(oddity) => return Some(oddity),
            };
            match text_after(row, opening, close, style) {
                Some(mild @ Oddity::TextAfter(_)) => harmless = harmless.or(Some(mild)),
                Some(serious) => return Some(serious),
                None => {}
            }
            at = close + 1;
        }
        let Some(next) = row[at..].iter().position(|&byte| byte == style.delimiter) else { return harmless };
        at += next + 1;
        cell += 1;
    }
}

/// Returns the offset of the quote that closes `opening`.
fn closing_quote(row: &[u8], opening: Opening, style: Style) -> Result<usize, Oddity> {
    let mut lines = 0;
    let mut at = opening.at + 1;
    while at < row.len() {
        match row[at] {
            b'"' if row.get(at + 1) == Some(&b'"') => at += 1,
            b'"' => return Ok(at),
            byte if Some(byte) == style.escape => at += 1,
            b'\n' => lines += 1,
            b'\r' if row.get(at + 1) != Some(&b'\n') => lines += 1,
            _ => {}
        }
        if lines > style.max_lines {
            return Err(Oddity::TooManyLines(opening));
        }
        at += 1;
    }
    Err(Oddity::Unclosed(opening))
}

/// Returns what is odd about a cell whose closing quote is neither followed by the delimiter nor by the row's end.
fn text_after(row: &[u8], opening: Opening, close: usize, style: Style) -> Option<Oddity> {
    let next = *row.get(close + 1)?;
    if next == style.delimiter || next == b'\n' || next == b'\r' {
        return None;
    }
    let quoted = &row[opening.at + 1..close];
    if quoted.ends_with(b"\\") && style.escape.is_none() {
        Some(Oddity::Backslash(opening))
    } else if quoted.contains(&b'\n') || quoted.contains(&b'\r') {
        Some(Oddity::RunAway(opening, close))
    } else {
        Some(Oddity::TextAfter(opening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { delimiter: b',', escape: None, max_lines: 2 };

    fn scan(row: &str) -> Option<Oddity> {
        oddity(row.as_bytes(), STYLE)
    }

    #[test]
    fn well_formed_rows_are_not_odd() {
        for row in [
            "",
            "a,b",
            "\"a\",\"b\"\n",
            "\"a, \"\"b\"\"\",\r\n",
            "5\" tv,\"x\"",
            "\"a\nb\nc\"",
            "\"\",\"\"",
            "\"C:\\\",1",
        ] {
            assert_eq!(scan(row), None, "{row:?}");
        }
    }

    #[test]
    fn each_oddity_is_told_from_the_others() {
        let opening = Opening { at: 2, cell: 1 };
        assert_eq!(scan("a,\"b\nc,1\n"), Some(Oddity::Unclosed(opening)));
        assert_eq!(scan("a,\"b\nc,\"d\"\n"), Some(Oddity::RunAway(opening, 7)));
        assert_eq!(scan("a,\"1\n2\r\n3\r4\""), Some(Oddity::TooManyLines(opening)));
        assert_eq!(scan("a,\"b \\\"c\\\"\""), Some(Oddity::Backslash(opening)));
        assert_eq!(scan("a,\"b\" c,\"d\""), Some(Oddity::TextAfter(opening)));
        assert_eq!(scan("\"b\" c,\"d"), Some(Oddity::Unclosed(Opening { at: 6, cell: 1 })), "the serious one wins");
    }

    #[test]
    fn an_escape_character_hides_quotes() {
        let style = Style { escape: Some(b'\\'), ..STYLE };
        assert_eq!(oddity(b"\"b \\\"c\\\" d\",1", style), None);
        assert_eq!(oddity(b"\"b \\\"c", style), Some(Oddity::Unclosed(Opening { at: 0, cell: 0 })));
    }
}
