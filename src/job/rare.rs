//! What few rows set, kept apart so that a plain row is small: a manifest may have a million.

use std::sync::Arc;

use super::{FurtherTexts, ImageInput, Job, MicroConditioning};

/// Settings that most rows leave as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Rare {
    /// Rescale factor of the guided prediction, 0 = off.
    pub guidance_rescale: f64,
    /// Share of the evaluations before which guidance is off, 0 to 1; see [`Job::guided`].
    pub guidance_start: f64,
    /// Share of the evaluations from which on it is off, 0 to 1.
    pub guidance_stop: f64,
    /// Share of fresh noise per step of DDIM, 0 to 1.
    pub eta: f64,
    /// Texts for further text encoders.
    pub texts: FurtherTexts,
    /// What SDXL is told besides.
    pub micro: MicroConditioning,
    /// Last layers of the text encoder to skip for the prompt.
    pub clip_skip: u32,
    /// The UNet's inner blocks are evaluated every so many evaluations only; 1 for always.
    pub cache_interval: u32,
    /// The picture to start from.
    pub image: Option<ImageInput>,
    /// What of it to make anew: white.
    pub mask_image: Option<ImageInput>,
    /// How much of it is made anew, above 0 to 1.
    pub strength: f64,
    /// How much it weighs (InstructPix2Pix).
    pub image_guidance_scale: f64,
    /// Timesteps in place of the schedule's own.
    pub timesteps: Option<Arc<[f64]>>,
    /// Noise levels in place of the schedule's own.
    pub sigmas: Option<Arc<[f64]>>,
}

/// What a row has that sets nothing of it.
static NOTHING: Rare = Rare {
    guidance_rescale: 0.0,
    guidance_start: 0.0,
    guidance_stop: 1.0,
    eta: 0.0,
    texts: FurtherTexts { prompt_2: None, prompt_3: None, negative_prompt_2: None, negative_prompt_3: None },
    micro: MicroConditioning {
        original_size: None,
        crops_coords_top_left: None,
        target_size: None,
        aesthetic_score: None,
        negative_aesthetic_score: None,
    },
    clip_skip: 0,
    cache_interval: 1,
    image: None,
    mask_image: None,
    strength: 1.0,
    image_guidance_scale: 1.5,
    timesteps: None,
    sigmas: None,
};

impl Default for Rare {
    fn default() -> Self {
        NOTHING.clone()
    }
}

impl Job {
    /// Returns the settings that most rows leave as they are.
    pub fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING)
    }

    /// Returns them for a change.
    pub fn rare_mut(&mut self) -> &mut Rare {
        Arc::make_mut(self.rare.get_or_insert_default())
    }

    /// Lets go of settings that are as they would be anyway, and shares those that are equal to `known`, which becomes the
    /// last one that was kept: neighbouring rows mostly have the same.
    pub fn share_rare(&mut self, known: &mut Option<Arc<Rare>>) {
        match &self.rare {
            Some(rare) if **rare == NOTHING => self.rare = None,
            Some(_) if *known == self.rare => self.rare.clone_from(known),
            Some(_) => known.clone_from(&self.rare),
            None => {}
        }
    }
}
