//! Image bytes and metadata on disk. Writes files.
//!
//! What lands under a final name is whole: [`durable`] writes dot temps, syncs them, renames them and syncs the folder,
//! a batch at a time. [`run_folder`] opens `OUT` (lock, fingerprint); [`imagefolder`], [`metadata`] and [`failed`] say
//! which files hold what, [`openai`] how requests of a batch are answered; [`picture`] and [`contact_sheet`] turn pictures
//! into bytes. Every effect on the disk goes through [`disk::Disk`], so that a test can let any of them fail. This module decides nothing about what to make.

mod checksum;
pub mod contact_sheet;
pub mod disk;
pub mod durable;
mod exif;
pub mod failed;
pub mod fingerprint;
pub mod imagefolder;
mod jpeg;
pub mod layout;
pub mod lettering;
pub mod metadata;
pub mod openai;
pub mod packed;
pub mod parameters;
pub mod parquet_shard;
pub mod picture;
pub mod png;
pub mod run_folder;
pub mod spool;
pub mod status;
pub mod webdataset;
mod webp;

pub use durable::{Durable, WholeFile};
pub use fingerprint::{ManifestPrint, RunFingerprint};
pub use parameters::{Parameters, Provenance};
pub use picture::{ImageFormat, ImageKind};
pub use run_folder::{RunFolder, STATE_FOLDER};
