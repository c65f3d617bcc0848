//! The rows of a text as the csv crate splits them, with line numbers of our own: the crate's are off after blank lines
//! and where lines end in CR LF.

use super::quotes::Style;

/// Rows, one after the other, blank lines left out.
pub(super) struct Records<'t> {
    text: &'t [u8],
    /// Offset in `text` of the first byte that the reader sees.
    base: usize,
    reader: csv::Reader<&'t [u8]>,
    cells: csv::ByteRecord,
    lines: Lines<'t>,
    start: usize,
    end: usize,
}

/// One row as it stands in the text.
#[derive(Clone, Copy)]
pub(super) struct Record<'r> {
    /// Unquoted cells.
    pub cells: &'r csv::ByteRecord,
    /// Its bytes in the text, with its line break.
    pub raw: &'r [u8],
    /// 1-based line at which it starts.
    pub line: u64,
    /// Whether the text ends with it, without a line break.
    pub unfinished: bool,
}

impl<'t> Records<'t> {
    /// Returns the rows of `text` from the offset `base` on, as `style` splits them.
    pub fn new(text: &'t [u8], base: usize, style: Style) -> Self {
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(style.delimiter)
            .escape(style.escape)
            .from_reader(&text[base..]);
        let lines = Lines { text, at: 0, line: 1 };
        Records { text, base, reader, cells: csv::ByteRecord::new(), lines, start: base, end: base }
    }

    /// Goes on to the next row that is not a blank line; returns whether there is one.
    pub fn advance(&mut self) -> bool {
        loop {
            let more = self.reader.read_byte_record(&mut self.cells);
            if !more.expect("bytes in memory, split into records of any length, cannot fail to be read") {
                return false;
            }
            let from = self.end;
            self.end = self.base + self.reader.position().byte() as usize;
            // The reader takes the LF of a CR LF, and blank lines, as the beginning of the next record.
            let skipped = self.text[from..self.end].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.start = from + skipped;
            if !self.text[self.start..self.end].iter().all(u8::is_ascii_whitespace) {
                self.lines.go_to(self.start);
                return true;
            }
        }
    }

    /// Returns the row that [`advance`](Self::advance) came to.
    pub fn current(&self) -> Record<'_> {
        Record {
            cells: &self.cells,
            raw: &self.text[self.start..self.end],
            line: self.lines.line,
            unfinished: self.end == self.text.len() && !self.text.ends_with(b"\n") && !self.text.ends_with(b"\r"),
        }
    }
}

impl Record<'_> {
    /// Returns the 1-based line of the byte at `offset` of this row.
    pub fn line_at(&self, offset: usize) -> u64 {
        self.line + breaks(self.raw, 0, offset)
    }
}

/// A forward count of lines.
struct Lines<'t> {
    text: &'t [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// Counts on to the byte at `offset`, which never goes back.
    fn go_to(&mut self, offset: usize) {
        self.line += breaks(self.text, self.at, offset);
        self.at = offset;
    }
}

/// Returns the number of line breaks (LF, CR LF or CR) that end in `text[from..to]`.
fn breaks(text: &[u8], from: usize, to: usize) -> u64 {
    let ends = |at: &usize| text[*at] == b'\n' || (text[*at] == b'\r' && text.get(at + 1) != Some(&b'\n'));
    (from..to).filter(ends).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(u64, Vec<String>)> {
        let mut records = Records::new(text.as_bytes(), 0, Style { delimiter: b',', escape: None, max_lines: 9 });
        let mut rows = Vec::new();
        while records.advance() {
            let record = records.current();
            rows.push((record.line, record.cells.iter().map(|cell| String::from_utf8_lossy(cell).into()).collect()));
        }
        rows
    }

    fn lines(text: &str) -> Vec<u64> {
        rows(text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        assert_eq!(lines("a\nb\nc"), [1, 2, 3]);
        assert_eq!(lines("a\r\nb\r\nc\r\n"), [1, 2, 3]);
        assert_eq!(lines("a\rb\rc\r"), [1, 2, 3]);
        assert_eq!(lines("a\r\n\r\nb\n\n  \t \nc\r\n\rd"), [1, 3, 6, 8]);
        assert_eq!(lines("a\n\"b\nb\r\nb\",1\nc"), [1, 2, 5]);
        assert_eq!(lines(""), [0u64; 0]);
    }

    #[test]
    fn quoted_nothing_is_a_row_and_spaces_are_not() {
        assert_eq!(rows("\"\"\n   \n,\n"), [(1, vec![String::new()]), (3, vec![String::new(), String::new()])]);
    }

    #[test]
    fn a_row_knows_whether_the_text_ends_inside_it() {
        for (text, unfinished) in [("a\nb", true), ("a\nb\n", false), ("a\nb\r", false)] {
            let mut records = Records::new(text.as_bytes(), 0, Style { delimiter: b',', escape: None, max_lines: 9 });
            assert!(records.advance() && records.advance());
            assert_eq!(records.current().unfinished, unfinished, "{text:?}");
        }
    }
}
