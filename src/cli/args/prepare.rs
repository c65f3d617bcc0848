//! Flags of `prepare`.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;
use super::gpu::GpuArgs;
use super::job::JobArgs;
use crate::onnx::Devices;
use crate::run::{EngineOptions, Lanes};

/// Flags of `prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Manifests, model and defaults, as `run` will get them.
    #[command(flatten)]
    pub job: JobArgs,
    /// Devices, as `run` will get them: tensorrt or tensorrt:N builds engines, cuda and cpu only show that all loads
    #[arg(long, default_value = "cpu", value_name = "DEVICES", env = "NIGHTSHIFT_DEVICE")]
    pub device: Devices,
    /// Lanes, as `run` will get them
    #[arg(long, default_value = "auto", value_name = "N", env = "NIGHTSHIFT_LANES")]
    pub lanes: Lanes,
    /// What only matters on GPUs.
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// ONNX Runtime's shared library  [default: ORT_DYLIB_PATH, beside the executable, .ort/]
    #[arg(long, value_name = "FILE", env = "NIGHTSHIFT_ORT_LIB")]
    pub ort_lib: Option<PathBuf>,
    /// How the report is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

impl PrepareArgs {
    /// Returns the options as `run` takes them.
    pub fn into_options(self) -> EngineOptions {
        let (devices, gpu) = (self.device, self.gpu.into_options());
        EngineOptions { job: self.job.into_options(), devices, gpu, lanes: self.lanes, ort_lib: self.ort_lib }
    }
}
