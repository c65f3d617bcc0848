//! Flags of what looks at this machine, or is for it.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// ONNX Runtime's shared library  [default: ORT_DYLIB_PATH, beside the executable, .ort/]
    #[arg(long, value_name = "FILE", env = "NIGHTSHIFT_ORT_LIB")]
    pub ort_lib: Option<PathBuf>,
    /// How the report is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for `nightshift.1`, `nightshift-run.1` and so on, such as ~/.local/share/man/man1; made if it is not there
    pub dir: Option<PathBuf>,
}
