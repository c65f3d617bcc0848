//! What a user should know though nothing is wrong: one line each, and one line for all rows that share a remark.

use crate::error::Location;

/// Remarks collected while reading.
#[derive(Default)]
pub(super) struct Notices {
    texts: Vec<String>,
    repeated: Vec<Repeated>,
}

/// A remark that many rows can share.
struct Repeated {
    what: &'static str,
    first: Location,
    more: u64,
}

impl Notices {
    /// Adds a remark of its own.
    pub fn say(&mut self, text: impl Into<String>) {
        self.texts.push(text.into());
    }

    /// Adds a remark about one row; of equal remarks, the first keeps its place and the others are counted.
    pub fn repeat(&mut self, what: &'static str, place: impl FnOnce() -> Location) {
        match self.repeated.iter_mut().find(|repeated| repeated.what == what) {
            Some(repeated) => repeated.more += 1,
            None => self.repeated.push(Repeated { what, first: place(), more: 0 }),
        }
    }

    /// Returns all remarks as lines of text.
    pub fn into_lines(self) -> Vec<String> {
        let repeated = self.repeated.into_iter().map(|Repeated { what, first, more }| match more {
            0 => format!("{first}: {what}"),
            1 => format!("{first}: {what} (and 1 more)"),
            _ => format!("{first}: {what} (and {more} more)"),
        });
        self.texts.into_iter().chain(repeated).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_remarks_are_counted() {
        let mut notices = Notices::default();
        for row in 3..1003 {
            notices.repeat("is odd", || Location::file("a.csv").row(row, row + 2));
        }
        notices.say("hello");
        assert_eq!(notices.into_lines(), ["hello", "a.csv: row 3 (line 5): is odd (and 999 more)"]);
    }
}
