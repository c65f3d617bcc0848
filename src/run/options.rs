//! What the caller decides about a run, as plain values.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::metrics::MetricsOptions;
use super::sharding::Share;
use crate::engine::PromptStyle;
use crate::manifest;
use crate::noise::NoiseKind;
use crate::onnx::{Devices, GpuOptions, Kernels};
use crate::output::ImageFormat;
use crate::output::layout::{Format, Layout};
use crate::remote::BucketOptions;
use crate::score::Demand;

/// Values for cells that a manifest leaves empty, where the caller gives any.
#[derive(Debug, Clone, Default)]
pub struct DefaultFlags {
    /// Any spelling of a scheduler's name; `None`: the model's own.
    pub scheduler: Option<String>,
    /// Denoising steps; `None`: as diffusers' pipeline for the model.
    pub num_inference_steps: Option<u32>,
    /// Guidance weight; `None`: as diffusers' pipeline for the model.
    pub guidance_scale: Option<f64>,
    /// Share of the evaluations before which guidance is off; `None`: 0.
    pub guidance_start: Option<f64>,
    /// Share of the evaluations from which on it is off; `None`: 1.
    pub guidance_stop: Option<f64>,
    /// How much of a given image is made anew; `None`: as diffusers' pipeline for the model.
    pub strength: Option<f64>,
    /// Last layers of the text encoder to skip; `None`: none.
    pub clip_skip: Option<u32>,
    /// The UNet's inner blocks are evaluated every so many evaluations only; `None`: always.
    pub cache_interval: Option<u32>,
    /// Pixels; `None`: the model's.
    pub width: Option<u32>,
    /// Pixels; `None`: the model's.
    pub height: Option<u32>,
    /// Run seed.
    pub seed: u64,
    /// Text to steer away from; `None`: empty.
    pub negative_prompt: Option<String>,
    /// Images per row; `None`: 1.
    pub num_images_per_prompt: Option<u32>,
}

/// What `run` and `check` share.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// Manifest files; `-` is standard input.
    pub manifests: Vec<PathBuf>,
    /// Model folder.
    pub model: PathBuf,
    /// Values for empty cells.
    pub defaults: DefaultFlags,
    /// How the manifests are written.
    pub reading: manifest::Options,
    /// How prompts are read.
    pub prompts: PromptStyle,
    /// Noise generator.
    pub noise: NoiseKind,
    /// Make at most so many of the missing images.
    pub limit: Option<usize>,
    /// Any bad row stops the run before it starts.
    pub strict: bool,
}

/// What `run` takes.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Manifests, model and defaults.
    pub job: JobOptions,
    /// Output folder.
    pub out: PathBuf,
    /// Where the networks run: a worker each.
    pub devices: Devices,
    /// How networks are loaded on GPUs.
    pub gpu: GpuOptions,
    /// Entries of the UNet's batch axis.
    pub lanes: Lanes,
    /// Threads for the networks; `None`: the processor's cores.
    pub threads: Option<usize>,
    /// So many failed rows still count as success.
    pub max_failed: Option<MaxFailed>,
    /// Stop after this time.
    pub max_runtime: Option<Duration>,
    /// Time to finish images under way after a signal.
    pub drain_timeout: Duration,
    /// ONNX Runtime's shared library.
    pub ort_lib: Option<PathBuf>,
    /// When pictures are decoded in tiles.
    pub vae_tiling: VaeTiling,
    /// Whose kernels compute on a processor.
    pub kernels: Kernels,
    /// What scores pictures, and when one is good enough.
    pub scorer: Option<ScorerOptions>,
    /// Where to write a contact sheet.
    pub contact_sheet: Option<PathBuf>,
    /// How images are kept.
    pub format: Format,
    /// How pictures are encoded.
    pub image_format: ImageFormat,
    /// Images of a shard.
    pub shard_size: u32,
    /// Which of several workers this is.
    pub shard: Share,
    /// Also try images again that killed the process before.
    pub retry_failed: bool,
    /// Where metrics go.
    pub metrics: MetricsOptions,
    /// The bucket that everything goes to; `out` is its spool then.
    pub bucket: Option<BucketOptions>,
}

impl RunOptions {
    /// Returns the output as the user has named it.
    pub fn shown_out(&self) -> PathBuf {
        self.bucket.as_ref().map_or_else(|| self.out.clone(), |bucket| bucket.url.to_string().into())
    }

    /// Returns the layout of the output folder.
    pub fn layout(&self) -> Layout {
        Layout { format: self.format, extension: self.image_format.extension(), shard_size: self.shard_size }
    }
}

/// How pictures are scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScorerOptions {
    /// Folder of a CLIP model.
    pub dir: PathBuf,
    /// When a picture is good enough.
    pub demand: Demand,
}

/// What `schedule` takes.
#[derive(Debug, Clone)]
pub struct ScheduleOptions {
    /// Any spelling of a scheduler's name; `None`: the config's own.
    pub scheduler: Option<String>,
    /// Denoising steps; `None`: 50, or as many as `timesteps` or `sigmas` have.
    pub steps: Option<u32>,
    /// Timesteps of one's own, or the name of a table of them.
    pub timesteps: Option<String>,
    /// Noise levels of one's own, or the name of a table of them.
    pub sigmas: Option<String>,
    /// How much of a given picture is made anew, in [0, 1].
    pub strength: Option<f64>,
    /// Tokens of the picture, where the levels depend on its size.
    pub image_seq_len: Option<u32>,
    /// Model folder whose scheduler config to use.
    pub model: Option<PathBuf>,
    /// A `scheduler_config.json`.
    pub config: Option<PathBuf>,
}

/// When pictures are decoded in tiles, which takes less memory and changes pixels a little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VaeTiling {
    /// Those that the memory at hand would not suffice for.
    Auto,
    /// All that are larger than one tile.
    On,
    /// None.
    Off,
}

/// Number of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// Chosen from device and picture size.
    Auto,
    /// As given.
    Count(usize),
}

impl FromStr for Lanes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Lanes::Auto),
            Ok(count @ 1..=1024) => Ok(Lanes::Count(count)),
            _ => Err("expected `auto` or a number from 1 to 1024".to_string()),
        }
    }
}

/// How many failed rows still count as success.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxFailed {
    /// So many rows.
    Rows(u64),
    /// So many of a hundred rows.
    Percent(f64),
}

impl MaxFailed {
    /// Returns whether `failed` of `rows` rows are within the limit.
    pub fn allows(self, failed: u64, rows: u64) -> bool {
        match self {
            MaxFailed::Rows(limit) => failed <= limit,
            MaxFailed::Percent(limit) => failed as f64 <= rows as f64 * limit / 100.0,
        }
    }
}

impl FromStr for MaxFailed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a number of rows such as `10`, or a share such as `1%`".to_string();
        match text.strip_suffix('%') {
            Some(share) => match share.trim().parse() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(MaxFailed::Percent(share)),
                _ => Err(wrong()),
            },
            None => text.parse().map(MaxFailed::Rows).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lanes::Auto => f.write_str("auto"),
            Lanes::Count(count) => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_failed_counts_rows_or_percent() {
        let limit: MaxFailed = "1%".parse().expect("a share");
        assert!(limit.allows(5, 500) && !limit.allows(6, 500));
        let limit: MaxFailed = "2".parse().expect("a number");
        assert!(limit.allows(2, 2) && !limit.allows(3, 1000));
        assert!("101%".parse::<MaxFailed>().is_err() && "-1".parse::<MaxFailed>().is_err());
    }

    #[test]
    fn lanes_are_auto_or_positive() {
        assert_eq!("auto".parse(), Ok(Lanes::Auto));
        assert_eq!("16".parse(), Ok(Lanes::Count(16)));
        assert!("0".parse::<Lanes>().is_err());
    }
}
