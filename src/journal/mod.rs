//! What is done, crash-safe: an append-only file of checksummed records for each worker. Writes files.
//!
//! One record a line, `crc32 SP json`, in `OUT/.nightshift/journal/<worker>.log`. A row is done only when its record is in
//! the journal, and the record is written after the image. What a sync has made durable may never look torn: after each
//! sync a mark says up to where. So a bad line before a mark is damage and is reported, while a bad line after the last
//! mark is what a crash leaves of an unfinished write, and is cut off. (RocksDB's rule, "torn tails only", made exact.)
//!
//! This module does not know what a picture is, nor which rows the manifest has.

mod digest;
mod log;
mod record;
mod state;

pub use digest::{Blake3, Digest, RowHash};
pub use log::{Journal, read};
pub use record::{Done, Failed, Record};
pub use state::{DoneImage, State};
