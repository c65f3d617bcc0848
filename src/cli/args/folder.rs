//! Flags of what looks at an output folder.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;
use crate::run::ReportOptions;

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Output folder of a run, or its place in a bucket
    pub out: PathBuf,
    /// How the status is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HELP)]
pub struct VerifyArgs {
    /// Output folder of a run
    pub out: PathBuf,
    /// Read every byte and compare hashes, instead of names and sizes only
    #[arg(long)]
    pub deep: bool,
    /// How the findings are printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

// Paragraphs are one line each: clap breaks them at the terminal's width.
const VERIFY_HELP: &str = "\
One line a finding: `kind  path: what`. Kinds: missing, cut (another size), changed (other bytes; --deep), extra (a file \
that no record knows), swapped (two files hold each other's bytes; --deep), stale (a shard's file is older than its \
images), unreadable. Changes nothing, needs neither model nor manifest, and may look at a folder where a run is at work.

Exit codes: 0 no findings, 2 no output folder, 3 findings, 13 the journal itself is damaged.";

/// Flags of `repair`.
#[derive(Debug, Args)]
#[command(after_help = REPAIR_HELP)]
pub struct RepairArgs {
    /// Output folder of a run
    pub out: PathBuf,
    /// Move files that are none of ours from the folders of pictures to .nightshift/quarantine
    #[arg(long)]
    pub quarantine_extra: bool,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

const REPAIR_HELP: &str = "\
Reads everything, as `verify --deep` does. Files under each other's names are put back; whole pictures that the journal \
does not know are taken in by what they say of themselves; images that are nowhere are noted as lost, and the next `run` \
makes them, with the same bytes; damaged pictures go to .nightshift/quarantine. A damaged file of the journal is kept \
beside the new one, as NAME.log.damaged-N. run.json cannot be made again.

Exit codes: 0 journal and files agree, 2 no output folder, 3 files are left that are none of ours, 11 a run is at work \
there, 12 run.json is missing, 13 run.json is damaged, or storage fails.";

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Output folder of a run, finished or at work
    pub out: PathBuf,
    /// Page to write  [default: OUT.html, beside the folder]
    #[arg(short = 'o', long = "page", value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Carry small copies of the first N pictures in the page itself; others are loaded from OUT when they are looked at
    ///
    /// A copy of 160 pixels takes about 6 KB: 1,000 are a page of some 6 MB, and from about 20,000 on browsers become slow. Suspect
    /// pictures come first. Pictures inside of tars and Parquet files are seen only if the page carries them; parameters, filters and
    /// charts are those of all images, however many.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub embed: usize,
    /// Also write contact sheets of all pictures into this folder: PNGs of up to 100 captioned thumbnails each, shard by shard
    #[arg(long, value_name = "DIR")]
    pub contact_sheets: Option<PathBuf>,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

impl ReportArgs {
    /// Returns the options as `report` takes them.
    pub fn into_options(self) -> ReportOptions {
        ReportOptions { out: self.out, page: self.page, embed: self.embed, contact_sheets: self.contact_sheets }
    }
}
