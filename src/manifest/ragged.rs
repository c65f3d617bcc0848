//! Rows with more or fewer cells than the header: which slip it probably was.

use super::header::Header;
use super::numbers::Problem;
use super::records::Record;
use super::sniff::shown_delimiter;

/// Returns what is wrong with a row whose number of cells does not fit the header, with the code of the error, or `None`
/// where it fits.
pub(super) fn problem(record: &Record, header: &Header, delimiter: u8) -> Option<(&'static str, Problem)> {
    let (found, wanted) = (record.cells.len(), header.required);
    if (wanted..=header.columns.len()).contains(&found) {
        return None;
    }
    let message = format!("the row has {} where the header has {wanted}", cells(found));
    if found < wanted {
        return Some(("too_few_cells", Problem::new(message, too_few(record, delimiter))));
    }
    Some(("too_many_cells", Problem::new(message, too_many(record, wanted, delimiter))))
}

fn cells(number: usize) -> String {
    if number == 1 { "1 cell".into() } else { format!("{number} cells") }
}

fn too_few(record: &Record, delimiter: u8) -> String {
    if record.unfinished {
        return "the file ends in this row, without a line break: it may be cut".into();
    }
    format!("write empty cells too: a {} for each", shown_delimiter(delimiter))
}

fn too_many(record: &Record, wanted: usize, delimiter: u8) -> String {
    let raw = record.raw;
    let has = |pattern: &[u8]| raw.windows(pattern.len()).any(|window| window == pattern);
    let name = shown_delimiter(delimiter);
    if has(b"\\\"") {
        return "write a quote inside quotes as `\"\"`, or use `--escape '\\'` if the file has `\\\"`".into();
    }
    if has("“".as_bytes()) || has("”".as_bytes()) || has("„".as_bytes()) {
        return "curly quotes do not hold a cell together: use straight ones, \"like this\"".into();
    }
    if has(&[delimiter, b' ', b'"']) {
        return format!("remove the space between the {name} and the opening quote");
    }
    if record.cells.iter().skip(wanted).all(<[u8]>::is_empty) {
        return format!("remove the {name} at the end of the row");
    }
    let hint =
        format!("put the text in double quotes if a {name} belongs to it: \"a cat{} sleeping\"", char::from(delimiter));
    match wanted {
        1 => format!("{hint}; or read one prompt a line with `--input-format txt`"),
        _ => hint,
    }
}
