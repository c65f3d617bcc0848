//! Every flag, with its help. Flags of `run` are environment variables too (`NIGHTSHIFT_…`).

mod bucket;
mod deadline;
mod expand;
mod folder;
mod gpu;
mod job;
mod machine;
mod model;
mod prepare;
mod reading;
mod run;
mod scorer;
mod trace;
mod watching;

use clap::{Args, Parser, Subcommand};

pub use expand::ExpandArgs;
pub use folder::{RepairArgs, ReportArgs, StatusArgs, VerifyArgs};
pub use job::{CheckArgs, JobArgs};
pub use machine::{CompletionsArgs, DoctorArgs, ManArgs};
pub use model::{InspectArgs, ScheduleArgs};
pub use prepare::PrepareArgs;
pub use run::RunArgs;
pub use trace::TraceArgs;

/// Turns manifests of prompts into folders of images, overnight, with exported ONNX graphs of latent diffusion models.
#[derive(Debug, Parser)]
#[command(name = "nightshift", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nightshift check jobs/demo.csv --model onnx/tiny-shapes
  nightshift run jobs/demo.csv --model onnx/tiny-shapes --out out/demo
  nightshift status out/demo

Exit codes:
  0 every row done                     11 output folder locked by a live run
  1 unexpected error                   12 output folder belongs to another run
  2 usage or manifest structure        13 storage: full, read-only or failing
  3 finished, some rows failed;        14 GPU lost
    verify and repair: findings        75 stopped early, run again to resume
 10 model or device cannot be loaded  130 second Ctrl-C";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the images of one or more manifests; the same command again makes only what is missing
    Run(Box<RunArgs>),
    /// Validate manifests and model, print the plan; runs no network and writes nothing
    Check(Box<CheckArgs>),
    /// Turn a template (`{a|b}`, wildcards, ranges) into a manifest of explicit rows
    Expand(Box<ExpandArgs>),
    /// Describe a model folder: graphs, inputs, dtypes, config, and what follows from them
    Inspect(InspectArgs),
    /// Print the timesteps and sigmas that a scheduler uses
    Schedule(ScheduleArgs),
    /// Show how one image comes to be: latents, guessed pictures and noise levels as a strip, an animation and a page
    Trace(Box<TraceArgs>),
    /// Tell how far the run in an output folder is, live or finished
    Status(StatusArgs),
    /// Compare an output folder with its journal: every file that is missing, damaged, out of place or not ours
    Verify(VerifyArgs),
    /// Make the journal of an output folder agree with its files again, without making a picture
    Repair(RepairArgs),
    /// Load the networks and call them once with a manifest's shapes: TensorRT builds its engines, before the night
    Prepare(Box<PrepareArgs>),
    /// Write one HTML page about an output folder: thumbnails, what failed, filters, throughput over the night
    Report(ReportArgs),
    /// Look at this machine: ONNX Runtime library, devices, and what is missing
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the man page, or write those of all commands to a folder
    Man(ManArgs),
}

/// How the result is printed.
#[derive(Debug, Args)]
pub struct SummaryArgs {
    /// Print one JSON object on standard output instead of text
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
