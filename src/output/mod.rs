//! Image bytes and metadata on disk. Writes files.
//!
//! What lands under a final name is whole: [`durable`] writes dot temps, syncs them, renames them and syncs the folder,
//! a batch at a time. [`run_folder`] opens `OUT` (lock, fingerprint); [`imagefolder`], [`metadata`] and [`failed`] say
//! which files hold what; [`png`] and [`contact_sheet`] turn pictures into bytes. Every effect on the disk goes through
//! [`disk::Disk`], so that a test can let any of them fail. This module decides nothing about what to make.

pub mod contact_sheet;
pub mod disk;
pub mod durable;
pub mod failed;
pub mod fingerprint;
pub mod imagefolder;
pub mod layout;
pub mod metadata;
pub mod packed;
pub mod parameters;
pub mod parquet_shard;
pub mod png;
pub mod run_folder;
pub mod spool;
pub mod status;
pub mod webdataset;

pub use durable::{Durable, WholeFile};
pub use fingerprint::{ManifestPrint, RunFingerprint};
pub use parameters::{Parameters, Provenance};
pub use run_folder::{RunFolder, STATE_FOLDER};
