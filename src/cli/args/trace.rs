//! Flags of `trace`.

use std::path::PathBuf;

use clap::Args;

use super::SummaryArgs;
use crate::engine::PromptStyle;
use crate::manifest;
use crate::noise::NoiseKind;
use crate::onnx::{Device, Kernels};
use crate::prompt::{LongPrompt, PromptSyntax};
use crate::run::{DefaultFlags, JobOptions, TraceOptions};

/// Flags of `trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Model folder
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_MODEL")]
    pub model: PathBuf,
    /// Text of the picture
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Folder to write to: strip.png, trace.webp, trace.html, trace.json, picture.png, and the row as trace.csv
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Text to steer away from
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// Seed of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Scheduler  [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Denoising steps  [default: as in diffusers for the model, mostly 50]
    #[arg(long, visible_alias = "steps", value_name = "N")]
    pub num_inference_steps: Option<u32>,
    /// Weight of classifier-free guidance  [default: as in diffusers for the model, such as 7.5]
    #[arg(long, value_name = "X")]
    pub guidance_scale: Option<f64>,
    /// Guide only from this share of the evaluations on, 0 to 1  [default: 0]
    #[arg(long, value_name = "X")]
    pub guidance_start: Option<f64>,
    /// Guide only up to this share of them  [default: 1]
    #[arg(long, value_name = "X")]
    pub guidance_stop: Option<f64>,
    /// Width in pixels  [default: the image's, else the model's]
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<u32>,
    /// Height in pixels  [default: the image's, else the model's]
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<u32>,
    /// Picture to start from: first it is noised step by step (the forward process), then made anew from there
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// How much of the image is made anew, above 0 to 1; at 1 nothing of it is left in between  [default: 0.8]
    #[arg(long, value_name = "X", requires = "image")]
    pub strength: Option<f64>,
    /// Most frames beside each other in the strip
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=50))]
    pub columns: u8,
    /// Whose kernels compute on a processor, as for `run`
    #[arg(long, default_value = "own", value_enum, env = "NIGHTSHIFT_KERNELS")]
    pub kernels: Kernels,
    /// Noise generator, as for `run`
    #[arg(long, default_value = "torch-cpu", env = "NIGHTSHIFT_NOISE", value_name = "KIND")]
    pub noise: NoiseKind,
    /// Device: cpu, cuda, cuda:N, tensorrt or tensorrt:N
    #[arg(long, default_value = "cpu", value_name = "DEVICE", env = "NIGHTSHIFT_DEVICE")]
    pub device: Device,
    /// Threads for the networks  [default: the processor's cores]
    #[arg(long, value_name = "N", env = "NIGHTSHIFT_THREADS")]
    pub threads: Option<usize>,
    /// ONNX Runtime's shared library  [default: ORT_DYLIB_PATH, beside the executable, .ort/]
    #[arg(long, value_name = "FILE", env = "NIGHTSHIFT_ORT_LIB")]
    pub ort_lib: Option<PathBuf>,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

impl TraceArgs {
    /// Returns the options as `trace` takes them: the row, and what goes with it.
    pub fn into_options(self) -> TraceOptions {
        let image = self.image.map(|path| std::path::absolute(&path).unwrap_or(path).display().to_string());
        let cells = [
            ("id", Some("trace".to_string())),
            ("prompt", Some(self.prompt)),
            ("negative_prompt", self.negative_prompt),
            ("seed", Some(self.seed.to_string())),
            ("scheduler", self.scheduler),
            ("num_inference_steps", self.num_inference_steps.map(|steps| steps.to_string())),
            ("guidance_scale", self.guidance_scale.map(|scale| scale.to_string())),
            ("guidance_start", self.guidance_start.map(|share| share.to_string())),
            ("guidance_stop", self.guidance_stop.map(|share| share.to_string())),
            ("width", self.width.map(|width| width.to_string())),
            ("height", self.height.map(|height| height.to_string())),
            ("image", image),
            ("strength", self.strength.map(|strength| strength.to_string())),
        ];
        TraceOptions {
            row: cells.into_iter().filter_map(|(name, cell)| Some((name, cell?))).collect(),
            job: JobOptions {
                manifests: Vec::new(),
                model: self.model,
                defaults: DefaultFlags::default(),
                reading: manifest::Options { allow_empty: true, ..manifest::Options::default() },
                prompts: PromptStyle { syntax: PromptSyntax::Plain, long: LongPrompt::Truncate },
                noise: self.noise,
                limit: None,
                strict: false,
            },
            out: self.out,
            columns: usize::from(self.columns),
            device: self.device,
            kernels: self.kernels,
            threads: self.threads,
            ort_lib: self.ort_lib,
        }
    }
}
