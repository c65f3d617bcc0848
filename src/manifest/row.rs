//! The cells of one row → a job.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::Rules;
use super::columns::Field;
use super::effects;
use super::header::{Column, Header};
use super::ids;
use super::images::{self, Pictures};
use super::notices::Notices;
use super::numbers::{Problem, pixels, real, whole};
use super::place::Place;
use super::shared::Shared;
use super::shown::{invisible, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{Defaults, Extra, Job, Rare};

/// Most images that one row may ask for: the digits of their keys, and a slip of the keyboard, stay small.
const MAX_IMAGES: u64 = 10_000;

/// Largest guidance scale: beyond it half-precision networks overflow.
const MAX_GUIDANCE: f64 = 1000.0;

/// More layers than any CLIP has.
const MAX_CLIP_SKIP: u64 = 100;

/// More evaluations than any schedule has.
const MAX_CACHE_INTERVAL: u64 = 1000;

/// Reads rows by the rules; remembers what rows have in common.
pub(super) struct RowReader<'r> {
    rules: &'r Rules<'r>,
    /// A job with nothing but defaults.
    empty: Job,
    /// Names that have been resolved.
    schedulers: HashMap<String, Arc<str>>,
    negative_prompts: Shared,
    rare: Option<Arc<Rare>>,
    pictures: Pictures,
}

/// One row and all that its messages need.
pub(super) struct Row<'a> {
    /// What the columns mean.
    pub header: &'a Header,
    /// As many cells as the header has columns, or fewer.
    pub cells: &'a [&'a str],
    /// Where it stands.
    pub place: Place<'a>,
}

impl Row<'_> {
    /// Returns the error at cell `at` of this row.
    fn error(&self, at: usize, code: &'static str, problem: Problem) -> Error {
        Error::new(ErrorKind::Row, code, problem.message).at(self.header.location(self.place, at)).hint(problem.hint)
    }

    /// Returns the error of this row, or of its cell `at`.
    pub fn problem(&self, at: Option<usize>, code: &'static str, problem: Problem) -> Error {
        match at {
            Some(at) => self.error(at, code, problem),
            None => Error::new(ErrorKind::Row, code, problem.message).at(self.place.location()).hint(problem.hint),
        }
    }

    /// Returns the trimmed cell of `field` and its position, if it has something in it.
    fn filled(&self, field: Field) -> Option<(usize, &str)> {
        let at = self.header.position(field)?;
        let cell = self.cells.get(at)?.trim();
        (!cell.is_empty()).then_some((at, cell))
    }

    /// Returns the cells that pass through; those that the row lacks are empty.
    fn extra_cells(&self) -> impl Iterator<Item = &str> {
        let columns = self.header.columns.iter().enumerate();
        let extra = columns.filter(|(_, column)| matches!(column, Column::Extra(_)));
        extra.map(|(at, _)| self.cells.get(at).copied().unwrap_or(""))
    }
}

impl<'r> RowReader<'r> {
    /// Returns a reader by `rules`.
    pub fn new(rules: &'r Rules<'r>) -> Self {
        RowReader {
            rules,
            empty: empty_job(rules.defaults),
            schedulers: HashMap::new(),
            negative_prompts: Shared::default(),
            rare: None,
            pictures: Pictures::default(),
        }
    }

    /// Reads the pictures that rows of the manifest at `manifest` will name in these cells.
    pub fn foresee<'c>(&mut self, cells: impl Iterator<Item = &'c str>, manifest: &Path) {
        self.pictures.foresee(cells, manifest);
    }

    /// Returns the job of `row`, or everything that is wrong with its cells.
    pub fn job(&mut self, row: &Row, notices: &mut Notices) -> Result<Job, Vec<Error>> {
        let mut job = Job { row: row.place.row, line: row.place.line, ..self.empty.clone() };
        let mut errors = Vec::new();
        for (at, (column, cell)) in row.header.columns.iter().zip(row.cells).enumerate() {
            let filled = match column {
                Column::Field(field) => self.fill(&mut job, *field, cell.trim(), row.place, notices),
                Column::Extra(_) | Column::Unsupported | Column::Unnamed | Column::Verdict => Ok(()),
            };
            if let Err((code, problem)) = filled {
                errors.push(row.error(at, code, problem));
            }
        }
        if let (Some((at, _)), Some(_)) =
            (row.filled(Field::Size), row.filled(Field::Width).or(row.filled(Field::Height)))
        {
            let problem = Problem::new("both this and `width` or `height` are filled", "fill one or the other");
            errors.push(row.error(at, Field::Size.code(), problem));
        }
        if errors.is_empty() {
            self.complete(&mut job, row, &mut errors);
        }
        job.extra = Extra::new(&row.header.extra, row.extra_cells());
        job.share_rare(&mut self.rare);
        if errors.is_empty() { Ok(job) } else { Err(errors) }
    }

    /// Fills in what follows from several cells, and finds what does not go together.
    fn complete(&self, job: &mut Job, row: &Row, errors: &mut Vec<Error>) {
        let rules = self.rules;
        let filled = |field| row.filled(field).is_some();
        if let (Some(image), false) =
            (&job.rare().image, [Field::Width, Field::Height, Field::Size].into_iter().any(filled))
        {
            (job.width, job.height) = images::rounded(image.size, rules.size_multiple, rules.max_size);
        }
        if job.rare().image.is_some() && !filled(Field::Strength) {
            let defaults = rules.recipe.defaults;
            let own = if job.rare().mask_image.is_some() { defaults.inpaint_strength } else { defaults.strength };
            job.rare_mut().strength = rules.defaults.strength.unwrap_or(own);
        }
        self.levels(job, row, errors);
        job.lanes = rules.recipe.lanes(job.guidance_scale, job.rare().image_guidance_scale);
        for field in effects::without(job, rules.recipe, filled) {
            let (at, code) = (row.header.position(field.field), field.field.code());
            errors.push(row.problem(at, code, field.problem));
        }
        if errors.is_empty()
            && let Err(error) = (rules.check)(job)
        {
            errors.push(error.with_kind(ErrorKind::Row).at(row.place.location()));
        }
    }

    /// Puts a trimmed cell into `job`; an empty one leaves the default.
    fn fill(
        &mut self,
        job: &mut Job,
        field: Field,
        cell: &str,
        place: Place,
        notices: &mut Notices,
    ) -> Result<(), (&'static str, Problem)> {
        let rules = self.rules;
        if cell.is_empty() && field != Field::Prompt {
            return Ok(());
        }
        let size = |text: &str| pixels(text, rules.size_multiple, rules.max_size);
        let filled = match field {
            Field::Prompt => return prompt(cell, rules.options.allow_empty).map(|text| job.prompt = text),
            Field::Id => ids::check(cell).map(|()| job.id = Some(cell.into())),
            Field::NegativePrompt => {
                job.negative_prompt = self.negative_prompts.get(cell);
                Ok(())
            }
            Field::Seed if cell == "-1" => {
                notices.repeat("-1 stands for a seed derived from the run's seed and the key", || {
                    place.location().column(field.name())
                });
                Ok(())
            }
            Field::Seed => whole(cell, 0..=u64::MAX).map(|seed| job.seed = Some(seed)),
            Field::NumInferenceSteps => {
                small(cell, u64::from(rules.max_steps)).map(|steps| job.num_inference_steps = steps)
            }
            Field::NumImagesPerPrompt => small(cell, MAX_IMAGES).map(|images| job.num_images_per_prompt = images),
            Field::GuidanceScale => real(cell, 0.0..=MAX_GUIDANCE).map(|scale| job.guidance_scale = scale),
            Field::GuidanceRescale => real(cell, 0.0..=1.0).map(|rescale| job.rare_mut().guidance_rescale = rescale),
            Field::GuidanceStart => real(cell, 0.0..=1.0).map(|start| job.rare_mut().guidance_start = start),
            Field::GuidanceStop => real(cell, 0.0..=1.0).map(|stop| job.rare_mut().guidance_stop = stop),
            Field::Eta => real(cell, 0.0..=1.0).map(|eta| job.rare_mut().eta = eta),
            Field::Width => size(cell).map(|width| job.width = width),
            Field::Height => size(cell).map(|height| job.height = height),
            Field::Size => both_sides(cell, size).map(|(width, height)| {
                job.width = width;
                job.height = height;
            }),
            Field::Scheduler => self.scheduler(cell).map(|name| job.scheduler = name),
            Field::Image => self.pictures.read(cell, place.path).map(|image| job.rare_mut().image = Some(image)),
            Field::MaskImage => self.pictures.read(cell, place.path).map(|mask| job.rare_mut().mask_image = Some(mask)),
            other => further(job, other, cell),
        };
        filled.map_err(|problem| (field.code(), problem))
    }

    /// Reads timesteps and sigmas of the row's own, which then decide the number of steps.
    fn levels(&self, job: &mut Job, row: &Row, errors: &mut Vec<Error>) {
        let steps = row.filled(Field::NumInferenceSteps).map(|_| job.num_inference_steps);
        for (field, are_timesteps) in [(Field::Timesteps, true), (Field::Sigmas, false)] {
            let Some((at, cell)) = row.filled(field) else { continue };
            let list = cell.split([' ', ';', ',']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(",");
            match (self.rules.read_levels)(are_timesteps, &list, steps) {
                Ok(levels) => {
                    let last = levels.last().is_some_and(|level| *level == 0.0 && !are_timesteps);
                    job.num_inference_steps =
                        u32::try_from(levels.len() - usize::from(last)).unwrap_or(u32::MAX).max(1);
                    let rare = job.rare_mut();
                    *(if are_timesteps { &mut rare.timesteps } else { &mut rare.sigmas }) = Some(levels.into());
                }
                Err(error) => {
                    let hint = error.how_to_fix().unwrap_or("give numbers, or the name of a table");
                    errors.push(row.error(at, field.code(), Problem::new(error.message(), hint)));
                }
            }
        }
    }

    /// Returns the canonical name of a scheduler.
    fn scheduler(&mut self, name: &str) -> Result<Arc<str>, Problem> {
        if let Some(canonical) = self.schedulers.get(name) {
            return Ok(canonical.clone());
        }
        match (self.rules.resolve_scheduler)(name) {
            Ok(canonical) => {
                let canonical: Arc<str> = canonical.into();
                self.schedulers.insert(name.to_string(), canonical.clone());
                Ok(canonical)
            }
            Err(error) => {
                let hint = error.how_to_fix().unwrap_or("`nightshift schedule --help` lists the schedulers");
                Err(Problem::new(error.message(), hint))
            }
        }
    }
}

/// Returns a job with nothing but defaults.
fn empty_job(defaults: &Defaults) -> Job {
    let mut job = Job {
        negative_prompt: defaults.negative_prompt.as_str().into(),
        scheduler: defaults.scheduler.as_str().into(),
        num_inference_steps: defaults.num_inference_steps,
        guidance_scale: defaults.guidance_scale,
        width: defaults.width,
        height: defaults.height,
        num_images_per_prompt: defaults.num_images_per_prompt,
        ..Job::default()
    };
    let rare = job.rare_mut();
    rare.guidance_rescale = defaults.guidance_rescale;
    rare.eta = defaults.eta;
    rare.guidance_start = defaults.guidance_start.unwrap_or(0.0);
    rare.guidance_stop = defaults.guidance_stop.unwrap_or(1.0);
    rare.clip_skip = defaults.clip_skip.unwrap_or(0);
    rare.cache_interval = defaults.cache_interval.unwrap_or(1);
    job.share_rare(&mut None);
    job
}

/// Puts the cell of a column that few manifests have into `job`.
fn further(job: &mut Job, field: Field, cell: &str) -> Result<(), Problem> {
    let text = || Some(cell.to_string());
    let rare = job.rare_mut();
    match field {
        Field::Prompt2 => rare.texts.prompt_2 = text(),
        Field::Prompt3 => rare.texts.prompt_3 = text(),
        Field::NegativePrompt2 => rare.texts.negative_prompt_2 = text(),
        Field::NegativePrompt3 => rare.texts.negative_prompt_3 = text(),
        Field::Strength => rare.strength = real(cell, 0.0..=1.0)?,
        Field::ImageGuidanceScale => rare.image_guidance_scale = real(cell, 0.0..=MAX_GUIDANCE)?,
        Field::CacheInterval => rare.cache_interval = small(cell, MAX_CACHE_INTERVAL)?,
        Field::ClipSkip => rare.clip_skip = u32::try_from(whole(cell, 0..=MAX_CLIP_SKIP)?).unwrap_or(0),
        Field::OriginalSize => rare.micro.original_size = Some(both_sides(cell, any_side)?),
        Field::CropsCoordsTopLeft => rare.micro.crops_coords_top_left = Some(both_sides(cell, any_side)?),
        Field::TargetSize => rare.micro.target_size = Some(both_sides(cell, any_side)?),
        Field::AestheticScore => rare.micro.aesthetic_score = Some(real(cell, 0.0..=10.0)?),
        Field::NegativeAestheticScore => rare.micro.negative_aesthetic_score = Some(real(cell, 0.0..=10.0)?),
        // Timesteps and sigmas are read when the number of steps is known.
        _ => {}
    }
    Ok(())
}

/// Returns a number of pixels that describes a picture, and is not the size of one to make.
fn any_side(cell: &str) -> Result<u32, Problem> {
    whole(cell, 0..=100_000).map(|side| u32::try_from(side).unwrap_or(u32::MAX))
}

/// Returns the prompt in a trimmed cell. One that shows nothing is an error unless `allow_empty`.
fn prompt(cell: &str, allow_empty: bool) -> Result<Box<str>, (&'static str, Problem)> {
    let blank = cell.chars().all(|character| character.is_whitespace() || invisible(character));
    if blank && !allow_empty {
        let hint = "write a prompt, or use `--allow-empty` for pictures without one";
        return Err(("empty_prompt", Problem::new("the prompt is empty", hint)));
    }
    Ok(cell.into())
}

/// Returns a whole number from 1 to `max`.
fn small(cell: &str, max: u64) -> Result<u32, Problem> {
    whole(cell, 1..=max.min(u64::from(u32::MAX))).map(|number| u32::try_from(number).expect("at most u32::MAX"))
}

/// Returns width and height of `512x768`.
fn both_sides(cell: &str, side: impl Fn(&str) -> Result<u32, Problem>) -> Result<(u32, u32), Problem> {
    let Some((width, height)) = cell.split_once(['x', 'X', '×', '*']) else {
        return Err(Problem::new(
            format!("`{}` is not a size", shown(cell)),
            "write width x height, such as `512x768`",
        ));
    };
    Ok((side(width.trim())?, side(height.trim())?))
}
