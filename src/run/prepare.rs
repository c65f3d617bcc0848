//! Model folder and manifests → validated jobs: what `run` and `check` do first. Runs no network, writes nothing.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::prelude::*;

use super::options::JobOptions;
use crate::engine::{PromptStyle, Schedules};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Defaults, Job};
use crate::manifest::{self, Manifest, Rules};
use crate::model::{ModelSpec, TextPart};
use crate::prompt::{Chunks, LongPrompt, PromptSyntax, PromptTokenizer};
use crate::scheduler::{self, SchedulerConfig};

/// Largest side of a picture in pixels that makes sense for today's models.
const MAX_SIZE: u32 = 4096;

/// Everything that is known before any network is loaded.
pub struct Prepared {
    /// The model folder.
    pub spec: ModelSpec,
    /// Its schedule configuration.
    pub scheduler_config: SchedulerConfig,
    /// Its tokenizers, one for each text encoder.
    pub tokenizers: Vec<PromptTokenizer>,
    /// How prompts are read.
    pub prompts: PromptStyle,
    /// Values for empty cells.
    pub defaults: Defaults,
    /// The manifests: good and bad rows.
    pub manifest: Manifest,
    /// The good rows, shared.
    pub jobs: Vec<Arc<Job>>,
}

/// Reads the model's configs and the manifests.
///
/// # Errors
/// The model folder or a manifest's structure is broken, a flag makes no sense, or (with `strict`) any row is bad.
pub fn prepare(options: &JobOptions) -> Result<Prepared> {
    let spec = ModelSpec::open(&options.model)?;
    let scheduler_config = SchedulerConfig::from_json(&spec.scheduler_config)?;
    let defaults = defaults(options, &spec, &scheduler_config)?;
    let resolve = |name: &str| scheduler::resolve(name).map(str::to_string);
    let read_levels = |are_timesteps: bool, text: &str, steps: Option<u32>| match are_timesteps {
        true => scheduler::custom_timesteps(text, steps),
        false => scheduler::custom_sigmas(text, steps),
    };
    let tokenizers = spec.texts.iter().map(TextPart::prompt_tokenizer).collect::<Result<Vec<_>>>()?;
    let schedules = RefCell::new(Schedules::new(&scheduler_config, &spec.recipe));
    let rules = Rules {
        defaults: &defaults,
        size_multiple: spec.size_multiple,
        max_size: MAX_SIZE,
        max_steps: scheduler_config.num_train_timesteps(),
        recipe: &spec.recipe,
        resolve_scheduler: &resolve,
        read_levels: &read_levels,
        check: &|job| {
            check_prompts(&tokenizers, options.prompts, job)?;
            schedules.borrow_mut().of(job).map(drop)
        },
        options: options.reading.clone(),
    };
    let mut manifest = manifest::read(&options.manifests, &rules)?;
    if options.strict {
        super::report_bad_rows(&manifest);
        manifest.strict()?;
    }
    let jobs = std::mem::take(&mut manifest.jobs);
    let prompts = options.prompts;
    Ok(Prepared { spec, scheduler_config, tokenizers, prompts, defaults, manifest, jobs })
}

fn defaults(options: &JobOptions, spec: &ModelSpec, config: &SchedulerConfig) -> Result<Defaults> {
    let flags = &options.defaults;
    let scheduler = match &flags.scheduler {
        Some(name) => scheduler::resolve(name)?.to_string(),
        None => config.name().to_string(),
    };
    let defaults = Defaults {
        negative_prompt: flags.negative_prompt.clone().unwrap_or_default(),
        seed: flags.seed,
        scheduler,
        num_inference_steps: flags.num_inference_steps.unwrap_or(spec.recipe.defaults.num_inference_steps),
        guidance_scale: flags.guidance_scale.unwrap_or(spec.recipe.defaults.guidance_scale),
        guidance_rescale: 0.0,
        guidance_start: flags.guidance_start,
        guidance_stop: flags.guidance_stop,
        eta: 0.0,
        strength: flags.strength,
        clip_skip: flags.clip_skip,
        cache_interval: flags.cache_interval,
        width: flags.width.unwrap_or(spec.default_size.0),
        height: flags.height.unwrap_or(spec.default_size.1),
        num_images_per_prompt: flags.num_images_per_prompt.unwrap_or(1),
    };
    check_flags(&defaults, spec.size_multiple, config.num_train_timesteps())?;
    Ok(defaults)
}

/// Flags obey the same rules as cells.
fn check_flags(defaults: &Defaults, size_multiple: u32, max_steps: u32) -> Result<()> {
    for (flag, value) in [("--width", defaults.width), ("--height", defaults.height)] {
        if value == 0 || value % size_multiple != 0 || value > MAX_SIZE {
            let message =
                format!("{flag}: `{value}` is not a multiple of {size_multiple} from {size_multiple} to {MAX_SIZE}");
            return Err(usage("bad_size", message));
        }
    }
    let steps = defaults.num_inference_steps;
    if steps == 0 || steps > max_steps {
        return Err(usage("bad_steps", format!("--num-inference-steps: `{steps}` is not within 1 to {max_steps}")));
    }
    let guidance = defaults.guidance_scale;
    if !guidance.is_finite() || guidance < 0.0 {
        return Err(usage("bad_guidance", format!("--guidance-scale: `{guidance}` is not a number from 0 on")));
    }
    let (start, stop) = (defaults.guidance_start.unwrap_or(0.0), defaults.guidance_stop.unwrap_or(1.0));
    if !(0.0..=1.0).contains(&start) || !(0.0..=1.0).contains(&stop) || start >= stop {
        let message = format!(
            "--guidance-start `{start}` and --guidance-stop `{stop}` are not one below the other within 0 to 1"
        );
        return Err(usage("bad_guidance", message));
    }
    if let Some(strength) = defaults.strength.filter(|strength| !(0.0..=1.0).contains(strength)) {
        return Err(usage("bad_strength", format!("--strength: `{strength}` is not a number from 0 to 1")));
    }
    if let Some(interval) = defaults.cache_interval.filter(|interval| !(1..=1000).contains(interval)) {
        return Err(usage("bad_cache_interval", format!("--cache-interval: `{interval}` is not within 1 to 1000")));
    }
    let images = defaults.num_images_per_prompt;
    if images == 0 || images > 10_000 {
        return Err(usage("bad_images", format!("--num-images-per-prompt: `{images}` is not within 1 to 10000")));
    }
    Ok(())
}

fn usage(code: &'static str, message: String) -> Error {
    Error::new(ErrorKind::Usage, code, message)
}

/// A prompt that is longer than a text encoder takes.
pub struct Truncation {
    /// Key of the row.
    pub key: String,
    /// Tokens that the text has, start and end of text included.
    pub count: usize,
    /// Tokens that there is room for.
    pub limit: usize,
    /// What was cut off.
    pub cut: String,
}

impl Prepared {
    /// Returns the texts of `jobs` that are cut by the model's token limit; of several text encoders, the one with the least room
    /// counts. Of very many texts only some are looked at, and the number is an estimate: a million take a minute.
    pub fn truncations(&self, jobs: &[&Arc<Job>]) -> Truncations {
        let shortest = self.tokenizers.iter().min_by_key(|tokenizer| tokenizer.model_max_length());
        let Some(tokenizer) = shortest.filter(|_| self.prompts.long == LongPrompt::Truncate) else {
            return Truncations::default();
        };
        let limit = tokenizer.model_max_length();
        let texts = jobs.iter().flat_map(|job| [(*job, &*job.prompt), (*job, &*job.negative_prompt)]);
        // Most texts have fewer bytes than the limit has tokens: no need to look closer.
        let long = || texts.clone().filter(|(_, text)| text.len() + 2 > limit);
        let stride = long().count().div_ceil(TEXTS_LOOKED_AT).max(1);
        let looked_at: Vec<_> = long().step_by(stride).collect();
        let chunks = |text: &str| Chunks::new(&self.prompts.syntax.parse(text)?, tokenizer, LongPrompt::Truncate);
        let cut = |(job, text): &(&Arc<Job>, &str)| {
            let chunks = chunks(text).ok()?;
            Some(Truncation { key: job.key(), count: chunks.count, limit, cut: chunks.truncated? })
        };
        let first: Vec<Truncation> = looked_at.par_iter().filter_map(cut).collect();
        Truncations { count: (first.len() * stride) as u64, first, is_estimate: stride > 1 }
    }
}

/// Long texts that are looked at, at most.
const TEXTS_LOOKED_AT: usize = 20_000;

/// The texts that are longer than a text encoder takes.
#[derive(Default)]
pub struct Truncations {
    /// Some of them, in order.
    pub first: Vec<Truncation>,
    /// How many there are.
    pub count: u64,
    /// Whether that is an estimate from some of them.
    pub is_estimate: bool,
}

/// Fails if a text of `job` is not written as the syntax wants it, or is too long where that is an error. Plain texts that may
/// be cut cannot be wrong, and are not looked at.
fn check_prompts(tokenizers: &[PromptTokenizer], style: PromptStyle, job: &Job) -> Result<()> {
    if style.syntax == PromptSyntax::Plain && style.long != LongPrompt::Fail {
        return Ok(());
    }
    let more = &job.rare().texts;
    let further = [&more.prompt_2, &more.prompt_3, &more.negative_prompt_2, &more.negative_prompt_3];
    let further = further.into_iter().filter_map(|text| text.as_deref());
    for text in [&*job.prompt, &*job.negative_prompt].into_iter().chain(further) {
        let segments = style.syntax.parse(text)?;
        for tokenizer in tokenizers {
            Chunks::new(&segments, tokenizer, style.long)?;
        }
    }
    Ok(())
}
