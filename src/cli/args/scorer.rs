//! Flags of the quality gate.

use std::path::PathBuf;

use clap::Args;

use crate::run::ScorerOptions;
use crate::score::{ClipScore, Demand};

/// Flags of the quality gate.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quality gate")]
pub struct ScorerArgs {
    /// Score each picture against its prompt with this CLIP model: a folder with ONNX graphs, tokenizer and
    /// preprocessor_config.json; `clip_score` is in the metadata then
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_SCORER")]
    pub scorer: Option<PathBuf>,
    /// Make pictures of a lower score (0 to 100) again, with other seeds; the best is kept where none reaches it
    #[arg(long, value_name = "SCORE", requires = "scorer", env = "NIGHTSHIFT_MIN_CLIP_SCORE")]
    pub min_clip_score: Option<ClipScore>,
    /// How many more pictures are made of an image for that, at most
    #[arg(long, value_name = "N", requires = "min_clip_score", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1000), env = "NIGHTSHIFT_RETRIES")]
    pub retries: u32,
}

impl ScorerArgs {
    pub(super) fn into_options(self) -> Option<ScorerOptions> {
        let demand = Demand { min: self.min_clip_score, retries: self.retries };
        self.scorer.map(|dir| ScorerOptions { dir, demand })
    }
}
