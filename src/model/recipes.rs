//! What each family's networks are used for: the one table of how pipelines differ (diffusers 0.42.1, `pipelines/`).

use std::path::Path;

use super::config::Config;
use super::family::{Family, unsupported};
use super::text_graph::Layer;
use super::unet_graph::{GuidanceInput, UnetGraph};
use crate::error::Result;
use crate::recipe::{
    GuidanceStyle, HiddenUse, ImageChannels, LatentSpace, PipelineDefaults, Recipe, TextRole, TimeIds,
};

/// What a family does with one of its text encoders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TextUse {
    pub layer: Layer,
    pub role: TextRole,
    /// Tokens, where the pipeline decides and not the tokenizer.
    pub max_sequence_length: Option<usize>,
}

impl TextUse {
    /// Returns whether `clip_skip` means this encoder: CLIP's, whose states the model takes.
    pub(super) fn has_layers_to_skip(self) -> bool {
        self.max_sequence_length.is_none() && self.layer != Layer::Unused
    }
}

const fn text(layer: Layer, hidden: HiddenUse, pooled: bool) -> TextUse {
    TextUse { layer, role: TextRole { hidden, pooled }, max_sequence_length: None }
}

const CLIP: TextUse = text(Layer::Last, HiddenUse::Features, false);
const XL_FIRST: TextUse = text(Layer::Penultimate, HiddenUse::Features, false);
const XL_LAST: TextUse = text(Layer::Penultimate, HiddenUse::Features, true);
const SD3_T5: TextUse = text(Layer::Last, HiddenUse::Sequence, false);
const FLUX_CLIP: TextUse = text(Layer::Unused, HiddenUse::Unused, true);
const FLUX_T5: TextUse = TextUse { max_sequence_length: Some(512), ..text(Layer::Last, HiddenUse::Features, false) };

/// Token ids of CLIP's tokenizers, and those of T5 in diffusers' SD3 pipelines.
const CLIP_TOKENS: usize = 77;
const SD3_T5_TOKENS: usize = 256;

/// Returns the token ids of T5 in SD3: as many as the transformer takes besides CLIP's, where its graph fixes them
/// (NVIDIA's demo of SD3 takes 154 in all).
fn t5_tokens(unet: &UnetGraph) -> usize {
    unet.encoder_hidden_states.fixed(1).and_then(|all| all.checked_sub(CLIP_TOKENS)).unwrap_or(SD3_T5_TOKENS)
}

/// Returns the use of each text encoder that the folder has; `there` says which of the three it has.
pub(super) fn text_uses(family: Family, there: [bool; 3], unet: &UnetGraph) -> Vec<Option<TextUse>> {
    let sd3_t5 = TextUse { max_sequence_length: Some(t5_tokens(unet)), ..SD3_T5 };
    match (family, there) {
        (Family::StableDiffusion, _) => vec![Some(CLIP)],
        // The refiner has the second encoder only.
        (Family::StableDiffusionXl, [first, _, _]) => vec![first.then_some(XL_FIRST), Some(XL_LAST)],
        (Family::StableDiffusion3, [_, _, third]) => vec![Some(XL_LAST), Some(XL_LAST), third.then_some(sd3_t5)],
        (Family::Flux, _) => vec![Some(FLUX_CLIP), Some(FLUX_T5)],
    }
}

/// What a recipe is made from.
pub(super) struct Facts<'a> {
    pub dir: &'a Path,
    pub family: Family,
    pub class_name: &'a str,
    pub index: Option<&'a Config>,
    pub unet_config: Option<&'a Config>,
    pub unet: &'a UnetGraph,
    pub uses: Vec<TextUse>,
    pub latents: LatentSpace,
}

impl Facts<'_> {
    /// Returns how the model's networks are used.
    ///
    /// # Errors
    /// The UNet takes channels that no pipeline of ours has, or a config holds something of the wrong type.
    pub(super) fn recipe(self) -> Result<Recipe> {
        let transformer = matches!(self.family, Family::StableDiffusion3 | Family::Flux);
        let image_channels = self.image_channels()?;
        let has_t5 = self.uses.iter().any(|text| text.role.hidden == HiddenUse::Sequence);
        let absent = self.family == Family::StableDiffusion3 && !has_t5;
        Ok(Recipe {
            absent_sequence: if absent { Some((t5_tokens(self.unet), self.joint_attention_dim()?)) } else { None },
            guidance: self.guidance(image_channels),
            zeros_for_no_negative: self.zeros_for_no_negative()?,
            time_ids: self.time_ids()?,
            image_channels,
            clip_skip: self.uses.iter().any(|text| text.has_layers_to_skip()),
            strength_keeps_steps: self.class_name.contains("LatentConsistency"),
            patch_size: if transformer { Some(self.patch_size()?) } else { None },
            linear_sigmas: self.family == Family::Flux,
            defaults: self.defaults(image_channels),
            texts: self.uses.iter().map(|text| text.role).collect(),
            latents: self.latents,
        })
    }

    fn guidance(&self, image_channels: ImageChannels) -> GuidanceStyle {
        let embedded = matches!(self.unet.guidance, Some(GuidanceInput::Embedding(_))) || self.family == Family::Flux;
        match image_channels {
            _ if embedded => GuidanceStyle::Embedded,
            ImageChannels::Image => GuidanceStyle::TextAndImage,
            _ => GuidanceStyle::ClassifierFree,
        }
    }

    /// SDXL's own config says so; without one, what the base model's says.
    fn zeros_for_no_negative(&self) -> Result<bool> {
        if self.family != Family::StableDiffusionXl {
            return Ok(false);
        }
        let said = self.index.map_or(Ok(None), |index| index.flag("force_zeros_for_empty_prompt"))?;
        Ok(said.unwrap_or(true))
    }

    /// Five ids are the refiner's.
    fn time_ids(&self) -> Result<Option<TimeIds>> {
        let Some(input) = &self.unet.time_ids else { return Ok(None) };
        let said = self.index.map_or(Ok(None), |index| index.flag("requires_aesthetics_score"))?;
        let scored = said.unwrap_or(input.fixed(1) == Some(5));
        Ok(Some(if scored { TimeIds::AestheticScore } else { TimeIds::Sizes }))
    }

    fn image_channels(&self) -> Result<ImageChannels> {
        let latents = self.latents.channels;
        let Some(channels) = self.unet.sample.fixed(1).filter(|_| !self.unet.packed()) else {
            return Ok(ImageChannels::None);
        };
        match channels.checked_sub(latents) {
            Some(0) => Ok(ImageChannels::None),
            Some(extra) if extra == latents + 1 => Ok(ImageChannels::MaskAndImage),
            Some(extra) if extra == latents => Ok(ImageChannels::Image),
            // A UNet for another VAE: what does not fit is told where the parts are compared.
            None => Ok(ImageChannels::None),
            Some(_) => Err(unsupported(
                self.dir,
                &format!("a UNet that takes {channels} channels with latents of {latents} (depth, upscaling)"),
            )),
        }
    }

    fn joint_attention_dim(&self) -> Result<usize> {
        let said = self.unet_config.map_or(Ok(None), |config| config.count("joint_attention_dim"))?;
        Ok(self.unet.encoder_hidden_states.fixed(2).or(said).unwrap_or(4096))
    }

    /// Flux's transformer has patches of 1 on latents that are packed 2×2 before.
    fn patch_size(&self) -> Result<u32> {
        let said = self.unet_config.map_or(Ok(None), |config| config.count("patch_size"))?;
        let patch = if self.unet.packed() { 2 } else { said.unwrap_or(2) };
        Ok(u32::try_from(patch).unwrap_or(2).max(1))
    }

    /// The defaults of `__call__`.
    fn defaults(&self, image_channels: ImageChannels) -> PipelineDefaults {
        let (num_inference_steps, guidance_scale, strength, inpaint_strength) = match self.family {
            Family::StableDiffusion if self.class_name.contains("LatentConsistency") => (4, 8.5, 0.8, 1.0),
            Family::StableDiffusion if image_channels == ImageChannels::Image => (100, 7.5, 1.0, 1.0),
            Family::StableDiffusion => (50, 7.5, 0.8, 1.0),
            Family::StableDiffusionXl => (50, 5.0, 0.3, 0.9999),
            Family::StableDiffusion3 => (28, 7.0, 0.6, 0.6),
            Family::Flux => (28, 3.5, 0.6, 0.6),
        };
        PipelineDefaults { num_inference_steps, guidance_scale, strength, inpaint_strength }
    }
}
