//! Every flag, with its help. Flags of `run` are environment variables too (`NIGHTSHIFT_…`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::engine::PromptStyle;
use crate::error::{Error, ErrorKind};
use crate::manifest::{self, Format as ManifestFormat, MAX_FIELD};
use crate::noise::NoiseKind;
use crate::onnx::{CudaOption, Device, Devices, GpuOptions, Kernels, TensorRtOption};
use crate::output::layout::Format;
use crate::output::{ImageFormat, ImageKind};
use crate::prompt::{LongPrompt, PromptSyntax};
use crate::remote::BucketOptions;
use crate::run::logging::LogFormat;
use crate::run::metrics::{MetricsAddress, MetricsOptions};
use crate::run::{
    DefaultFlags, EngineOptions, ExpandOptions, JobOptions, Lanes, MaxFailed, ReportOptions, RunOptions,
    ScheduleOptions, ScorerOptions, Share, TraceOptions, VaeTiling, address, default_spool,
};
use crate::score::{ClipScore, Demand};
use crate::template::Mode;

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

/// How manifests are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reading manifests")]
pub struct ReadingArgs {
    /// Format of the manifests: csv, tsv, jsonl, parquet or txt  [default: by the ending of the name, else by the content]
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<ManifestFormat>,
    /// Column that holds the prompt  [default: prompt, text or caption]
    #[arg(long, value_name = "NAME")]
    pub prompt_col: Option<String>,
    /// Column that holds the id  [default: id, custom_id or key]
    #[arg(long, value_name = "NAME")]
    pub id_col: Option<String>,
    /// Encoding of the files, such as windows-1252  [default: UTF-8, or UTF-16 with a byte order mark]
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// Character between cells; `\t` is a tab  [default: found in the header]
    #[arg(long, value_name = "CHAR", value_parser = one_byte)]
    pub delimiter: Option<u8>,
    /// Character before a quote that belongs to the value, besides doubled quotes
    #[arg(long, value_name = "CHAR", value_parser = one_byte)]
    pub escape: Option<u8>,
    /// Bytes that a cell may have
    #[arg(long, value_name = "BYTES", default_value_t = MAX_FIELD)]
    pub max_field: usize,
    /// Accept rows with an empty prompt
    #[arg(long)]
    pub allow_empty: bool,
}

/// Reads one ASCII character, or `\t`.
fn one_byte(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err("expected one ASCII character, or `\\t`".to_string()),
    }
}

/// Reads a time of day or an instant, and returns how long it is until then.
fn deadline(text: &str) -> Result<Duration, String> {
    until(text, &jiff::ZonedDateTime::now())
}

fn until(text: &str, now: &jiff::ZonedDateTime) -> Result<Duration, String> {
    let wrong = |error: jiff::Error| format!("expected a time such as `07:00` or `2026-11-27T07:00:00`: {error}");
    let zone = now.time_zone();
    // The instant first: a time of day is also read from one.
    let then = match text.parse::<jiff::civil::DateTime>() {
        Ok(then) => then.to_zoned_datetime(zone.clone()).map_err(wrong)?,
        Err(_) => {
            let time = text.parse::<jiff::civil::Time>().map_err(wrong)?;
            let today = now.date().to_datetime(time).to_zoned_datetime(zone.clone()).map_err(wrong)?;
            let tomorrow = || now.date().tomorrow()?.to_datetime(time).to_zoned_datetime(zone.clone());
            if today > *now { today } else { tomorrow().map_err(wrong)? }
        }
    };
    Duration::try_from(now.duration_until(&then)).map_err(|_| format!("`{text}` is over"))
}

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

/// Flags of an output in a bucket.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --out in a bucket (docs/buckets.md)")]
pub struct BucketArgs {
    /// Folder where files wait to be uploaded; keep it from start to start  [default: one for each URL in $XDG_CACHE_HOME/nightshift
    /// or ~/.cache/nightshift]
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_SPOOL")]
    pub spool: Option<PathBuf>,
    /// Bytes that may wait there before the run waits too, such as 500MiB
    #[arg(long, value_name = "SIZE", default_value = "20GiB", value_parser = size, env = "NIGHTSHIFT_SPOOL_LIMIT")]
    pub spool_limit: u64,
    /// When all is made, give up with exit code 13 if nothing could be uploaded for so long; the next start goes on
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration, env = "NIGHTSHIFT_UPLOAD_TIMEOUT")]
    pub upload_timeout: Duration,
}

/// Reads a number of bytes: `1048576`, `500MiB`, `20G`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let units = ["", "K", "M", "G", "T"];
    let unit = unit.trim().trim_end_matches(['B', 'b']).trim_end_matches('i').to_ascii_uppercase();
    let power = units.iter().position(|known| *known == unit);
    let bytes = number.parse::<u64>().ok().zip(power).and_then(|(number, power)| number.checked_mul(1 << (10 * power)));
    bytes.ok_or_else(|| "expected a number of bytes, such as 500MiB or 20GiB".to_string())
}

impl BucketArgs {
    /// Returns the folder that the run works on, and the bucket, for an output named `out`.
    fn into_options(self, out: PathBuf) -> Result<(PathBuf, Option<BucketOptions>), Error> {
        let Some(url) = address(&out)? else {
            return match self.spool {
                None => Ok((out, None)),
                Some(_) => Err(Error::new(ErrorKind::Usage, "spool", "--spool is for outputs in buckets")
                    .hint("leave it out, or give an address such as s3://bucket/prefix as --out")),
            };
        };
        let spool = self.spool.map_or_else(|| default_spool(&url), Ok)?;
        let BucketArgs { spool_limit, upload_timeout, .. } = self;
        Ok((spool, Some(BucketOptions { url, spool_limit, upload_timeout })))
    }
}

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
    fn into_options(self) -> Option<ScorerOptions> {
        let demand = Demand { min: self.min_clip_score, retries: self.retries };
        self.scorer.map(|dir| ScorerOptions { dir, demand })
    }
}

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

/// Flags that only matter on GPUs.
#[derive(Debug, Args)]
#[command(next_help_heading = "On GPUs")]
pub struct GpuArgs {
    /// Let the processor run nodes that the GPU has no kernels for, beyond the arithmetic of shapes
    ///
    /// Without it, such a graph is refused: every such node costs two copies a call.
    #[arg(long, env = "NIGHTSHIFT_ALLOW_CPU_NODES")]
    pub allow_cpu_nodes: bool,
    /// Option of ONNX Runtime's CUDA provider, such as `cudnn_conv_algo_search=EXHAUSTIVE`, `prefer_nhwc=1` or
    /// `sdpa_kernel=flash|cudnn`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", env = "NIGHTSHIFT_CUDA_OPTION", value_delimiter = ',')]
    pub cuda_option: Vec<CudaOption>,
    /// Option of ONNX Runtime's TensorRT provider, such as `trt_fp16_enable=1`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", env = "NIGHTSHIFT_TENSORRT_OPTION", value_delimiter = ',')]
    pub tensorrt_option: Vec<TensorRtOption>,
    /// Where TensorRT keeps engines  [default: $XDG_CACHE_HOME/nightshift or ~/.cache/nightshift]
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_ENGINE_CACHE")]
    pub engine_cache: Option<PathBuf>,
}

impl GpuArgs {
    fn into_options(self) -> GpuOptions {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        GpuOptions {
            cuda: self.cuda_option,
            tensorrt: self.tensorrt_option,
            allow_cpu_nodes: self.allow_cpu_nodes,
            engine_cache: self.engine_cache.or_else(|| cache().map(|cache| cache.join("nightshift"))),
            ..GpuOptions::default()
        }
    }
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

/// Flags of `expand`.
#[derive(Debug, Args)]
#[command(after_help = EXPAND_HELP)]
pub struct ExpandArgs {
    /// Template: a CSV or TSV file, or YAML with a mapping or a list of mappings
    pub template: PathBuf,
    /// Manifest to write, a CSV file
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Folder with NAME.txt for each wildcard `__NAME__`  [default: `wildcards` beside the template]
    #[arg(long, value_name = "DIR")]
    pub wildcards: Option<PathBuf>,
    /// Draw N rows from each row of the template instead of all combinations
    #[arg(long, value_name = "N")]
    pub sample: Option<u64>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0, requires = "sample")]
    pub seed: u64,
    /// Most rows that the manifest may have
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub max_rows: u64,
    /// How the template is read.
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

const EXPAND_HELP: &str = "\
In every column but `id`:
  {red|blue}         each of these                 {3::red|blue}     red three times as often, in draws
  {2$$a|b|c}         two of them: a,b a,c b,a …    {1-2$$ and $$a|b} one or two, with ` and ` between them
  __animal__         each line of animal.txt       {2$$__animal__}   two of its lines
  ${column}          what that column says         \\{ \\| \\_        the characters themselves
In columns of numbers: 1-10, 4..8:0.5 (with a step), 20|30, 1,2,5. In YAML a list is one after the other.

All combinations come in order, the last column changing fastest. Ids are the template's own, with a hash of the row \
where it makes several: a row keeps its id, and with it its picture, when the template grows.";

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

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Output folder of a run, or its place in a bucket
    pub out: PathBuf,
    /// How the status is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HELP)]
pub struct VerifyArgs {
    /// Output folder of a run
    pub out: PathBuf,
    /// Read every byte and compare hashes, instead of names and sizes only
    #[arg(long)]
    pub deep: bool,
    /// How the findings are printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

// Paragraphs are one line each: clap breaks them at the terminal's width.
const VERIFY_HELP: &str = "\
One line a finding: `kind  path: what`. Kinds: missing, cut (another size), changed (other bytes; --deep), extra (a file \
that no record knows), swapped (two files hold each other's bytes; --deep), stale (a shard's file is older than its \
images), unreadable. Changes nothing, needs neither model nor manifest, and may look at a folder where a run is at work.

Exit codes: 0 no findings, 2 no output folder, 3 findings, 13 the journal itself is damaged.";

/// Flags of `repair`.
#[derive(Debug, Args)]
#[command(after_help = REPAIR_HELP)]
pub struct RepairArgs {
    /// Output folder of a run
    pub out: PathBuf,
    /// Move files that are none of ours from the folders of pictures to .nightshift/quarantine
    #[arg(long)]
    pub quarantine_extra: bool,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

const REPAIR_HELP: &str = "\
Reads everything, as `verify --deep` does. Files under each other's names are put back; whole pictures that the journal \
does not know are taken in by what they say of themselves; images that are nowhere are noted as lost, and the next `run` \
makes them, with the same bytes; damaged pictures go to .nightshift/quarantine. A damaged file of the journal is kept \
beside the new one, as NAME.log.damaged-N. run.json cannot be made again.

Exit codes: 0 journal and files agree, 2 no output folder, 3 files are left that are none of ours, 11 a run is at work \
there, 12 run.json is missing, 13 run.json is damaged, or storage fails.";

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Output folder of a run, finished or at work
    pub out: PathBuf,
    /// Page to write  [default: OUT.html, beside the folder]
    #[arg(short = 'o', long = "page", value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Carry small copies of the first N pictures in the page itself; others are loaded from OUT when they are looked at
    ///
    /// A copy of 160 pixels takes about 6 KB: 1,000 are a page of some 6 MB, and from about 20,000 on browsers become slow. Suspect
    /// pictures come first. Pictures inside of tars and Parquet files are seen only if the page carries them; parameters, filters and
    /// charts are those of all images, however many.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub embed: usize,
    /// Also write contact sheets of all pictures into this folder: PNGs of up to 100 captioned thumbnails each, shard by shard
    #[arg(long, value_name = "DIR")]
    pub contact_sheets: Option<PathBuf>,
    /// How the result is printed.
    #[command(flatten)]
    pub summary: SummaryArgs,
}

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

impl ReadingArgs {
    fn into_options(self) -> manifest::Options {
        manifest::Options {
            format: self.input_format,
            prompt_col: self.prompt_col,
            id_col: self.id_col,
            encoding: self.encoding,
            delimiter: self.delimiter,
            escape: self.escape,
            max_field: self.max_field,
            allow_empty: self.allow_empty,
        }
    }
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

impl ReportArgs {
    /// Returns the options as `report` takes them.
    pub fn into_options(self) -> ReportOptions {
        ReportOptions { out: self.out, page: self.page, embed: self.embed, contact_sheets: self.contact_sheets }
    }
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

impl ExpandArgs {
    /// Returns the options as `expand` takes them.
    pub fn into_options(self) -> ExpandOptions {
        ExpandOptions {
            template: self.template,
            out: self.out,
            wildcards: self.wildcards,
            mode: self.sample.map_or(Mode::All, |rows| Mode::Sample(rows, self.seed)),
            max_rows: self.max_rows,
            reading: self.reading.into_options(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_next_time_of_that_name() {
        let now: jiff::ZonedDateTime = "2026-11-26T19:00:00[UTC]".parse().expect("a time");
        let hours = |text: &str| until(text, &now).map(|left| left.as_secs_f64() / 3600.0);
        assert_eq!(hours("07:00"), Ok(12.0));
        assert_eq!(hours("20:30"), Ok(1.5));
        assert_eq!(hours("2026-11-27T19:00:00"), Ok(24.0));
        assert!(hours("2026-11-26T18:00:00").is_err_and(|error| error.contains("is over")));
        assert!(hours("soon").is_err());
    }

    #[test]
    fn sizes_have_units() {
        let read = ["1048576", "500MiB", "20G", "1 kb", "3TiB"].map(size);
        assert_eq!(read, [1 << 20, 500 << 20, 20 << 30, 1 << 10, 3 << 40].map(Ok));
        assert!(["", "GiB", "-1", "5 stones", "99999999999T"].iter().all(|text| size(text).is_err()));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
