//! What makes one model's pipeline differ from another's, as data. `model` reads it from configs and graph signatures; the
//! engine follows it and knows of no families. Leaf types that everyone may use.

use ndarray::{Array3, ArrayView3};
use serde::Serialize;

/// How a model's networks are used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// What is done with each text encoder's output, in the order of the encoders.
    pub texts: Vec<TextRole>,
    /// Tokens and width of the zeros that stand for a text encoder which the model may lack and this one does
    /// (SD3 without T5; diffusers 0.42.1, `_get_t5_prompt_embeds`).
    pub absent_sequence: Option<(usize, usize)>,
    /// Whether there is a text encoder whose last layers can be skipped.
    pub clip_skip: bool,
    /// What the guidance scale does.
    pub guidance: GuidanceStyle,
    /// Whether a row without `negative_prompt` gets embeddings of zeros, not those of the empty text
    /// (`force_zeros_for_empty_prompt`).
    pub zeros_for_no_negative: bool,
    /// What `time_ids` hold, if the UNet takes them.
    pub time_ids: Option<TimeIds>,
    /// Channels that the UNet takes besides the latents'.
    pub image_channels: ImageChannels,
    /// The space that denoising works in.
    pub latents: LatentSpace,
    /// Whether `strength` leaves the number of steps as it is; see `ScheduleRequest`.
    pub strength_keeps_steps: bool,
    /// Latent cells (a side) per token of a transformer, for dynamic shifting; `None` for UNets.
    pub patch_size: Option<u32>,
    /// Whether the sigmas handed to the scheduler are `1 … 1/n` (Flux) rather than its own.
    pub linear_sigmas: bool,
    /// Values for cells that neither the manifest nor a flag fills.
    pub defaults: PipelineDefaults,
}

/// What is done with the output of one text encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TextRole {
    /// Where its hidden states go.
    pub hidden: HiddenUse,
    /// Whether its pooled output is a part of the pooled embeddings.
    pub pooled: bool,
}

/// Where an encoder's hidden states go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum HiddenUse {
    /// Beside those of other encoders, along the width.
    Features,
    /// After those of other encoders, along the sequence; narrower ones are filled up with zeros.
    Sequence,
    /// Nowhere.
    Unused,
}

/// What the guidance scale does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum GuidanceStyle {
    /// Weighs a prediction with the prompt against one with the negative prompt; off up to 1.
    ClassifierFree,
    /// Is an input of the network (latent consistency models, guidance-distilled Flux), or has no effect (Flux schnell).
    Embedded,
    /// Weighs three predictions: with prompt and image, with the image only, with neither (InstructPix2Pix).
    TextAndImage,
}

/// What `time_ids` hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TimeIds {
    /// Original size, top left corner of the crop, target size.
    Sizes,
    /// Original size, top left corner of the crop, aesthetic score (SDXL's refiner).
    AestheticScore,
}

/// Channels that the UNet takes besides the latents'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ImageChannels {
    /// None.
    None,
    /// A mask, and the latents of the picture without what it covers (inpainting models).
    MaskAndImage,
    /// The latents of a picture (InstructPix2Pix).
    Image,
}

/// The space that denoising works in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatentSpace {
    /// Channels.
    pub channels: usize,
    /// Pixels per latent cell.
    pub vae_scale_factor: u32,
    /// What latents are multiplied by after encoding and divided by before decoding.
    pub scaling_factor: f64,
    /// What is subtracted from latents after encoding and added before decoding, as diffusers does for models that have it.
    pub shift_factor: f64,
    /// Mean and standard deviation of each channel, in place of the shift, for VAEs that say them.
    pub statistics: Option<Vec<(f64, f64)>>,
}

/// Values for cells that neither the manifest nor a flag fills: those of diffusers' `__call__`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PipelineDefaults {
    /// Denoising steps.
    pub num_inference_steps: u32,
    /// Guidance weight.
    pub guidance_scale: f64,
    /// How much of a given image is made anew.
    pub strength: f64,
    /// The same with a mask.
    pub inpaint_strength: f64,
}

impl Recipe {
    /// Returns whether a row must name a picture.
    pub fn needs_image(&self) -> bool {
        self.image_channels != ImageChannels::None || self.time_ids == Some(TimeIds::AestheticScore)
    }

    /// Returns how many lanes each evaluation takes at this guidance.
    pub fn lanes(&self, guidance_scale: f64, image_guidance_scale: f64) -> usize {
        match self.guidance {
            GuidanceStyle::ClassifierFree if guidance_scale > 1.0 => 2,
            GuidanceStyle::TextAndImage if guidance_scale > 1.0 && image_guidance_scale >= 1.0 => 3,
            _ => 1,
        }
    }

    /// Returns how many tokens of a transformer a picture of this size in pixels makes; 0 for UNets.
    pub fn image_seq_len(&self, width: u32, height: u32) -> u32 {
        let Some(patch) = self.patch_size else { return 0 };
        let side = |pixels: u32| pixels / self.latents.vae_scale_factor / patch;
        side(width) * side(height)
    }
}

impl LatentSpace {
    /// Returns `latents` `[channels, h, w]` as the VAE's decoder takes them: `latents / scaling_factor + shift_factor`, or
    /// `latents · std / scaling_factor + mean` by channel, in f32 and in diffusers' order.
    pub fn denormalized(&self, latents: ArrayView3<'_, f32>) -> Array3<f32> {
        let factor = self.scaling_factor as f32;
        let mut result = latents.to_owned();
        for (channel, mut plane) in result.outer_iter_mut().enumerate() {
            match self.channel(channel) {
                Some((mean, std)) => plane.mapv_inplace(|value| value * std / factor + mean),
                None => plane.mapv_inplace(|value| value / factor + self.shift_factor as f32),
            }
        }
        result
    }

    /// Returns what the VAE's encoder gave, `[channels, h, w]`, as denoising takes it: the inverse of
    /// [`LatentSpace::denormalized`].
    pub fn normalized(&self, encoded: ArrayView3<'_, f32>) -> Array3<f32> {
        let (factor, shift) = (self.scaling_factor as f32, self.shift_factor as f32);
        let mut result = encoded.to_owned();
        for (channel, mut plane) in result.outer_iter_mut().enumerate() {
            match self.channel(channel) {
                Some((mean, std)) => plane.mapv_inplace(|value| (value - mean) * factor / std),
                None => plane.mapv_inplace(|value| (value - shift) * factor),
            }
        }
        result
    }

    /// Returns mean and standard deviation of a channel, where the VAE says them.
    fn channel(&self, channel: usize) -> Option<(f32, f32)> {
        let (mean, std) = self.statistics.as_ref()?.get(channel)?;
        Some((*mean as f32, *std as f32))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns the recipe of Stable Diffusion 1.
    pub(crate) fn recipe() -> Recipe {
        Recipe {
            texts: vec![TextRole { hidden: HiddenUse::Features, pooled: false }],
            absent_sequence: None,
            clip_skip: true,
            guidance: GuidanceStyle::ClassifierFree,
            zeros_for_no_negative: false,
            time_ids: None,
            image_channels: ImageChannels::None,
            latents: LatentSpace {
                channels: 4,
                vae_scale_factor: 8,
                scaling_factor: 0.18215,
                shift_factor: 0.0,
                statistics: None,
            },
            strength_keeps_steps: false,
            patch_size: None,
            linear_sigmas: false,
            defaults: PipelineDefaults {
                num_inference_steps: 50,
                guidance_scale: 7.5,
                strength: 0.8,
                inpaint_strength: 1.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::recipe;
    use super::*;

    #[test]
    fn guidance_decides_the_lanes() {
        let plain = recipe();
        assert_eq!((plain.lanes(7.5, 1.5), plain.lanes(1.0, 1.5)), (2, 1));
        let embedded = Recipe { guidance: GuidanceStyle::Embedded, ..recipe() };
        assert_eq!(embedded.lanes(7.5, 1.5), 1);
        let edit = Recipe { guidance: GuidanceStyle::TextAndImage, ..recipe() };
        assert_eq!((edit.lanes(7.5, 1.5), edit.lanes(7.5, 0.9), edit.lanes(1.0, 1.5)), (3, 1, 1));
    }

    #[test]
    fn latents_go_to_the_vae_and_back() {
        let latents = Array3::from_shape_fn((4, 2, 3), |(c, y, x)| (c + y + x) as f32 - 2.0);
        let plain = LatentSpace { shift_factor: 0.06, ..recipe().latents };
        let by_channel = LatentSpace { statistics: Some(vec![(0.5, 2.0); 4]), ..recipe().latents };
        for space in [plain, by_channel] {
            let back = space.normalized(space.denormalized(latents.view()).view());
            assert!((&back - &latents).iter().all(|difference| difference.abs() < 1e-5));
            assert_ne!(space.denormalized(latents.view()), latents);
        }
    }

    #[test]
    fn tokens_of_a_transformer_are_patches() {
        let flux = Recipe { patch_size: Some(2), ..recipe() };
        assert_eq!((flux.image_seq_len(1024, 512), recipe().image_seq_len(1024, 512)), (64 * 32, 0));
    }
}
