//! Flags of what looks at a model or its schedules.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;
use crate::run::ScheduleOptions;

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model folder
    pub dir: PathBuf,
    /// How the report is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

/// Flags of `schedule`.
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// Scheduler  [default: the one of --model or --config]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Denoising steps  [default: 50, or those of --timesteps or --sigmas]
    #[arg(long, alias = "num-inference-steps", value_name = "N")]
    pub steps: Option<u32>,
    /// Timesteps to use: numbers with commas between them, or a table, `AYS-SD15` or `AYS-SDXL`
    #[arg(long, value_name = "LIST|NAME", conflicts_with = "sigmas")]
    pub timesteps: Option<String>,
    /// Noise levels to use: numbers with commas between them, or a table, `AYS-SD15`, `AYS-SDXL` or `AYS-SVD`
    #[arg(long, value_name = "LIST|NAME")]
    pub sigmas: Option<String>,
    /// How much of a given picture is made anew, 0 to 1: only the last steps are made
    #[arg(long, value_name = "X")]
    pub strength: Option<f64>,
    /// Tokens of the picture, for models whose noise levels depend on its size
    #[arg(long, value_name = "N")]
    pub image_seq_len: Option<u32>,
    /// Model folder whose scheduler config to use
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub model: Option<PathBuf>,
    /// A scheduler_config.json to use  [default: the class's own defaults]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How the schedule is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

impl ScheduleArgs {
    /// Returns the options as `schedule` takes them.
    pub fn into_options(self) -> ScheduleOptions {
        ScheduleOptions {
            scheduler: self.scheduler,
            steps: self.steps,
            timesteps: self.timesteps,
            sigmas: self.sigmas,
            strength: self.strength,
            image_seq_len: self.image_seq_len,
            model: self.model,
            config: self.config,
        }
    }
}
