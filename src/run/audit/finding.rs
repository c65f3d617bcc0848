//! What is not as the journal says.

use std::fmt;

use serde::Serialize;

use crate::journal::Blake3;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file is not there.
    Missing,
    /// A file has another size than it should have.
    Cut,
    /// A file has other bytes than were written.
    Changed,
    /// A file among ours that no record knows.
    Extra,
    /// Two files hold each other's bytes.
    Swapped,
    /// A shard's file is older than its images.
    Stale,
    /// What says how to read all others cannot be read.
    Unreadable,
}

impl Kind {
    /// Returns the kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Cut => "cut",
            Kind::Changed => "changed",
            Kind::Extra => "extra",
            Kind::Swapped => "swapped",
            Kind::Stale => "stale",
            Kind::Unreadable => "unreadable",
        }
    }
}

/// One thing that is not as the journal says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// The file, relative to the output folder; of a picture in a shard's file or in the spool, its path in the layout.
    pub path: String,
    /// The same in words.
    pub what: String,
    /// The other of two files that were swapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// Keys of the images that are nowhere else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Hash of what the file holds, where that was looked at.
    #[serde(skip)]
    pub found: Option<Blake3>,
}

impl Finding {
    /// Returns a finding that costs no image.
    pub fn new(kind: Kind, path: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding { kind, path: path.into(), what: what.into(), other: None, images: Vec::new(), found: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} {}: {}", self.kind.name(), self.path, self.what)?;
        match &self.images[..] {
            // One picture that is not there is what the line says already.
            [] => Ok(()),
            [key] if self.path.contains(key.as_str()) => Ok(()),
            [key] => write!(f, "; the image {key} is nowhere else"),
            [first, .., last] => write!(f, "; {} images are nowhere else, {first} to {last}", self.images.len()),
        }
    }
}
