//! The records of the journal, and their lines.

use serde::{Deserialize, Serialize};

use super::digest::{Blake3, Digest, RowHash};
use crate::score::Scored;

/// An image is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Unique name of the image.
    pub key: String,
    /// Hash of everything of the row that changes its pixels.
    pub row_hash: RowHash,
    /// Path of the image's file relative to `OUT`.
    pub file_name: String,
    /// Size of that file.
    pub bytes: u64,
    /// Hash of that file.
    pub blake3: Blake3,
    /// Seed of the image's own noise.
    pub seed: u64,
    /// Whether the picture looks like none (of one colour) and should be looked at.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspect: bool,
    /// What the scorer says of it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<Scored>,
    /// Where its bytes wait for the shard that `file_name` leads into, in layouts whose files hold many images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolPlace>,
}

/// A place in a file of the spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolPlace {
    /// Name of the file in `OUT/.nightshift/spool`.
    pub file: String,
    /// First byte of the image in it.
    pub offset: u64,
}

/// A shard's file holds what the journal says of its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Number of the shard.
    pub shard: u32,
    /// Path of its file relative to `OUT`.
    pub file_name: String,
    /// Size of that file.
    pub bytes: u64,
    /// Hash of that file.
    pub blake3: Blake3,
    /// Hash of what went into it: which images, with which cells.
    pub contents: Blake3,
    /// How many images it holds.
    pub images: u64,
}

impl Sealed {
    /// Returns whether it is known of the file that it is not what it should be, and is to be written anew by the next run.
    pub fn is_outdated(&self) -> bool {
        self.contents == Sealed::OUTDATED
    }

    /// Stands for `contents` where nothing is known of them but that they are not right.
    pub const OUTDATED: Blake3 = Digest([0; 32]);
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An image could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Unique name of the image.
    pub key: String,
    /// Hash of everything of the row that changes its pixels.
    pub row_hash: RowHash,
    /// Stable name of the error.
    pub code: String,
    /// The error's message.
    pub message: String,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Work on these images begins. Those with no outcome after a crash were in flight then.
    Begin {
        /// Names of the images.
        keys: Vec<String>,
        /// Whether nothing else was under way, so that a crash convicts them.
        #[serde(default, skip_serializing_if = "is_false")]
        alone: bool,
    },
    /// An image is on disk.
    Done(Done),
    /// An image could not be made.
    Failed(Failed),
    /// An image that was done is not on disk any more, or not whole.
    Lost {
        /// Unique name of the image.
        key: String,
    },
    /// A shard's file is complete.
    Sealed(Sealed),
    /// The process is about to die of a signal that it raised itself, such as a segmentation fault, or has lost its last device.
    Crashed,
    /// The run stopped in good order: what it had begun and not finished is not to blame for anything.
    Stopped,
    /// A start of a worker, written by [`super::Journal::open`]; orders the records of several files.
    Session {
        /// 1 for the first start in this folder; larger than that of every start before it.
        number: u32,
    },
    /// Everything before this offset has been synced, written by [`super::Journal::sync`].
    Synced {
        /// Bytes from the start of the file.
        bytes: u64,
    },
}

/// What a line of the file holds.
#[derive(Debug)]
pub(super) enum Line {
    /// A record.
    Record(Record),
    /// A sound line that this version cannot read: a newer one wrote it.
    Unknown,
    /// A line that nobody has written.
    Bad,
}

/// Appends the line of `record` to `buffer`.
pub(super) fn encode(record: &Record, buffer: &mut Vec<u8>) {
    let json = serde_json::to_vec(record).expect("strings and whole numbers are valid JSON");
    buffer.extend_from_slice(checksum(&json).to_string().as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(&json);
    buffer.push(b'\n');
}

/// Returns the line of `record`.
pub fn line(record: &Record) -> Vec<u8> {
    let mut line = Vec::new();
    encode(record, &mut line);
    line
}

/// Returns what `line` holds; `line` has its line feed unless the file ends before it.
pub(super) fn decode(line: &[u8]) -> Line {
    let Some((sum, json)) = line.strip_suffix(b"\n").and_then(|line| line.split_at_checked(9)) else {
        return Line::Bad;
    };
    let (digits, space) = sum.split_at(8);
    if space != b" " || Digest::parse(digits) != Some(checksum(json)) {
        return Line::Bad;
    }
    serde_json::from_slice(json).map_or(Line::Unknown, Line::Record)
}

/// Returns what the mark at the end of a bad line vouches for, if there is one: a bit flipped in the line feed before a
/// mark makes one line of it and of the record before, and must not take the mark with it.
pub(super) fn mark_at_end(line: &[u8]) -> Option<u64> {
    let start = b"{\"synced\"";
    let json = line.windows(start.len()).rposition(|window| window == start)?;
    match decode(&line[json.checked_sub(9)?..]) {
        Line::Record(Record::Synced { bytes }) => Some(bytes),
        _ => None,
    }
}

fn checksum(json: &[u8]) -> Digest<4> {
    Digest(crc32fast::hash(json).to_be_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_checksum_and_json() {
        let mut line = Vec::new();
        encode(&Record::Begin { keys: vec!["a".into(), "é\n".into()], alone: false }, &mut line);
        assert_eq!(&line[9..], "{\"begin\":{\"keys\":[\"a\",\"é\\n\"]}}\n".as_bytes());
        assert!(matches!(decode(&line), Line::Record(Record::Begin { keys, .. }) if keys.len() == 2));
    }

    #[test]
    fn every_bit_of_a_line_counts() {
        let mut line = Vec::new();
        encode(&Record::Lost { key: "000000001".into() }, &mut line);
        for bit in 0..line.len() * 8 {
            let mut flipped = line.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&flipped), Line::Bad), "bit {bit}");
        }
    }

    #[test]
    fn sound_lines_of_a_newer_version_are_told_from_damage() {
        let json = br#"{"quarantined":{"key":"x"}}"#;
        let line = [checksum(json).to_string().as_bytes(), b" ", json, b"\n"].concat();
        assert!(matches!(decode(&line), Line::Unknown));
    }
}
