//! Whether images may share calls of this model on this device: probed once an output folder, and remembered there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{Settings, Unet, UnetEntry, VaeDecoder, probe_unet, probe_vae};
use crate::error::Result;
use crate::model::{Dtype, ModelSpec, TensorInfo};
use crate::onnx::{Device, Networks, kind_of};
use crate::output::{RunFolder, STATE_FOLDER};

/// Relative difference of an entry alone and in company that is rounding, on CPU and in float32.
const ROUNDING: f32 = 1e-3;
/// In float16, and on GPUs, whose kernels for one and for several entries differ.
const COARSE_ROUNDING: f32 = 1e-2;

/// `OUT/.nightshift/probe.json`: what was found, and for what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Findings {
    model_hash: String,
    device: String,
    onnxruntime: String,
    /// Why images must not share a call of the UNet.
    unet: Option<String>,
    /// Why they must not share one of the VAE decoder.
    vae_decoder: Option<String>,
}

/// What the networks are and where they run.
pub(super) struct Probing<'a> {
    pub(super) spec: &'a ModelSpec,
    pub(super) model_hash: &'a str,
    pub(super) device: Device,
    /// Version and build of ONNX Runtime.
    pub(super) onnxruntime: &'a str,
    pub(super) folder: &'a RunFolder,
}

impl Probing<'_> {
    /// Returns `settings`, with one entry a call where the networks mix the entries of a call. TensorRT is not probed: it
    /// would build an engine, in minutes, for the probe's shapes.
    ///
    /// # Errors
    /// What was found cannot be written.
    pub(super) fn safe(&self, networks: &mut Networks, settings: Settings) -> Result<Settings> {
        if matches!(self.device, Device::TensorRt(_)) {
            return Ok(settings);
        }
        let findings = match self.remembered() {
            Some(findings) => findings,
            None => self.probe(networks)?,
        };
        let mut settings = settings;
        if let Some(why) = &findings.unet {
            tell("UNet", why);
            settings.lanes = 1;
        }
        if let Some(why) = &findings.vae_decoder {
            tell("VAE decoder", why);
            settings.vae_batch = 1;
        }
        Ok(settings)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(STATE_FOLDER).join("probe.json")
    }

    /// Returns what an earlier run found for the same model, device and library. A file that says anything else is made again.
    fn remembered(&self) -> Option<Findings> {
        let findings: Findings = serde_json::from_slice(&std::fs::read(self.path()).ok()?).ok()?;
        let same = (findings.model_hash == self.model_hash)
            && (findings.device == kind_of(self.device))
            && (findings.onnxruntime == self.onnxruntime);
        same.then_some(findings)
    }

    fn probe(&self, networks: &mut Networks) -> Result<Findings> {
        let unet = self.unet(&mut networks.unet);
        let vae_decoder = self.vae_decoder(&mut networks.vae_decoder);
        // What fails may be memory that others had: it is tried again next time.
        let certain = unet.is_ok() && vae_decoder.is_ok();
        let failed = |error| Some(format!("it cannot be probed ({error})"));
        let findings = Findings {
            model_hash: self.model_hash.to_string(),
            device: kind_of(self.device),
            onnxruntime: self.onnxruntime.to_string(),
            unet: unet.unwrap_or_else(failed),
            vae_decoder: vae_decoder.unwrap_or_else(failed),
        };
        if certain {
            let json = serde_json::to_vec_pretty(&findings).unwrap_or_default();
            self.folder.durable().replace_unsynced(&self.path(), &json)?;
        }
        Ok(findings)
    }

    fn unet(&self, unet: &mut dyn Unet) -> Result<Option<String>> {
        let bound = &self.spec.unet;
        if bound.sample.fixed(0) == Some(1) {
            return Ok(None);
        }
        probe_unet(unet, unet_entry(self.spec), self.tolerance(&bound.sample))
    }

    fn vae_decoder(&self, vae: &mut dyn VaeDecoder) -> Result<Option<String>> {
        let latents = &self.spec.vae_decoder.latent_sample;
        if latents.fixed(0) == Some(1) {
            return Ok(None);
        }
        let (height, width) = cells(self.spec, latents);
        probe_vae(vae, (self.spec.recipe.latents.channels, height, width), self.tolerance(latents))
    }

    fn tolerance(&self, tensor: &TensorInfo) -> f32 {
        let fine = self.device == Device::Cpu && tensor.dtype == Dtype::Float32;
        if fine { ROUNDING } else { COARSE_ROUNDING }
    }
}

fn tell(network: &str, why: &str) {
    tracing::warn!("the {network} takes one entry a call, which is slower: {why}; another export may do better");
}

/// Returns the shapes of the smallest picture that the UNet takes.
fn unet_entry(spec: &ModelSpec) -> UnetEntry {
    let unet = &spec.unet;
    let cells = match unet.packed() && unet.sample.fixed(1).is_some() {
        // A fixed number of patches says nothing about its sides.
        true => cells_of(spec, spec.default_size),
        false if unet.packed() => least_cells(spec),
        false => cells(spec, &unet.sample),
    };
    unet_entry_of(spec, cells)
}

/// Returns the shapes of a picture of so many cells' height and width.
pub(super) fn unet_entry_of(spec: &ModelSpec, (height, width): (usize, usize)) -> UnetEntry {
    let unet = &spec.unet;
    let channels = unet.sample.fixed(1).filter(|_| !unet.packed()).unwrap_or(spec.recipe.latents.channels);
    let sequence = unet.encoder_hidden_states.fixed(1).or(spec.texts.last().map(|text| text.model_max_length));
    let hidden =
        spec.texts.iter().filter(|text| text.graph.hidden_states.is_some()).filter_map(|text| text.width).sum();
    let pooled = || spec.texts.iter().filter_map(|text| text.graph.pooled.as_ref()?.fixed(1)).sum();
    UnetEntry {
        sample: (channels, height, width),
        encoder_hidden_states: (sequence.unwrap_or(77), unet.encoder_hidden_states.fixed(2).unwrap_or(hidden)),
        pooled: unet.pooled.as_ref().map(|tensor| tensor.fixed(1).unwrap_or_else(pooled)),
        time_ids: unet.time_ids.as_ref().map(|tensor| tensor.fixed(1).unwrap_or(6)),
    }
}

/// Returns height and width of the smallest latents that `[batch, channels, height, width]` takes.
fn cells(spec: &ModelSpec, tensor: &TensorInfo) -> (usize, usize) {
    let (height, width) = least_cells(spec);
    (tensor.fixed(2).unwrap_or(height), tensor.fixed(3).unwrap_or(width))
}

fn least_cells(spec: &ModelSpec) -> (usize, usize) {
    cells_of(spec, (spec.size_multiple, spec.size_multiple))
}

/// Returns height and width in latent cells of a width and height in pixels.
pub(super) fn cells_of(spec: &ModelSpec, (width, height): (u32, u32)) -> (usize, usize) {
    let cells = |pixels: u32| (pixels / spec.recipe.latents.vae_scale_factor.max(1)).max(1) as usize;
    (cells(height), cells(width))
}
