//! Where an image starts: noise, or a given picture; with a mask, also what of the picture is kept.
//!
//! Draws from the image's noise in the order of diffusers' pipelines (0.42.1): the encoder's sample of the picture, the
//! initial noise, the encoder's sample of the masked picture (drawn even by models that have no use for it).

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use ndarray::{Array3, Axis, concatenate};

use super::member::Kept;
use super::networks::{LatentDistribution, VaeEncoder};
use crate::error::{Error, ErrorKind, Result};
use crate::job::{ImageInput, Job};
use crate::noise::Noise;
use crate::pixels;
use crate::recipe::{ImageChannels, LatentSpace, Recipe};
use crate::scheduler::{Sampler, Schedule};

/// Reads the pictures that rows name.
pub type ReadImage<'a> = dyn Fn(&Path) -> Result<RgbImage> + 'a;

/// See the module's text.
pub struct Images<'a> {
    recipe: &'a Recipe,
    vae: Option<&'a mut dyn VaeEncoder>,
    read: &'a ReadImage<'a>,
}

/// Where an image starts.
pub(super) struct Start {
    /// At its initial latents.
    pub sampler: Box<dyn Sampler>,
    /// What the network sees besides.
    pub image_channels: Option<Arc<Array3<f32>>>,
    /// What is put back after each evaluation.
    pub kept: Option<Kept>,
}

/// Returns the share of the steps that an image takes, where it starts from a picture; `None` where it starts from noise.
pub(super) fn partial_strength(recipe: &Recipe, job: &Job) -> Option<f64> {
    (job.rare().image.is_some() && recipe.image_channels != ImageChannels::Image).then_some(job.rare().strength)
}

impl<'a> Images<'a> {
    /// Returns starts for images of a model. `vae` may be `None` where no row names a picture.
    pub fn new(recipe: &'a Recipe, vae: Option<&'a mut dyn VaeEncoder>, read: &'a ReadImage<'a>) -> Self {
        Images { recipe, vae, read }
    }

    /// Returns where the image of `job` starts on `schedule`.
    pub(super) fn start(&mut self, job: &Job, schedule: &Arc<Schedule>, noise: &mut dyn Noise) -> Result<Start> {
        let shape = latent_shape(&self.recipe.latents, job);
        let Some(image) = &job.rare().image else {
            return Ok(Start::of(schedule.start(noise.draw(shape)), None, None));
        };
        let pixels = self.pixels(image, job)?;
        match (&job.rare().mask_image, self.recipe.image_channels) {
            (Some(mask), _) => self.inpaint(job, (&pixels, mask), schedule, noise),
            (None, ImageChannels::Image) => {
                let latents = self.encode(&pixels)?.mean;
                let sampler = schedule.start(noise.draw(shape));
                Ok(Start::of(sampler, Some(latents), None))
            }
            (None, _) => {
                let latents = self.latents(&pixels, noise)?;
                let fresh = noise.draw(shape);
                let noised = schedule.add_noise(0, latents.view(), fresh.view());
                Ok(Start::of(schedule.start_from(noised), None, None))
            }
        }
    }

    fn inpaint(
        &mut self,
        job: &Job,
        (pixels, mask): (&Array3<f32>, &ImageInput),
        schedule: &Arc<Schedule>,
        noise: &mut dyn Noise,
    ) -> Result<Start> {
        let shape = latent_shape(&self.recipe.latents, job);
        let mask = pixels::preprocess_mask(&(self.read)(&mask.path)?, job.width, job.height);
        let small = pixels::nearest(mask.view(), shape.1, shape.2).insert_axis(Axis(0));
        let sees_mask = self.recipe.image_channels == ImageChannels::MaskAndImage;
        let full = job.rare().strength >= 1.0;
        let latents = if sees_mask && full { None } else { Some(self.latents(pixels, noise)?) };
        let fresh = noise.draw(shape);
        let sampler = match &latents {
            Some(latents) if !full => schedule.start_from(schedule.add_noise(0, latents.view(), fresh.view())),
            _ => schedule.start(fresh.clone()),
        };
        if !sees_mask {
            // diffusers encodes the masked picture here too, and throws it away.
            noise.draw(shape);
            let image_latents = latents.expect("only models that see the mask go without the picture's latents");
            return Ok(Start::of(sampler, None, Some(Kept { mask: small, image_latents, noise: fresh })));
        }
        let masked = self.latents(&pixels::masked(pixels, mask.view()), noise)?;
        let channels = concatenate(Axis(0), &[small.view(), masked.view()]).expect("both have the latents' size");
        Ok(Start::of(sampler, Some(channels), None))
    }

    fn pixels(&self, image: &ImageInput, job: &Job) -> Result<Array3<f32>> {
        Ok(pixels::preprocess_image(&(self.read)(&image.path)?, job.width, job.height))
    }

    /// Returns a sample of the picture's latents, scaled (diffusers: `retrieve_latents`).
    fn latents(&mut self, pixels: &Array3<f32>, noise: &mut dyn Noise) -> Result<Array3<f32>> {
        let LatentDistribution { mean, std } = self.encode(pixels)?;
        let sample = match std {
            Some(std) => {
                let fresh = noise.draw(std.dim());
                mean + std * fresh
            }
            None => mean,
        };
        Ok(self.recipe.latents.normalized(sample.view()))
    }

    fn encode(&mut self, pixels: &Array3<f32>) -> Result<LatentDistribution> {
        let encoder = self.vae.as_deref_mut().ok_or_else(|| {
            Error::new(
                ErrorKind::Unexpected,
                "no_vae_encoder",
                "the VAE encoder was not loaded for a row with an image",
            )
        })?;
        encoder.encode(pixels.view()).map_err(|error| match error.kind() {
            ErrorKind::GpuLost => error,
            _ => Error::new(ErrorKind::Row, "vae_failed", format!("the VAE encoder failed: {error}")).source(error),
        })
    }
}

impl Start {
    fn of(sampler: Box<dyn Sampler>, image_channels: Option<Array3<f32>>, kept: Option<Kept>) -> Self {
        Start { sampler, image_channels: image_channels.map(Arc::new), kept }
    }
}

fn latent_shape(space: &LatentSpace, job: &Job) -> (usize, usize, usize) {
    let side = |pixels: u32| (pixels / space.vae_scale_factor) as usize;
    (space.channels, side(job.height), side(job.width))
}
