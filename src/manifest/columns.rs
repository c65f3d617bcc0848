//! The columns of a manifest: their names, their aliases, and the names that are close but not right.

/// A column that has a meaning to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Prompt,
    Id,
    NegativePrompt,
    Seed,
    NumInferenceSteps,
    GuidanceScale,
    GuidanceRescale,
    GuidanceStart,
    GuidanceStop,
    Eta,
    Width,
    Height,
    Size,
    NumImagesPerPrompt,
    Scheduler,
    Prompt2,
    Prompt3,
    NegativePrompt2,
    NegativePrompt3,
    Image,
    MaskImage,
    Strength,
    ImageGuidanceScale,
    ClipSkip,
    CacheInterval,
    OriginalSize,
    CropsCoordsTopLeft,
    TargetSize,
    AestheticScore,
    NegativeAestheticScore,
    Timesteps,
    Sigmas,
}

/// A known column for help texts: its name, its aliases and what stands in it.
#[derive(Debug, Clone, Copy)]
pub struct KnownColumn {
    /// The name, diffusers' own.
    pub name: &'static str,
    /// Other names that are read as this one.
    pub aliases: &'static [&'static str],
    /// What its cells hold.
    pub meaning: &'static str,
}

/// The known columns; all others pass through to the metadata.
pub const COLUMNS: [KnownColumn; 32] = [
    known("prompt", &["text", "caption"], "text of the picture; the only column that a manifest must have"),
    known("id", &["custom_id", "key"], "unique name of the row, letters, digits, `_` and `-`; names its files"),
    known("negative_prompt", &[], "text to steer away from"),
    known("seed", &[], "0 to 18446744073709551615; empty or -1 derives one from the run's seed and the key"),
    known("num_inference_steps", &["steps"], "denoising steps"),
    known("guidance_scale", &["cfg_scale", "cfg"], "0 to 1000; 1 or less turns guidance off"),
    known("guidance_rescale", &[], "0 to 1; 0 is off"),
    known("guidance_start", &[], "0 to 1; share of the evaluations before which guidance is off"),
    known("guidance_stop", &[], "0 to 1; share of the evaluations from which on guidance is off, and costs nothing"),
    known("eta", &[], "0 to 1; share of fresh noise of DDIM"),
    known("width", &[], "pixels"),
    known("height", &[], "pixels"),
    known("size", &[], "width and height in one, such as 512x768"),
    known("num_images_per_prompt", &["num_images", "n"], "images of this row; their keys end in _0, _1, …"),
    known("scheduler", &["sampler"], "name of the scheduler"),
    known("prompt_2", &["prompt2"], "prompt for the second text encoder"),
    known("prompt_3", &["prompt3"], "prompt for the third text encoder"),
    known("negative_prompt_2", &["negative_prompt2"], "negative prompt for the second text encoder"),
    known("negative_prompt_3", &["negative_prompt3"], "negative prompt for the third text encoder"),
    known("image", &["init_image", "image_path"], "picture to start from, a path relative to the manifest"),
    known("mask_image", &["mask"], "what of it to make anew: white; a path relative to the manifest"),
    known("strength", &["denoising_strength"], "above 0 to 1; how much of the image is made anew"),
    known("image_guidance_scale", &[], "0 to 1000; how much the image weighs in InstructPix2Pix"),
    known("clip_skip", &[], "last layers of the text encoder to skip"),
    known("cache_interval", &[], "1 or more; the UNet's inner blocks are evaluated every so many evaluations only"),
    known("original_size", &[], "SDXL: size before cropping, width x height, such as 1024x768"),
    known("crops_coords_top_left", &[], "SDXL: top and left of the crop, such as 0x0"),
    known("target_size", &[], "SDXL: size after cropping, width x height"),
    known("aesthetic_score", &[], "SDXL refiner: 0 to 10"),
    known("negative_aesthetic_score", &[], "SDXL refiner: the same for the negative prompt"),
    known(
        "timesteps",
        &[],
        "timesteps in place of the scheduler's, such as `999 749 499 249`, or the name of a table such as AYS-SD15",
    ),
    known("sigmas", &[], "noise levels in place of the scheduler's, or the name of a table"),
];

pub(super) const FIELDS: [Field; 32] = [
    Field::Prompt,
    Field::Id,
    Field::NegativePrompt,
    Field::Seed,
    Field::NumInferenceSteps,
    Field::GuidanceScale,
    Field::GuidanceRescale,
    Field::GuidanceStart,
    Field::GuidanceStop,
    Field::Eta,
    Field::Width,
    Field::Height,
    Field::Size,
    Field::NumImagesPerPrompt,
    Field::Scheduler,
    Field::Prompt2,
    Field::Prompt3,
    Field::NegativePrompt2,
    Field::NegativePrompt3,
    Field::Image,
    Field::MaskImage,
    Field::Strength,
    Field::ImageGuidanceScale,
    Field::ClipSkip,
    Field::CacheInterval,
    Field::OriginalSize,
    Field::CropsCoordsTopLeft,
    Field::TargetSize,
    Field::AestheticScore,
    Field::NegativeAestheticScore,
    Field::Timesteps,
    Field::Sigmas,
];

const fn known(name: &'static str, aliases: &'static [&'static str], meaning: &'static str) -> KnownColumn {
    KnownColumn { name, aliases, meaning }
}

impl Field {
    fn column(self) -> &'static KnownColumn {
        &COLUMNS[self as usize]
    }

    /// Returns the name of the column.
    pub fn name(self) -> &'static str {
        self.column().name
    }

    /// Returns the name and the aliases.
    pub fn spellings(self) -> Vec<&'static str> {
        std::iter::once(self.name()).chain(self.column().aliases.iter().copied()).collect()
    }

    /// Returns the code of the error for a bad cell of this column.
    pub fn code(self) -> &'static str {
        match self {
            Field::Prompt => "bad_prompt",
            Field::Id => "bad_id",
            Field::NegativePrompt => "bad_negative_prompt",
            Field::Seed => "bad_seed",
            Field::NumInferenceSteps => "bad_num_inference_steps",
            Field::GuidanceScale => "bad_guidance_scale",
            Field::GuidanceRescale => "bad_guidance_rescale",
            Field::GuidanceStart => "bad_guidance_start",
            Field::GuidanceStop => "bad_guidance_stop",
            Field::Eta => "bad_eta",
            Field::Width => "bad_width",
            Field::Height => "bad_height",
            Field::Size => "bad_size",
            Field::NumImagesPerPrompt => "bad_num_images_per_prompt",
            Field::Scheduler => "bad_scheduler",
            Field::Prompt2 => "bad_prompt_2",
            Field::Prompt3 => "bad_prompt_3",
            Field::NegativePrompt2 => "bad_negative_prompt_2",
            Field::NegativePrompt3 => "bad_negative_prompt_3",
            Field::Image => "bad_image",
            Field::MaskImage => "bad_mask_image",
            Field::Strength => "bad_strength",
            Field::ImageGuidanceScale => "bad_image_guidance_scale",
            Field::ClipSkip => "bad_clip_skip",
            Field::CacheInterval => "bad_cache_interval",
            Field::OriginalSize => "bad_original_size",
            Field::CropsCoordsTopLeft => "bad_crops_coords_top_left",
            Field::TargetSize => "bad_target_size",
            Field::AestheticScore => "bad_aesthetic_score",
            Field::NegativeAestheticScore => "bad_negative_aesthetic_score",
            Field::Timesteps => "bad_timesteps",
            Field::Sigmas => "bad_sigmas",
        }
    }

    /// Returns whether its cells hold whole numbers.
    pub fn is_whole(self) -> bool {
        use Field::*;
        matches!(self, Seed | NumInferenceSteps | Width | Height | NumImagesPerPrompt | ClipSkip | CacheInterval)
    }

    /// Returns whether its cells hold numbers.
    pub fn is_number(self) -> bool {
        use Field::*;
        let texts =
            matches!(self, Prompt | Id | NegativePrompt | Prompt2 | Prompt3 | NegativePrompt2 | NegativePrompt3);
        !texts && !matches!(self, Scheduler | Image | MaskImage | Timesteps | Sigmas)
    }
}

/// Columns that change pixels in diffusers or other tools and that we cannot honour yet. To pass them through to the
/// metadata would be to ignore them silently.
pub(super) const UNSUPPORTED: [&str; 9] = [
    "control_image",
    "ip_adapter_image",
    "lora",
    "loras",
    "controlnet",
    "controlnet_conditioning_scale",
    "denoising_end",
    "true_cfg_scale",
    "subseed",
];

/// Names that other tools use for a column of ours, and that are no aliases: with them a user means something, so they
/// may not slip through to the metadata unnoticed.
const FOREIGN: [(&str, Field); 24] = [
    ("negative", Field::NegativePrompt),
    ("neg_prompt", Field::NegativePrompt),
    ("negativeprompt", Field::NegativePrompt),
    ("random_seed", Field::Seed),
    ("noise_seed", Field::Seed),
    ("num_steps", Field::NumInferenceSteps),
    ("inference_steps", Field::NumInferenceSteps),
    ("sampling_steps", Field::NumInferenceSteps),
    ("n_steps", Field::NumInferenceSteps),
    ("guidance", Field::GuidanceScale),
    ("guidance_end", Field::GuidanceStop),
    ("cfg_end", Field::GuidanceStop),
    ("cfgscale", Field::GuidanceScale),
    ("sampler_name", Field::Scheduler),
    ("scheduler_name", Field::Scheduler),
    ("sampling_method", Field::Scheduler),
    ("resolution", Field::Size),
    ("image_size", Field::Size),
    ("w", Field::Width),
    ("h", Field::Height),
    ("n_samples", Field::NumImagesPerPrompt),
    ("images_per_prompt", Field::NumImagesPerPrompt),
    ("init_img", Field::Image),
    ("clipskip", Field::ClipSkip),
];

/// Spellings that are long and rare enough that a name one or two letters away is taken for a slip.
const SPELLINGS: [(&str, Field); 26] = [
    ("prompt", Field::Prompt),
    ("caption", Field::Prompt),
    ("custom_id", Field::Id),
    ("negative_prompt", Field::NegativePrompt),
    ("seed", Field::Seed),
    ("num_inference_steps", Field::NumInferenceSteps),
    ("steps", Field::NumInferenceSteps),
    ("guidance_scale", Field::GuidanceScale),
    ("cfg_scale", Field::GuidanceScale),
    ("guidance_rescale", Field::GuidanceRescale),
    ("guidance_start", Field::GuidanceStart),
    ("guidance_stop", Field::GuidanceStop),
    ("width", Field::Width),
    ("height", Field::Height),
    ("num_images_per_prompt", Field::NumImagesPerPrompt),
    ("num_images", Field::NumImagesPerPrompt),
    ("scheduler", Field::Scheduler),
    ("sampler", Field::Scheduler),
    ("mask_image", Field::MaskImage),
    ("init_image", Field::Image),
    ("strength", Field::Strength),
    ("clip_skip", Field::ClipSkip),
    ("cache_interval", Field::CacheInterval),
    ("original_size", Field::OriginalSize),
    ("target_size", Field::TargetSize),
    ("aesthetic_score", Field::AestheticScore),
];

/// Returns a column's name as it is compared: lower case, `_` for spaces and hyphens.
pub(super) fn normal(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

/// Returns the field of a name in normal form.
pub(super) fn field_named(normal: &str) -> Option<Field> {
    FIELDS.into_iter().find(|field| field.name() == normal || field.column().aliases.contains(&normal))
}

/// Returns the field that an unknown name in normal form was probably meant to be.
pub(super) fn misspelt(normal: &str) -> Option<Field> {
    let foreign = FOREIGN.iter().find(|(name, _)| *name == normal).map(|(_, field)| *field);
    let numbered = field_named(normal.trim_end_matches(|c: char| c == '_' || c.is_ascii_digit())).is_some();
    foreign.or_else(|| if numbered { None } else { near(normal) })
}

/// Returns the field whose spelling is one letter away, or two for long names, and begins alike.
fn near(normal: &str) -> Option<Field> {
    let close = |spelling: &str| {
        let allowed = if spelling.len() >= 8 { 2 } else { 1 };
        spelling.chars().next() == normal.chars().next()
            && normal.len().abs_diff(spelling.len()) <= 2 * allowed
            && strsim::osa_distance(spelling, normal) <= allowed
    };
    SPELLINGS.into_iter().find(|(spelling, _)| close(spelling)).map(|(_, field)| field)
}

/// Columns of the metadata that are ours.
const OURS: [&str; 29] = [
    "settings",
    "key",
    "id",
    "row",
    "row_index",
    "line",
    "prompt",
    "text",
    "model",
    "model_hash",
    "row_hash",
    "clip_score",
    "retries",
    "run",
    "status",
    "attempts",
    "batch_size",
    "device",
    "gpu",
    "time_start",
    "duration_ms",
    "bytes",
    "blake3",
    "nan_count",
    "luma_std",
    "tokens",
    "truncated",
    "version",
    "parameters",
];

/// Returns whether a pass-through column may not keep its name in the metadata: names of ours, and names to which the
/// `datasets` and `webdataset` loaders give a meaning.
pub(super) fn is_reserved(name: &str) -> bool {
    let lower = name.to_lowercase();
    OURS.contains(&lower.as_str())
        || field_named(&normal(name)).is_some()
        || ["image", "label"].contains(&lower.as_str())
        || lower.starts_with('_')
        || lower.ends_with("file_name")
        || lower.ends_with("file_names")
}

/// Returns the name that a reserved column gets in the metadata: `src_` before it. `datasets` takes every name that ends
/// in `_file_name` for a path, so that ending loses its `_`.
pub(super) fn unreserved(name: &str) -> String {
    let name = name.trim_start_matches('_');
    format!("src_{}", name.replace("file_name", "filename").replace("FILE_NAME", "FILENAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_columns_are_in_the_same_order() {
        for (field, column) in FIELDS.into_iter().zip(&COLUMNS) {
            assert_eq!(field.name(), column.name);
            assert_eq!(field.name().replace('_', ""), format!("{field:?}").to_lowercase());
            let code = field.code();
            assert_eq!(code, format!("bad_{}", column.name));
            assert!(column.aliases.iter().all(|alias| field_named(alias) == Some(field)));
        }
    }

    #[test]
    fn slips_are_told_from_other_words() {
        assert_eq!(misspelt("promt"), Some(Field::Prompt));
        assert_eq!(misspelt("seeds"), Some(Field::Seed));
        assert_eq!(misspelt("guidence_scale"), Some(Field::GuidanceScale));
        assert_eq!(misspelt("hieght"), Some(Field::Height));
        assert_eq!(misspelt("negative"), Some(Field::NegativePrompt));
        for word in ["weight", "site", "test", "color", "prompt_id", "seed_2", "step_name", "notes", "class"] {
            assert_eq!(misspelt(word), None, "{word}");
        }
    }

    #[test]
    fn reserved_names_are_freed_for_good() {
        for name in ["label", "text", "file_name", "mask_file_name", "Mask_File_Names", "__key__", "_x", "seed"] {
            assert!(is_reserved(name), "{name}");
        }
        assert_eq!(unreserved("mask_file_name"), "src_mask_filename");
        assert_eq!(unreserved("__key__"), "src_key__");
        for name in ["style", "split", "Class", "filename"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
