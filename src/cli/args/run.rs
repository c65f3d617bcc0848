//! Flags of `run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::SummaryArgs;
use super::bucket::BucketArgs;
use super::deadline::deadline;
use super::gpu::GpuArgs;
use super::job::JobArgs;
use super::scorer::ScorerArgs;
use super::watching::WatchingArgs;
use crate::error::Error;
use crate::onnx::{Devices, Kernels};
use crate::output::layout::Format;
use crate::output::{ImageFormat, ImageKind};
use crate::run::logging::LogFormat;
use crate::run::metrics::MetricsOptions;
use crate::run::{Lanes, MaxFailed, RunOptions, Share, VaeTiling};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Manifests, model and defaults.
    #[command(flatten)]
    pub job: JobArgs,
    /// Output folder, made if it is not there; or a place in a bucket: s3://bucket/prefix, gs://…, az://container/prefix
    #[arg(long, value_name = "DIR|URL", env = "NIGHTSHIFT_OUT")]
    pub out: PathBuf,
    /// What only matters for buckets.
    #[command(flatten)]
    pub bucket: BucketArgs,
    /// Devices, a worker each, with commas between them: cpu, cuda (all GPUs), cuda:N, tensorrt (all) or tensorrt:N
    ///
    /// All make the images of one plan together, and what a device that dies had under way is made by the others. None falls
    /// back to another. CPU workers share the threads; a small model gets several by itself, with `--lanes auto`.
    #[arg(long, default_value = "cpu", value_name = "DEVICES", env = "NIGHTSHIFT_DEVICE")]
    pub device: Devices,
    /// What only matters on GPUs.
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// Entries of the UNet's batch axis: a number, or `auto`
    #[arg(long, default_value = "auto", value_name = "N", env = "NIGHTSHIFT_LANES")]
    pub lanes: Lanes,
    /// Threads for the networks on CPU, all workers together  [default: the processor's cores]
    #[arg(long, value_name = "N", env = "NIGHTSHIFT_THREADS")]
    pub threads: Option<usize>,
    /// Exit with 0 although rows failed, if at most N rows (or N %) did
    #[arg(long, value_name = "N|N%", env = "NIGHTSHIFT_MAX_FAILED")]
    pub max_failed: Option<MaxFailed>,
    /// Stop after this time (`7h30m`) with exit code 75; the same command resumes
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, env = "NIGHTSHIFT_MAX_RUNTIME")]
    pub max_runtime: Option<Duration>,
    /// Stop at this time of day (`07:00`, local time, the next one) or this instant (`2026-11-27T07:00:00`) with exit code 75
    #[arg(long, value_name = "TIME", value_parser = deadline, env = "NIGHTSHIFT_DEADLINE")]
    pub deadline: Option<Duration>,
    /// After SIGTERM or Ctrl-C, finish the images that are under way if it takes no longer than this
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = humantime::parse_duration, env = "NIGHTSHIFT_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,
    /// Decode large pictures in overlapping tiles: takes less memory, changes pixels a little
    #[arg(long, default_value = "auto", value_enum, env = "NIGHTSHIFT_VAE_TILING")]
    pub vae_tiling: VaeTiling,
    /// Whose kernels compute on a processor: our own where they are faster, or ONNX Runtime's alone; pictures differ by rounding
    #[arg(long, default_value = "own", value_enum, env = "NIGHTSHIFT_KERNELS")]
    pub kernels: Kernels,
    /// The quality gate.
    #[command(flatten)]
    pub quality: ScorerArgs,
    /// How images are kept: folders of pictures with Parquet metadata, tars, or Parquet files with the pictures inside
    #[arg(long, default_value = "imagefolder", value_enum, env = "NIGHTSHIFT_FORMAT")]
    pub format: Format,
    /// How pictures are encoded; each carries its parameters
    #[arg(long, default_value = "png", value_enum, env = "NIGHTSHIFT_IMAGE_FORMAT")]
    pub image_format: ImageKind,
    /// Quality of JPEG and WebP pictures, 1 to 100; WebP is lossless at 100  [default: jpeg 95, webp 90]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100), env = "NIGHTSHIFT_IMAGE_QUALITY")]
    pub image_quality: Option<u8>,
    /// Images of a folder, tar or Parquet file
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), env = "NIGHTSHIFT_SHARD_SIZE")]
    pub shard_size: u32,
    /// Work as number K of N workers on the same output folder, K from 0: on shards whose number mod N is K, then on those that
    /// workers who were here left
    #[arg(long, value_name = "K/N", default_value = "0/1", env = "NIGHTSHIFT_SHARD")]
    pub shard: Share,
    /// Also try images again that were found to kill the process
    ///
    /// Rows that failed for other reasons are tried again by every run.
    #[arg(long, env = "NIGHTSHIFT_RETRY_FAILED")]
    pub retry_failed: bool,
    /// ONNX Runtime's shared library  [default: ORT_DYLIB_PATH, beside the executable, .ort/]
    #[arg(long, value_name = "FILE", env = "NIGHTSHIFT_ORT_LIB")]
    pub ort_lib: Option<PathBuf>,
    /// Also write one PNG with captioned thumbnails of the first 100 images
    #[arg(long, value_name = "FILE")]
    pub contact_sheet: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, default_value = "text", value_enum, env = "NIGHTSHIFT_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Who may follow the run.
    #[command(flatten)]
    pub watching: WatchingArgs,
    /// Validate and print the plan only, like `check`
    #[arg(long)]
    pub dry_run: bool,
    /// How the summary is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

impl RunArgs {
    /// Returns the options as `run` takes them.
    ///
    /// # Errors
    /// Kind `Usage`: the output's address is wrong, or a flag has no effect with it.
    pub fn into_options(self) -> Result<RunOptions, Error> {
        let (out, bucket) = self.bucket.into_options(self.out)?;
        Ok(RunOptions {
            job: self.job.into_options(),
            out,
            bucket,
            devices: self.device,
            gpu: self.gpu.into_options(),
            lanes: self.lanes,
            threads: self.threads,
            max_failed: self.max_failed,
            max_runtime: [self.max_runtime, self.deadline].into_iter().flatten().min(),
            drain_timeout: self.drain_timeout,
            ort_lib: self.ort_lib,
            vae_tiling: self.vae_tiling,
            kernels: self.kernels,
            scorer: self.quality.into_options(),
            contact_sheet: self.contact_sheet,
            format: self.format,
            image_format: ImageFormat::new(self.image_format, self.image_quality),
            shard_size: self.shard_size,
            shard: self.shard,
            retry_failed: self.retry_failed,
            metrics: MetricsOptions { address: self.watching.metrics_addr, file: self.watching.metrics_file },
        })
    }
}
