//! Loading the networks on one device: what TensorRT is told of the shapes to come, and where its engines are kept.

use std::path::PathBuf;

use super::foreseen::Foreseen;
use super::probing::{cells_of, unet_entry_of};
use crate::engine::PromptStyle;
use crate::error::{Error, Result};
use crate::model::{ModelSpec, TimestepShape};
use crate::onnx::{
    Device, GpuOptions, Kernels, Profiles, Range, Runtime, SessionOptions, driver, engine_folder, gpu_state,
};
use crate::prompt::LongPrompt;

/// Chunks of a prompt that engines are built for, where long ones are cut into chunks.
const MOST_CHUNKS: usize = 4;
/// Texts of every call of a text encoder on a GPU.
const TEXTS: usize = 16;
/// Pictures of every call of a VAE on a GPU.
const PICTURES: usize = 1;

/// What networks are loaded for.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) spec: &'a ModelSpec,
    pub(super) model_hash: &'a str,
    pub(super) runtime: &'a Runtime,
    pub(super) prompts: PromptStyle,
    pub(super) foreseen: &'a Foreseen,
}

impl Load<'_> {
    /// Returns how networks are loaded on `device`, with so many lanes a call.
    ///
    /// # Errors
    /// The device has not what is asked for, or the folder for TensorRT's engines cannot be made.
    pub(super) fn session_options(
        &self,
        device: Device,
        (threads, kernels): (usize, Kernels),
        gpu: &GpuOptions,
        lanes: usize,
    ) -> Result<SessionOptions> {
        gpu.check(device)?;
        let mut gpu = gpu.clone();
        match device {
            Device::TensorRt(_) => {
                gpu.engine_cache = self.engine_folder(device, &gpu).map(make_folder).transpose()?;
                gpu.profiles = self.profiles(lanes);
            }
            _ => gpu.engine_cache = None,
        }
        Ok(SessionOptions { kernels, device, threads, gpu, keep_features: self.foreseen.keeps_features })
    }

    /// Returns the folder for the engines of this model on this kind of GPU, if there is to be one.
    pub(super) fn engine_folder(&self, device: Device, gpu: &GpuOptions) -> Option<PathBuf> {
        let cache = gpu.engine_cache.as_deref()?;
        let name = device.gpu().and_then(gpu_state).map_or_else(|| device.to_string(), |gpu| gpu.name);
        let driver = driver().map_or_else(|| "unknown".to_string(), |driver| driver.version);
        Some(engine_folder(cache, self.model_hash, &name, &[ort_version(self.runtime).as_str(), &driver]))
    }

    /// Returns the shapes that all calls of the run will have. A UNet of patches is left out: its shapes are not those of
    /// pictures, and TensorRT asks for all inputs or none.
    fn profiles(&self, lanes: usize) -> Profiles {
        let mut profiles = Profiles::default();
        let spec = self.spec;
        let sizes = || match self.foreseen.sizes.is_empty() {
            true => vec![spec.default_size],
            false => self.foreseen.sizes.clone(),
        };
        let cells: Vec<(usize, usize)> = sizes().into_iter().map(|size| cells_of(spec, size)).collect();
        let only = Range::only;
        let of = |values: Vec<usize>| Range::of(values).unwrap_or(only(1));
        let (height, width) = (of(cells.iter().map(|c| c.0).collect()), of(cells.iter().map(|c| c.1).collect()));
        if !spec.unet.packed() {
            self.unet_profile(&mut profiles, only(lanes), (height, width), cells[0]);
        }
        let latents = &spec.vae_decoder.latent_sample;
        let channels = spec.recipe.latents.channels;
        profiles.add("VAE decoder", latents, &[only(PICTURES), only(channels), height, width]);
        if let Some(encoder) = &spec.vae_encoder {
            let sides = |side: fn(&(u32, u32)) -> u32| of(sizes().iter().map(|size| side(size) as usize).collect());
            let dims = [only(1), only(3), sides(|size| size.1), sides(|size| size.0)];
            profiles.add("VAE encoder", &encoder.sample, &dims);
        }
        // All text encoders go by one name, so one profile has to do for all.
        let lengths = spec.texts.iter().map(|text| text.model_max_length);
        if let (Some(text), Some(length)) = (spec.texts.first(), Range::of(lengths)) {
            profiles.add("text encoder", &text.graph.input_ids, &[only(TEXTS), length]);
        }
        profiles
    }

    fn unet_profile(
        &self,
        profiles: &mut Profiles,
        lanes: Range,
        (height, width): (Range, Range),
        cells: (usize, usize),
    ) {
        let (unet, only) = (&self.spec.unet, Range::only);
        let entry = unet_entry_of(self.spec, cells);
        let (sequence, embed) = entry.encoder_hidden_states;
        let tokens = match self.prompts.long {
            LongPrompt::Chunk => Range { min: sequence, opt: sequence, max: MOST_CHUNKS * sequence },
            _ => only(sequence),
        };
        profiles.add("UNet", &unet.sample, &[lanes, only(entry.sample.0), height, width]);
        if unet.timestep_shape == TimestepShape::PerLane {
            profiles.add("UNet", &unet.timestep, &[lanes]);
        }
        profiles.add("UNet", &unet.encoder_hidden_states, &[lanes, tokens, only(embed)]);
        for (tensor, size) in [(&unet.pooled, entry.pooled), (&unet.time_ids, entry.time_ids)] {
            if let (Some(tensor), Some(size)) = (tensor, size) {
                profiles.add("UNet", tensor, &[lanes, only(size)]);
            }
        }
        if let Some(guidance) = unet.guidance.as_ref().map(|guidance| guidance.tensor()) {
            let width = guidance.fixed(1).unwrap_or(256);
            let dims = [lanes, only(width)];
            profiles.add("UNet", guidance, &dims[..guidance.rank().unwrap_or(2)]);
        }
    }
}

/// Returns the version in the name of ONNX Runtime's library, or else what it says of its build.
fn ort_version(runtime: &Runtime) -> String {
    let name = runtime.library().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let version = name.find(|c: char| c.is_ascii_digit()).map(|start| name[start..].to_string());
    version.unwrap_or_else(|| runtime.build_info().chars().take(40).collect())
}

fn make_folder(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder).map_err(|error| {
        Error::storage("make the folder for TensorRT's engines", &folder, error)
            .hint("name another with `--engine-cache`")
    })?;
    Ok(folder)
}
