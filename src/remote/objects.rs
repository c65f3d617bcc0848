//! What is known of objects in a bucket.

use std::time::SystemTime;

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name below the prefix.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// Which content of an object is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// As HTTP tells it.
    pub tag: Option<String>,
    /// As buckets with versions tell it.
    pub version: Option<String>,
}

/// A small object, and what is known of it.
#[derive(Debug)]
pub struct Small {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its version, to be replaced or not.
    pub version: Version,
    /// When it was written, by the bucket's clock.
    pub modified: SystemTime,
}
