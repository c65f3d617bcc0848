//! What `run`, `check` and `prepare` share: manifests, model, defaults for empty cells.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;
use super::reading::ReadingArgs;
use crate::engine::PromptStyle;
use crate::noise::NoiseKind;
use crate::prompt::{LongPrompt, PromptSyntax};
use crate::run::{DefaultFlags, JobOptions};

/// What `run` and `check` share: manifests, model, defaults for empty cells.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Manifests: CSV, TSV, JSON lines, Parquet or one prompt a line, also .gz or .zst; `-` is standard input
    ///
    /// Each has at least a column `prompt`. A folder stands for the manifests in it, in the order of their names. Requests of
    /// OpenAI's Batch API (/v1/images/generations) are read as they are.
    #[arg(required = true, value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// Model folder with model_index.json, tokenizer, text_encoder, unet, vae_decoder and scheduler
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_MODEL")]
    pub model: PathBuf,
    /// Values for cells that a manifest leaves empty.
    #[command(flatten)]
    pub defaults: DefaultArgs,
    /// How the manifests are read.
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Noise generator: `torch-cpu`, `torch-cuda` or `numpy`
    ///
    /// The same seed gives the same picture as in the tool it is named after: diffusers with a CPU generator, diffusers with
    /// a CUDA generator (and A1111), or diffusers' ONNX pipelines.
    #[arg(long, default_value = "torch-cpu", env = "NIGHTSHIFT_NOISE", value_name = "KIND")]
    pub noise: NoiseKind,
    /// How prompts are written: `plain`, or `a1111` with `(word:1.3)`, `[word]` and `BREAK`
    #[arg(long, default_value = "plain", env = "NIGHTSHIFT_PROMPT_SYNTAX", value_name = "SYNTAX")]
    pub prompt_syntax: PromptSyntax,
    /// What becomes of prompts longer than the text encoder takes: `truncate`, `chunk` or `fail`
    ///
    /// `chunk` encodes them 75 tokens at a time, as A1111 does; `fail` makes them errors of their rows.
    #[arg(long, default_value = "truncate", env = "NIGHTSHIFT_LONG_PROMPT", value_name = "WHAT")]
    pub long_prompt: LongPrompt,
    /// Make at most N of the missing images, the first in manifest order
    #[arg(long, value_name = "N", env = "NIGHTSHIFT_LIMIT")]
    pub limit: Option<usize>,
    /// Stop with exit code 2 before anything is made if any row is bad
    #[arg(long, env = "NIGHTSHIFT_STRICT")]
    pub strict: bool,
}

/// Flags with the names of the columns they stand in for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Defaults for empty cells (a manifest cell beats a flag beats these defaults)")]
pub struct DefaultArgs {
    /// Scheduler: `euler`, `DPM++ 2M Karras`, `DDIMScheduler`, …  [default: the model's own]
    #[arg(long, value_name = "NAME", env = "NIGHTSHIFT_SCHEDULER")]
    pub scheduler: Option<String>,
    /// Denoising steps  [default: as in diffusers for the model, mostly 50]
    #[arg(long, alias = "steps", visible_alias = "steps", value_name = "N", env = "NIGHTSHIFT_NUM_INFERENCE_STEPS")]
    pub num_inference_steps: Option<u32>,
    /// Weight of classifier-free guidance; 1 or less turns it off  [default: as in diffusers for the model, such as 7.5]
    #[arg(long, value_name = "X", env = "NIGHTSHIFT_GUIDANCE_SCALE")]
    pub guidance_scale: Option<f64>,
    /// Guide only from this share of an image's evaluations on, 0 to 1; changes pictures  [default: 0]
    #[arg(long, value_name = "X", env = "NIGHTSHIFT_GUIDANCE_START")]
    pub guidance_start: Option<f64>,
    /// Guide only up to this share of them: the others take half the time; changes pictures  [default: 1]
    #[arg(long, value_name = "X", env = "NIGHTSHIFT_GUIDANCE_STOP")]
    pub guidance_stop: Option<f64>,
    /// How much of a row's image is made anew, above 0 to 1  [default: as in diffusers for the model, such as 0.8]
    #[arg(long, value_name = "X", env = "NIGHTSHIFT_STRENGTH")]
    pub strength: Option<f64>,
    /// Last layers of the text encoder to skip  [default: 0]
    #[arg(long, value_name = "N", env = "NIGHTSHIFT_CLIP_SKIP")]
    pub clip_skip: Option<u32>,
    /// Evaluate the UNet's inner blocks every N evaluations only, and keep what they gave in between; changes pictures  [default: 1]
    #[arg(long, value_name = "N", env = "NIGHTSHIFT_CACHE_INTERVAL")]
    pub cache_interval: Option<u32>,
    /// Width in pixels  [default: the row's image's, else the model's]
    #[arg(long, value_name = "PIXELS", env = "NIGHTSHIFT_WIDTH")]
    pub width: Option<u32>,
    /// Height in pixels  [default: the row's image's, else the model's]
    #[arg(long, value_name = "PIXELS", env = "NIGHTSHIFT_HEIGHT")]
    pub height: Option<u32>,
    /// Run seed: a row without a seed derives its own from this and its key
    #[arg(long, value_name = "N", default_value_t = 0, env = "NIGHTSHIFT_SEED")]
    pub seed: u64,
    /// Text to steer away from  [default: empty]
    #[arg(long, value_name = "TEXT", env = "NIGHTSHIFT_NEGATIVE_PROMPT")]
    pub negative_prompt: Option<String>,
    /// Images per row; their keys end in _0, _1, …  [default: 1]
    #[arg(long, value_name = "N", env = "NIGHTSHIFT_NUM_IMAGES_PER_PROMPT")]
    pub num_images_per_prompt: Option<u32>,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifests, model and defaults.
    #[command(flatten)]
    pub job: JobArgs,
    /// How the report is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

impl JobArgs {
    /// Returns the options as `run` and `check` take them.
    pub fn into_options(self) -> JobOptions {
        JobOptions {
            manifests: self.manifests,
            model: self.model,
            defaults: DefaultFlags {
                scheduler: self.defaults.scheduler,
                num_inference_steps: self.defaults.num_inference_steps,
                guidance_scale: self.defaults.guidance_scale,
                guidance_start: self.defaults.guidance_start,
                guidance_stop: self.defaults.guidance_stop,
                strength: self.defaults.strength,
                clip_skip: self.defaults.clip_skip,
                cache_interval: self.defaults.cache_interval,
                width: self.defaults.width,
                height: self.defaults.height,
                seed: self.defaults.seed,
                negative_prompt: self.defaults.negative_prompt,
                num_images_per_prompt: self.defaults.num_images_per_prompt,
            },
            reading: self.reading.into_options(),
            prompts: PromptStyle { syntax: self.prompt_syntax, long: self.long_prompt },
            noise: self.noise,
            limit: self.limit,
            strict: self.strict,
        }
    }
}
