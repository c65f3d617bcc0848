//! A trace's frames: the networks at work on one image.

use image::RgbImage;
use ndarray::{Array3, Axis};

use super::TraceOptions;
use super::frames::Frame;
use crate::engine::{Embeddings, Images, Schedules, Starter, Traced, VaeDecoder, VaeEncoder, sigma, trace as follow};
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::noise::NoiseKind;
use crate::onnx::{GpuOptions, Networks, Runtime, SessionOptions};
use crate::pixels::{preprocess_image, to_rgb8};
use crate::plan::{plan, tasks};
use crate::recipe::LatentSpace;
use crate::run::options::VaeTiling;
use crate::run::prepare::Prepared;
use crate::run::tiling::TilingDecoder;
use crate::run::worker::{read_image, text_parts};

/// Makes the image of the only row; returns its frames in order, those of the way forward first.
///
/// # Errors
/// The model, the device or a network fails, or nothing is known of the scheduler's guesses.
pub fn frames(prepared: &Prepared, options: &TraceOptions) -> Result<Vec<Frame>> {
    let (spec, recipe) = (&prepared.spec, &prepared.spec.recipe);
    let all = tasks(&prepared.jobs, prepared.defaults.seed);
    let task = &all[0];
    let mut networks = load(prepared, options, task)?;
    let forward = match (&task.job.rare().image, &mut networks.vae_encoder) {
        (Some(_), Some(encoder)) => forward(prepared, options.job.noise, task, encoder)?,
        _ => Vec::new(),
    };
    let plan = plan(vec![task.clone()]);
    let texts = text_parts(&mut networks.text_encoders, prepared);
    let embeddings = Embeddings::new(texts, recipe, options.job.prompts, &plan);
    let encoder = networks.vae_encoder.as_mut().map(|encoder| encoder as &mut dyn VaeEncoder);
    let images = Images::new(recipe, encoder, &read_image);
    let mut starter = Starter::new(embeddings, images, recipe, &prepared.scheduler_config, options.job.noise);
    let config = prepared.scheduler_config.select(&task.job.scheduler)?;
    let traced = follow(&mut starter, &mut networks.unet, &config, task)?;
    let mut vae = TilingDecoder::new(&mut networks.vae_decoder, spec, VaeTiling::Auto)?;
    let fine = networks.vae_decoder_fp32.as_mut();
    let mut fine = fine.map(|vae| TilingDecoder::new(vae, spec, VaeTiling::Auto)).transpose()?;
    let fine = fine.as_mut().map(|vae| vae as &mut dyn VaeDecoder);
    Decoder { latents: &recipe.latents, vae: &mut vae, fine }.frames(forward, traced)
}

fn load(prepared: &Prepared, options: &TraceOptions, task: &ImageTask) -> Result<Networks> {
    let runtime = Runtime::load(options.ort_lib.as_deref())?;
    let session = SessionOptions {
        kernels: options.kernels,
        device: options.device,
        threads: options.threads.unwrap_or(0),
        gpu: GpuOptions::default(),
        keep_features: false,
    };
    Networks::load(&runtime, &prepared.spec, &session, task.job.rare().image.is_some())
}

/// A noise level of the way forward: its timestep, the weights of picture and noise, sigma, the latents.
struct Noised {
    timestep: f64,
    mixing: (f64, f64),
    sigma: f64,
    latents: Array3<f32>,
}

/// Returns the given picture with more and more noise, of the levels that the way back begins at, the least first.
fn forward(
    prepared: &Prepared,
    noise: NoiseKind,
    task: &ImageTask,
    encoder: &mut dyn VaeEncoder,
) -> Result<Vec<Noised>> {
    let (job, recipe) = (&task.job, &prepared.spec.recipe);
    let image = job.rare().image.as_ref().expect("the caller has looked");
    let pixels = preprocess_image(&read_image(&image.path)?, job.width, job.height);
    let schedule = Schedules::new(&prepared.scheduler_config, recipe).of(job)?;
    let is_flow = prepared.scheduler_config.select(&job.scheduler)?.is_flow();
    let mut noise = noise.source(task.seed);
    // Drawn as on the way back: first the encoder's sample of the picture, then what it is noised with.
    let sample = encoder.encode(pixels.view())?.sample(&mut *noise);
    let latents = recipe.latents.normalized(sample.view());
    let fresh = noise.draw(latents.dim());
    let level = |at: usize| {
        let mixing = schedule.mixing(at).expect("every evaluation has a noise level");
        let (timestep, sigma) = (schedule.timesteps()[at], sigma(mixing, is_flow));
        Noised { timestep, mixing, sigma, latents: schedule.add_noise(at, latents.view(), fresh.view()) }
    };
    let clean = Noised { timestep: 0.0, mixing: (1.0, 0.0), sigma: 0.0, latents: latents.clone() };
    Ok(std::iter::once(clean).chain((0..schedule.evaluations()).rev().map(level)).collect())
}

/// Latents to pictures, as a run decodes them.
struct Decoder<'a> {
    latents: &'a LatentSpace,
    vae: &'a mut dyn VaeDecoder,
    fine: Option<&'a mut dyn VaeDecoder>,
}

impl Decoder<'_> {
    fn frames(&mut self, forward: Vec<Noised>, traced: Traced) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        for Noised { timestep, mixing, sigma, latents } in forward {
            frames.push(Frame::forward(timestep, mixing, sigma, self.decode(of_unit_power(latents, mixing))?));
        }
        for moment in traced.moments {
            let sample = self.decode(of_unit_power(moment.sample.clone(), (moment.picture, moment.noise)))?;
            frames.push(Frame::backward(&moment, sample, self.decode(moment.original.clone())?));
        }
        frames.push(Frame::last(self.decode(traced.latents)?));
        Ok(frames)
    }

    fn decode(&mut self, latents: Array3<f32>) -> Result<RgbImage> {
        let latents = self.latents.denormalized(latents.view()).insert_axis(Axis(0));
        let picture = |vae: &mut dyn VaeDecoder| Ok(to_rgb8(vae.decode(latents.view())?.index_axis(Axis(0), 0)));
        let mut image = picture(&mut *self.vae)?;
        if let (None, Some(fine)) = (&image, &mut self.fine) {
            image = picture(&mut **fine)?;
        }
        image.ok_or_else(|| {
            Error::new(ErrorKind::Row, "not_a_number", "the VAE gives values that are no numbers")
                .hint("put an export in float32 beside it, as `vae_decoder_fp32/model.onnx`")
        })
    }
}

/// Returns latents as the VAE can show them: those of schedulers whose noise only adds up are much too large for it.
fn of_unit_power(latents: Array3<f32>, (picture, noise): (f64, f64)) -> Array3<f32> {
    latents / (picture * picture + noise * noise).sqrt().max(1.0) as f32
}
