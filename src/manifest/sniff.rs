//! Which byte stands between the cells, and where the header begins.

use std::path::Path;

use super::Options;
use super::format::Format;
use super::header;
use super::notices::Notices;
use super::quotes::Style;
use super::records::Records;
use crate::error::{Error, ErrorKind, Location, Result};

/// Delimiters that are recognised without being asked for; the first wins where the header has none of them.
const DELIMITERS: [u8; 4] = *b",;\t|";

/// Line breaks that a quoted cell may have before its quote is taken for one that was never closed.
const MAX_LINES: usize = 100;

/// How a text is split into cells.
pub(super) struct Dialect {
    /// Quotes, delimiter and limits.
    pub style: Style,
    /// Offset of the header.
    pub start: usize,
}

/// Returns `text` without the Ctrl-Z that DOS programs write at the end.
pub(super) fn without_ctrl_z(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte != 0x1A && byte != 0).map_or(0, |last| last + 1);
    if text[end..].contains(&0x1A) { &text[..end] } else { text }
}

/// Returns the dialect of `text`: from the options, from a first line `sep=;`, from the format, or from the header.
///
/// # Errors
/// A usage error for a delimiter that cannot be one, a structure error where two delimiters are equally likely.
pub(super) fn dialect(
    text: &[u8],
    format: Format,
    options: &Options,
    path: &Path,
    notices: &mut Notices,
) -> Result<Dialect> {
    let (declared, start) = declared_delimiter(text);
    let style = |delimiter| Style {
        delimiter,
        escape: options.escape,
        // Who allows longer cells also allows more lines in them.
        max_lines: MAX_LINES.max(options.max_field / (super::MAX_FIELD / MAX_LINES)),
    };
    let said = (format == Format::Tsv).then_some(b'\t');
    let delimiter = match options.delimiter.or(declared).or(said) {
        Some(delimiter) if b"\"\r\n\0".contains(&delimiter) => {
            return Err(Error::new(ErrorKind::Usage, "bad_delimiter", "this byte cannot be a delimiter")
                .hint("use one of `,` `;` `|` or a tab"));
        }
        Some(delimiter) => delimiter,
        None => sniffed(text, start, &style, options, path)?,
    };
    if delimiter != said.unwrap_or(b',') && options.delimiter.is_none() {
        notices.say(format!("{}: read with a {} between the cells", path.display(), shown_delimiter(delimiter)));
    }
    Ok(Dialect { style: style(delimiter), start })
}

/// Returns what a message calls a delimiter, without an article.
pub(super) fn shown_delimiter(delimiter: u8) -> String {
    match delimiter {
        b'\t' => "tab".into(),
        b',' => "comma".into(),
        b';' => "semicolon".into(),
        other => format!("`{}`", char::from(other).escape_default()),
    }
}

/// Returns the delimiter that a first line `sep=;` declares (an Excel habit), and the offset of the line after it.
fn declared_delimiter(text: &[u8]) -> (Option<u8>, usize) {
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(text.len());
    let line = text[..end].trim_ascii_start();
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line {
        [s, e, p, b'=', delimiter] if [*s, *e, *p].eq_ignore_ascii_case(b"sep") => (Some(*delimiter), end),
        _ => (None, 0),
    }
}

/// Returns the delimiter that makes a prompt column of the header, or else the one that makes most columns.
fn sniffed(text: &[u8], start: usize, style: &dyn Fn(u8) -> Style, options: &Options, path: &Path) -> Result<u8> {
    let headers = DELIMITERS.map(|delimiter| (delimiter, first_row(text, start, style(delimiter))));
    let splits: Vec<&(u8, Vec<String>)> = headers.iter().filter(|(_, cells)| cells.len() > 1).collect();
    let mut good = splits.iter().filter(|(_, cells)| cells.iter().any(|cell| options.is_prompt(cell)));
    match (good.next(), good.next()) {
        (Some((one, _)), Some((other, _))) => {
            let (one, other) = (shown_delimiter(*one), shown_delimiter(*other));
            let message = format!("both a {one} and a {other} could stand between the cells of the header");
            Err(Error::new(ErrorKind::Manifest, "ambiguous_delimiter", message)
                .at(Location::file(path).line(1))
                .hint("say which with `--delimiter`"))
        }
        (Some((delimiter, _)), None) => Ok(*delimiter),
        // A header that is only a prompt has no delimiter, whatever its rows look like.
        _ if headers[0].1.iter().any(|cell| options.is_prompt(cell)) => Ok(DELIMITERS[0]),
        _ => Ok(splits.iter().rev().max_by_key(|(_, cells)| cells.len()).map_or(DELIMITERS[0], |best| best.0)),
    }
}

/// Returns the cells of the first row from `start` on.
fn first_row(text: &[u8], start: usize, style: Style) -> Vec<String> {
    // A header longer than this is none, and an unclosed quote in it need not be followed to the end four times.
    let text = &text[..text.len().min(start + (1 << 16))];
    let mut records = Records::new(text, start, style);
    if records.advance() { header::cells(&records.current()) } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(u8, usize), String> {
        let dialect =
            dialect(text.as_bytes(), Format::Csv, &Options::default(), Path::new("a.csv"), &mut Notices::default());
        dialect.map(|dialect| (dialect.style.delimiter, dialect.start)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_header_tells_the_delimiter() {
        for (text, delimiter) in [
            ("prompt\na, b; c\n", b','),
            ("prompt;seed\n", b';'),
            ("\n\nseed\tPrompt\n", b'\t'),
            ("text|seed\n", b'|'),
            ("\"prompt\";\"a,b\"\n", b';'),
            ("promt;seed\n", b';'),
            ("", b','),
        ] {
            assert_eq!(read(text), Ok((delimiter, 0)), "{text:?}");
        }
        let both = "a.csv: line 1: both a comma and a semicolon could stand between the cells of the header";
        assert_eq!(read("prompt;x,prompt\n"), Err(both.into()));
    }

    #[test]
    fn a_sep_line_declares_it() {
        assert_eq!(read("sep=;\r\nprompt;a,b\n"), Ok((b';', 5)));
        assert_eq!(read("\"SEP=,\"\nprompt,a;b\n"), Ok((b',', 7)));
        assert_eq!(read("sep=\t\nprompt\n"), Ok((b'\t', 5)));
        assert_eq!(read("sep,prompt\n"), Ok((b',', 0)));
    }

    #[test]
    fn ctrl_z_ends_a_text() {
        assert_eq!(without_ctrl_z(b"a\nb\n\x1A"), b"a\nb\n");
        assert_eq!(without_ctrl_z(b"a\nb\n\x1A\0\0"), b"a\nb\n");
        assert_eq!(without_ctrl_z(b"a\x1Ab\n"), b"a\x1Ab\n");
        assert_eq!(without_ctrl_z(b"a\0"), b"a\0");
    }
}
