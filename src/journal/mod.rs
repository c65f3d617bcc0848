//! What is done, crash-safe: an append-only file of checksummed records for each worker. Writes files.
//!
//! One record a line, `crc32 SP json`, in `OUT/.nightshift/journal/<worker>.log`. A row is done only when its record is in
//! the journal, and the record is written after the image. What a sync has made durable may never look torn: after each
//! sync a mark says up to where. So a bad line before a mark is damage and is reported, while a bad line after the last
//! mark is what a crash leaves of an unfinished write, and is cut off. (RocksDB's rule, "torn tails only", made exact.)
//!
//! Who works on what is said by [`Lease`]s: files that only one process can create, and that live as long as their heart beats.
//!
//! This module does not know what a picture is, nor which rows the manifest has.

mod digest;
mod lease;
mod log;
mod record;
mod recover;
mod state;

pub use digest::{Blake3, Digest, RowHash};
pub use lease::{Lease, LeaseState, Leases, Owner};
pub use log::{Follower, Journal, Place, exists, read, read_each};
pub use record::{Done, Failed, Record, Sealed, SpoolPlace, line};
pub use recover::{Recovered, recover};
pub use state::{DoneImage, State, Verdict};
