//! Where an image starts: noise, or a given picture; with a mask, also what of the picture is kept.
//!
//! Draws from the image's noise in the order of diffusers' pipelines (0.42.1): the encoder's sample of the picture, the
//! initial noise, the encoder's sample of the masked picture (drawn even by models that have no use for it).
//!
//! What the encoder gave of a picture is kept for a while: the images of a row, and often those of many rows, start from the same.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use ndarray::{Array2, Array3, Axis, concatenate};

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
    /// What the encoder gave last, the newest at the end; at most [`KEPT_ENCODINGS`].
    encoded: VecDeque<(Source, LatentDistribution)>,
}

/// Encodings that are kept: 8 MB for a picture of 2048×2048 pixels with latents of 16 channels.
const KEPT_ENCODINGS: usize = 16;

/// What the encoder is given: a picture, with what a mask covers left out, at a size.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    image: ImageInput,
    mask: Option<ImageInput>,
    size: (u32, u32),
}

impl Source {
    fn of(job: &Job, image: &ImageInput) -> Self {
        Source { image: image.clone(), mask: None, size: (job.width, job.height) }
    }
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
        Images { recipe, vae, read, encoded: VecDeque::new() }
    }

    /// Returns where the image of `job` starts on `schedule`.
    pub(super) fn start(&mut self, job: &Job, schedule: &Arc<Schedule>, noise: &mut dyn Noise) -> Result<Start> {
        let shape = latent_shape(&self.recipe.latents, job);
        let Some(image) = &job.rare().image else {
            return Ok(Start::of(schedule.start(noise.draw(shape)), None, None));
        };
        let source = Source::of(job, image);
        match (&job.rare().mask_image, self.recipe.image_channels) {
            (Some(mask), _) => self.inpaint(job, (source, mask), schedule, noise),
            (None, ImageChannels::Image) => {
                let latents = self.encode(&source)?.mean;
                let sampler = schedule.start(noise.draw(shape));
                Ok(Start::of(sampler, Some(latents), None))
            }
            (None, _) => {
                let latents = self.latents(&source, noise)?;
                let fresh = noise.draw(shape);
                let noised = schedule.add_noise(0, latents.view(), fresh.view());
                Ok(Start::of(schedule.start_from(noised), None, None))
            }
        }
    }

    fn inpaint(
        &mut self,
        job: &Job,
        (source, mask): (Source, &ImageInput),
        schedule: &Arc<Schedule>,
        noise: &mut dyn Noise,
    ) -> Result<Start> {
        let shape = latent_shape(&self.recipe.latents, job);
        let small = pixels::nearest(self.mask(mask, source.size)?.view(), shape.1, shape.2).insert_axis(Axis(0));
        let sees_mask = self.recipe.image_channels == ImageChannels::MaskAndImage;
        let full = job.rare().strength >= 1.0;
        let latents = if sees_mask && full { None } else { Some(self.latents(&source, noise)?) };
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
        let masked = self.latents(&Source { mask: Some(mask.clone()), ..source }, noise)?;
        let channels = concatenate(Axis(0), &[small.view(), masked.view()]).expect("both have the latents' size");
        Ok(Start::of(sampler, Some(channels), None))
    }

    fn pixels(&self, Source { image, mask, size }: &Source) -> Result<Array3<f32>> {
        let pixels = pixels::preprocess_image(&(self.read)(&image.path)?, size.0, size.1);
        match mask {
            Some(mask) => Ok(pixels::masked(&pixels, self.mask(mask, *size)?.view())),
            None => Ok(pixels),
        }
    }

    fn mask(&self, mask: &ImageInput, (width, height): (u32, u32)) -> Result<Array2<f32>> {
        Ok(pixels::preprocess_mask(&(self.read)(&mask.path)?, width, height))
    }

    /// Returns a sample of the picture's latents, scaled.
    fn latents(&mut self, source: &Source, noise: &mut dyn Noise) -> Result<Array3<f32>> {
        let sample = self.encode(source)?.sample(noise);
        Ok(self.recipe.latents.normalized(sample.view()))
    }

    /// Returns what the encoder gives of a picture, or gave before. An encoder that gives latents and not their distribution
    /// may have drawn them, so that each image is due its own; and what is not finite shall not come again when the image is
    /// made once more.
    fn encode(&mut self, source: &Source) -> Result<LatentDistribution> {
        if let Some((_, encoded)) = self.encoded.iter().find(|(known, _)| known == source) {
            return Ok(encoded.clone());
        }
        let pixels = self.pixels(source)?;
        let encoded = self.encode_now(&pixels)?;
        let is_finite = |values: &Array3<f32>| values.iter().all(|value| value.is_finite());
        if encoded.std.as_ref().is_some_and(is_finite) && is_finite(&encoded.mean) {
            self.encoded.push_back((source.clone(), encoded.clone()));
            self.encoded.drain(..self.encoded.len().saturating_sub(KEPT_ENCODINGS));
        }
        Ok(encoded)
    }

    fn encode_now(&mut self, pixels: &Array3<f32>) -> Result<LatentDistribution> {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use super::*;
    use crate::job::testing::job;
    use crate::noise::NoiseKind;
    use crate::recipe::testing::recipe;
    use crate::scheduler::{ScheduleRequest, SchedulerConfig};

    /// An encoder that gives averages of the pixels, and counts.
    struct Averages {
        calls: usize,
        draws: bool,
    }

    impl VaeEncoder for Averages {
        fn encode(&mut self, pixels: ndarray::ArrayView3<'_, f32>) -> Result<LatentDistribution> {
            self.calls += 1;
            let (height, width) = (pixels.dim().1 / 8, pixels.dim().2 / 8);
            let mean = Array3::from_elem((4, height, width), pixels.mean().unwrap_or_default());
            let std = (!self.draws).then(|| Array3::from_elem(mean.dim(), 0.5));
            Ok(LatentDistribution { mean, std })
        }
    }

    fn input(name: &str) -> ImageInput {
        ImageInput { path: PathBuf::from(name), hash: name.to_string(), size: (64, 64) }
    }

    /// Returns the first latents of each job, started one after the other by the same images, or each by its own.
    fn starts(jobs: &[Job], draws: bool, together: bool) -> (Vec<Array3<f32>>, usize, usize) {
        let recipe = recipe();
        let config = SchedulerConfig::from_json(r#"{"_class_name": "DDIMScheduler"}"#).expect("a config");
        let request = ScheduleRequest { strength: Some(0.5), ..ScheduleRequest::steps(10) };
        let schedule = Arc::new(config.schedule(&request).expect("a schedule"));
        let reads = RefCell::new(0);
        let read = |path: &Path| {
            *reads.borrow_mut() += 1;
            let shade = path.as_os_str().len() as u8;
            Ok(RgbImage::from_fn(64, 64, |x, y| image::Rgb([shade, (x * 3) as u8, (y * 4) as u8])))
        };
        let mut vae = Averages { calls: 0, draws };
        let mut made = Vec::new();
        for group in jobs.chunks(if together { jobs.len() } else { 1 }) {
            let mut images = Images::new(&recipe, Some(&mut vae), &read);
            for job in group {
                let mut noise = NoiseKind::TorchCpu.source(job.seed.expect("given"));
                let start = images.start(job, &schedule, &mut *noise).expect("a start");
                made.push(start.sampler.request().expect("an evaluation").model_input);
                if let Some(kept) = start.kept {
                    made.push(kept.image_latents);
                    made.push(kept.mask);
                }
            }
        }
        (made, vae.calls, reads.into_inner())
    }

    fn jobs() -> Vec<Job> {
        let of = |seed: u64, name: &str, mask: Option<&str>, width: u32| {
            let mut job = Job { seed: Some(seed), width, ..job(seed) };
            job.rare_mut().image = Some(input(name));
            job.rare_mut().mask_image = mask.map(input);
            job.rare_mut().strength = 0.5;
            job
        };
        let more = (0..KEPT_ENCODINGS as u64).map(|i| of(i, &"n".repeat(9 + i as usize), None, 64));
        let few = [
            of(1, "a", None, 64),
            of(2, "a", None, 64),
            of(1, "bb", None, 64),
            of(3, "a", None, 128),
            of(4, "a", Some("mmm"), 64),
            of(5, "a", Some("mmmm"), 64),
        ];
        few.into_iter().chain(more).chain([of(6, "a", None, 64)]).collect()
    }

    #[test]
    fn a_picture_is_encoded_once_and_starts_are_what_they_were() {
        let (jobs, few) = (jobs(), 6);
        let (once, calls, _) = starts(&jobs[..few], false, true);
        let (each, all, _) = starts(&jobs[..few], false, false);
        assert_eq!((calls, all), (3, 6), "a, bb, a at another size");
        assert!(once == each, "the same bits");
        let (again, calls, _) = starts(&jobs, false, true);
        assert_eq!(calls, 3 + KEPT_ENCODINGS + 1, "forgotten after as many others");
        assert!(again[..once.len()] == once[..]);
    }

    #[test]
    fn an_encoder_that_draws_does_so_for_each_image() {
        let (_, calls, reads) = starts(&jobs()[..2], true, true);
        assert_eq!((calls, reads), (2, 2));
    }
}
