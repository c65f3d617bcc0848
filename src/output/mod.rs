//! Image bytes and metadata on disk. Writes files.
//!
//! What lands under a final name is whole: [`durable`] writes dot temps, syncs them, renames them and syncs the folder,
//! a batch at a time. [`run_folder`] opens `OUT` (lock, fingerprint); [`imagefolder`], [`metadata`] and [`failed`] say
//! which files hold what, [`openai`] how requests of a batch are answered; [`png`] and [`contact_sheet`] turn pictures into bytes. Every effect on the disk goes through
//! [`disk::Disk`], so that a test can let any of them fail. This module decides nothing about what to make.

pub mod contact_sheet;
pub mod disk;
pub mod durable;
pub mod failed;
pub mod fingerprint;
pub mod imagefolder;
pub mod metadata;
pub mod openai;
pub mod parameters;
pub mod png;
pub mod run_folder;
pub mod status;

pub use durable::{Durable, WholeFile};
pub use fingerprint::{ManifestPrint, RunFingerprint};
pub use parameters::{Parameters, Provenance};
pub use run_folder::{RunFolder, STATE_FOLDER};
