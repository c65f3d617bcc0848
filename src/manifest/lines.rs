//! The lines of a text, and the manifest that is nothing but prompts, one a line.

use std::path::Path;

use super::columns::Field;
use super::header::Header;
use super::rowcheck;
use super::table::{Reading, Table, empty_file};
use crate::error::{Error, ErrorKind, Location, Result};

/// One line.
pub(super) struct Line<'t> {
    /// 1-based.
    pub number: u64,
    /// Without its break.
    pub bytes: &'t [u8],
    /// Whether the text ends with it, without a line break.
    pub unfinished: bool,
}

/// Returns the lines of `text` that have something in them; LF, CR LF and CR end a line.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let (mut rest, mut number) = (text, 0);
    let all = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        number += 1;
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let line = Line { number, bytes: &rest[..end.unwrap_or(rest.len())], unfinished: end.is_none() };
        let width = end.map_or(0, |end| if rest[end..].starts_with(b"\r\n") { 2 } else { 1 });
        rest = &rest[line.bytes.len() + width..];
        Some(line)
    });
    all.filter(|line| !line.bytes.iter().all(u8::is_ascii_whitespace))
}

/// Adds a job for each line of `text` that is not blank: commas and quotes are part of the prompt.
pub(super) fn read(reading: &mut Reading, text: &[u8], path: &Path) -> Result<()> {
    let mut lines = lines(text).peekable();
    let Some(first) = lines.peek() else { return Err(empty_file(path, "write a prompt on each line")) };
    if let Ok(line) = std::str::from_utf8(first.bytes)
        && looks_like_a_header(line, reading, path)?
    {
        lines.next();
    }
    reading.begin(path, None);
    let header = Header::of_prompts(&reading.rules.options);
    let slots = vec![reading.slot(&header.names[0], &header.columns[0])];
    let table = Table { path, header, slots };
    let mut unfinished = false;
    for line in lines {
        unfinished = line.unfinished;
        let at = table.header.position(Field::Prompt).unwrap_or(0);
        match std::str::from_utf8(line.bytes) {
            Ok(prompt) => reading.row(&table, &[prompt], line.number, Vec::new())?,
            Err(_) => {
                let lossy = encoding_rs::WINDOWS_1252.decode_without_bom_handling(line.bytes).0;
                reading.row(
                    &table,
                    &[&lossy],
                    line.number,
                    vec![(Some(at), "not_utf8", rowcheck::not_utf8(line.bytes))],
                )?;
            }
        }
    }
    reading.end(path, unfinished);
    Ok(())
}

/// Returns whether the first line is a header of one column, which is said and left out: `prompt`.
///
/// # Errors
/// A structure error where it is that of a CSV file, unless the user says that it is a prompt.
fn looks_like_a_header(line: &str, reading: &mut Reading, path: &Path) -> Result<bool> {
    let options = &reading.rules.options;
    if options.is_prompt(line) {
        let name = line.trim();
        reading.notices.say(format!("{}: line 1, `{name}`, is taken for a header, and left out", path.display()));
        return Ok(true);
    }
    if options.format.is_none()
        && line.split([',', ';', '\t', '|']).any(|cell| options.is_prompt(cell.trim_matches('"')))
    {
        return Err(Error::new(ErrorKind::Manifest, "not_txt", "the first line is the header of a CSV file")
            .at(Location::file(path).line(1))
            .hint("use `--input-format csv`; or `--input-format txt`, if it is a prompt"));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_whatever_ends_them() {
        let numbered = |text: &'static str| {
            lines(text.as_bytes()).map(|line| (line.number, line.bytes, line.unfinished)).collect::<Vec<_>>()
        };
        assert_eq!(numbered("a\r\n\r\n  \nb\rc"), [(1, &b"a"[..], false), (4, b"b", false), (5, b"c", true)]);
        assert_eq!(numbered("\n"), []);
    }
}
