//! Cells that would have no effect with the model at hand, or that lack another: errors, so that no setting is lost silently.

use super::columns::Field;
use super::numbers::Problem;
use crate::job::Job;
use crate::recipe::{GuidanceStyle, ImageChannels, Recipe, TimeIds};

/// What is wrong with the cell of a field.
pub(super) struct Effect {
    pub field: Field,
    pub problem: Problem,
}

/// Returns what of `job` does not go together with the model or with itself; `filled` says which cells have something in
/// them.
pub(super) fn without(job: &Job, recipe: &Recipe, filled: impl Fn(Field) -> bool) -> Vec<Effect> {
    let mut found: Vec<Effect> = ROWS_OF_MODELS
        .iter()
        .filter(|(field, works, _)| filled(*field) && !works(recipe))
        .map(|(field, _, what)| effect(*field, what, "leave the cell empty, or use a model that has it"))
        .collect();
    found.extend(pictures(job, recipe, &filled));
    if filled(Field::Timesteps) && filled(Field::Sigmas) {
        found.push(effect(Field::Sigmas, "both `timesteps` and `sigmas` are filled", "fill one or the other"));
    }
    let (start, stop) = (job.rare().guidance_start, job.rare().guidance_stop);
    if start >= stop {
        let message = format!("guidance starts at {start} and stops at {stop}");
        let field = if filled(Field::GuidanceStop) { Field::GuidanceStop } else { Field::GuidanceStart };
        found.push(effect(
            field,
            &message,
            "`guidance_start` is less than `guidance_stop`; `guidance_scale` 1 is no guidance",
        ));
    }
    found
}

type Works = fn(&Recipe) -> bool;

/// Fields that only some models have a use for.
const ROWS_OF_MODELS: [(Field, Works, &str); 15] = [
    (Field::Prompt2, |recipe| recipe.texts.len() > 1, "the model has one text encoder"),
    (Field::NegativePrompt2, |recipe| recipe.texts.len() > 1, "the model has one text encoder"),
    (Field::Prompt3, |recipe| recipe.texts.len() > 2, "the model has fewer than three text encoders"),
    (Field::NegativePrompt3, |recipe| recipe.texts.len() > 2, "the model has fewer than three text encoders"),
    (Field::CacheInterval, |recipe| recipe.patch_size.is_none(), "the model has no UNet with inner blocks"),
    (Field::ClipSkip, |recipe| recipe.clip_skip, "the model takes no layer of CLIP"),
    (Field::OriginalSize, |recipe| recipe.time_ids.is_some(), "the model is not told sizes"),
    (Field::CropsCoordsTopLeft, |recipe| recipe.time_ids.is_some(), "the model is not told sizes"),
    (Field::TargetSize, |recipe| recipe.time_ids == Some(TimeIds::Sizes), "the model is not told target sizes"),
    (Field::AestheticScore, scored, "the model is not told aesthetic scores"),
    (Field::NegativeAestheticScore, scored, "the model is not told aesthetic scores"),
    (
        Field::ImageGuidanceScale,
        |recipe| recipe.guidance == GuidanceStyle::TextAndImage,
        "the model does not weigh text against image",
    ),
    (Field::GuidanceStart, guided, "the model's guidance is no lane of its own"),
    (Field::GuidanceStop, guided, "the model's guidance is no lane of its own"),
    (
        Field::GuidanceRescale,
        |recipe| recipe.guidance == GuidanceStyle::ClassifierFree,
        "the model has no classifier-free guidance",
    ),
];

fn guided(recipe: &Recipe) -> bool {
    matches!(recipe.guidance, GuidanceStyle::ClassifierFree | GuidanceStyle::TextAndImage)
}

fn scored(recipe: &Recipe) -> bool {
    recipe.time_ids == Some(TimeIds::AestheticScore)
}

/// Pictures and masks, and what goes with them.
fn pictures(job: &Job, recipe: &Recipe, filled: &impl Fn(Field) -> bool) -> Vec<Effect> {
    let (image, mask) = (job.rare().image.is_some(), job.rare().mask_image.is_some());
    let mut found = Vec::new();
    if !image && recipe.needs_image() {
        found.push(effect(
            Field::Image,
            "this model makes pictures of pictures, and the row names none",
            "fill `image`",
        ));
    }
    if image && !mask && recipe.image_channels == ImageChannels::MaskAndImage {
        found.push(effect(
            Field::MaskImage,
            "this model paints what a mask covers, and the row names none",
            "fill `mask_image`",
        ));
    }
    if mask && recipe.image_channels == ImageChannels::Image {
        found.push(effect(Field::MaskImage, "this model has no use for a mask", "leave the cell empty"));
    }
    if mask && !image && !recipe.needs_image() {
        found.push(effect(Field::MaskImage, "a mask without `image` has no effect", "fill `image`, or leave it empty"));
    }
    let starts_from_image = image && recipe.image_channels != ImageChannels::Image;
    if filled(Field::Strength) && !starts_from_image {
        found.push(effect(Field::Strength, "it has no effect without a picture to start from", "leave the cell empty"));
    }
    found
}

fn effect(field: Field, message: &str, hint: &str) -> Effect {
    Effect { field, problem: Problem::new(message, hint) }
}
