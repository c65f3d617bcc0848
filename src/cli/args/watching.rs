//! Flags for programs that follow a run.

use std::path::PathBuf;

use clap::Args;

use crate::run::metrics::MetricsAddress;

/// Flags for programs that follow a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "For programs that follow the run (docs/integrations.md)")]
pub struct WatchingArgs {
    /// Print what happens on standard output, one JSON object a line: `event` is started, image, progress, missed, and at last
    /// finished (the summary, as --json prints it) or error
    #[arg(long, conflicts_with = "dry_run", env = "NIGHTSHIFT_EVENTS")]
    pub events: bool,
    /// Serve metrics for Prometheus at /metrics: a port of this machine alone (127.0.0.1), or ADDRESS:PORT
    #[arg(long, value_name = "PORT|ADDRESS:PORT", env = "NIGHTSHIFT_METRICS_ADDR")]
    pub metrics_addr: Option<MetricsAddress>,
    /// Keep the same metrics in this file, replaced whole every five seconds: node_exporter's textfile collector reads names that
    /// end in .prom
    #[arg(long, value_name = "FILE", env = "NIGHTSHIFT_METRICS_FILE")]
    pub metrics_file: Option<PathBuf>,
}
