//! Flags of `expand`.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;
use super::reading::ReadingArgs;
use crate::run::ExpandOptions;
use crate::template::Mode;

/// Flags of `expand`.
#[derive(Debug, Args)]
#[command(after_help = EXPAND_HELP)]
pub struct ExpandArgs {
    /// Template: a CSV or TSV file, or YAML with a mapping or a list of mappings
    pub template: PathBuf,
    /// Manifest to write, a CSV file
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Folder with NAME.txt for each wildcard `__NAME__`  [default: `wildcards` beside the template]
    #[arg(long, value_name = "DIR")]
    pub wildcards: Option<PathBuf>,
    /// Draw N rows from each row of the template instead of all combinations
    #[arg(long, value_name = "N")]
    pub sample: Option<u64>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0, requires = "sample")]
    pub seed: u64,
    /// Most rows that the manifest may have
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub max_rows: u64,
    /// How the template is read.
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

const EXPAND_HELP: &str = "\
In every column but `id`:
  {red|blue}         each of these                 {3::red|blue}     red three times as often, in draws
  {2$$a|b|c}         two of them: a,b a,c b,a …    {1-2$$ and $$a|b} one or two, with ` and ` between them
  __animal__         each line of animal.txt       {2$$__animal__}   two of its lines
  ${column}          what that column says         \\{ \\| \\_        the characters themselves
In columns of numbers: 1-10, 4..8:0.5 (with a step), 20|30, 1,2,5. In YAML a list is one after the other.

All combinations come in order, the last column changing fastest. Ids are the template's own, with a hash of the row \
where it makes several: a row keeps its id, and with it its picture, when the template grows.";

impl ExpandArgs {
    /// Returns the options as `expand` takes them.
    pub fn into_options(self) -> ExpandOptions {
        ExpandOptions {
            template: self.template,
            out: self.out,
            wildcards: self.wildcards,
            mode: self.sample.map_or(Mode::All, |rows| Mode::Sample(rows, self.seed)),
            max_rows: self.max_rows,
            reading: self.reading.into_options(),
        }
    }
}
