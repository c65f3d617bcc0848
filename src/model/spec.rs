//! What a model folder says about itself, checked to fit together.

use std::path::{Path, PathBuf};

use super::config::Config;
use super::family::Family;
use super::fit;
use super::hash::hash_files;
use super::latents;
use super::layout::{Layout, Part};
use super::pyke::{PYKE_FILE, Pyke};
use super::recipes::Facts;
use super::scheduler_file::scheduler_config;
use super::text_part::TextPart;
use super::unet_graph::UnetGraph;
use super::vae_graphs::{VaeDecoderGraph, VaeEncoderGraph};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::recipe::Recipe;

/// A model folder: its configs and graph signatures, without tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The folder.
    pub dir: PathBuf,
    /// The folder's name.
    pub name: String,
    /// `_class_name` of `model_index.json`, as it is written; empty where there is none.
    pub class_name: String,
    /// What kind of pipeline it is.
    pub family: Family,
    /// How its networks are used.
    pub recipe: Recipe,
    /// Width and height in pixels that the model was trained for, or that its graphs are fixed to.
    pub default_size: (u32, u32),
    /// Width and height in pixels of the only size that the graphs take, if they are fixed to one.
    pub fixed_size: Option<(u32, u32)>,
    /// Number of lanes of the only batch that the UNet takes, if it is fixed to one.
    pub fixed_lanes: Option<usize>,
    /// Width and height must be multiples of this many pixels.
    pub size_multiple: u32,
    /// Least number of attention heads of any of the UNet's blocks, if its config says it.
    pub attention_heads: Option<usize>,
    /// Width and height in pixels of the pictures that the VAE was trained on, if its config says it.
    pub vae_sample_size: Option<u32>,
    /// `scheduler/scheduler_config.json`, as it is.
    pub scheduler_config: String,
    /// The text encoders and their tokenizers.
    pub texts: Vec<TextPart>,
    /// The UNet's graph, or the transformer's.
    pub unet: UnetGraph,
    /// The VAE decoder's graph.
    pub vae_decoder: VaeDecoderGraph,
    /// `vae_decoder_fp32/model.onnx`, where there is one: a VAE decoder in float32 for latents that the other, in float16,
    /// overflows on.
    pub vae_decoder_fp32: Option<VaeDecoderGraph>,
    /// The VAE encoder's graph, where there is one.
    pub vae_encoder: Option<VaeEncoderGraph>,
    /// What was assumed because no config says it, a sentence each.
    pub assumed: Vec<String>,
}

impl ModelSpec {
    /// Reads the folder `dir` and checks that its parts fit together.
    ///
    /// # Errors
    /// A file is missing, broken or unlike the others, or the model is of a kind that we cannot run yet.
    pub fn open(dir: impl AsRef<Path>) -> Result<ModelSpec> {
        let dir = dir.as_ref();
        check_folder(dir)?;
        let index = Config::read_if_there(&dir.join("model_index.json"))?;
        let class_name = match &index {
            Some(index) => index.string("_class_name")?.map(str::to_string),
            None => None,
        };
        let mut assumed = Vec::new();
        let layout = Layout::of(dir)?;
        let unet = layout.graph(Part::Unet)?;
        let family = Family::identify(dir, class_name.as_deref(), &unet)?;
        let unet = UnetGraph::bind(unet)?;
        let texts = TextPart::open_all(dir, &layout, (family, &unet), &mut assumed)?;
        let vae_decoder = VaeDecoderGraph::bind(layout.graph(Part::VaeDecoder)?)?;
        let vae_decoder_fp32 = layout.optional_graph(Part::VaeDecoderFp32)?.map(VaeDecoderGraph::bind).transpose()?;
        let vae_encoder = layout.optional_graph(Part::VaeEncoder)?.map(VaeEncoderGraph::bind).transpose()?;
        let unet_config = Config::read_if_there(&unet.file.config_path())?;
        let vae_config = Config::read_if_there(&vae_decoder.file.config_path())?;
        let scheduler_config = scheduler_config(dir, &layout, &unet, &mut assumed)?;
        let said = layout.pyke().and_then(Pyke::scaling_factor);
        let space = latents::space(family, vae_config.as_ref(), said, &vae_decoder, &mut assumed)?;
        let class_name = class_name.unwrap_or_default();
        let recipe = Facts {
            dir,
            family,
            class_name: &class_name,
            index: index.as_ref(),
            unet_config: unet_config.as_ref(),
            unet: &unet,
            uses: texts.iter().map(|text| text.text_use).collect(),
            latents: space,
        };
        let recipe = recipe.recipe()?;
        let scale = recipe.latents.vae_scale_factor;
        let fixed_size = fixed_size(&unet, scale);
        let default_size = match fixed_size {
            Some(size) => size,
            None => default_size(unet_config.as_ref(), scale, default_cells(family))?,
        };
        let mut spec = ModelSpec {
            dir: dir.to_path_buf(),
            name: folder_name(dir),
            class_name,
            family,
            default_size,
            fixed_size,
            fixed_lanes: unet.sample.fixed(0),
            size_multiple: match recipe.patch_size {
                Some(patch) => scale * patch,
                None => scale << (unet_blocks(unet_config.as_ref())? - 1),
            },
            attention_heads: attention_heads(unet_config.as_ref())?,
            vae_sample_size: vae_sample_size(vae_config.as_ref())?,
            scheduler_config,
            recipe,
            texts,
            unet,
            vae_decoder,
            vae_decoder_fp32,
            vae_encoder,
            assumed,
        };
        spec.assume(index.is_some(), unet_config.is_some());
        fit::check(&spec, unet_config.as_ref())?;
        Ok(spec)
    }

    /// Says what is assumed without `model_index.json` and the UNet's config.
    fn assume(&mut self, has_index: bool, has_unet_config: bool) {
        if !has_index {
            let defaults = &self.recipe.defaults;
            self.assumed.push(format!(
                "no model_index.json: the kind of model is told by the UNet's inputs; {} steps, guidance_scale {} assumed",
                defaults.num_inference_steps, defaults.guidance_scale
            ));
        }
        if !has_unet_config && self.fixed_size.is_none() {
            let ((width, height), multiple) = (self.default_size, self.size_multiple);
            let sizes = format!("{width}x{height} where a row gives no size, and multiples of {multiple} pixels");
            self.assumed.push(format!("no config.json beside the UNet: {sizes} assumed"));
        }
    }

    /// Returns how many bytes the files that change pixels have together; one that cannot be read counts for nothing.
    pub fn bytes(&self) -> u64 {
        self.files().iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }

    /// Returns the BLAKE3 hash (64 hex digits) over the name and bytes of every file that changes pixels: graphs, weights,
    /// configs, tokenizers. Takes seconds for large models.
    ///
    /// `vae_decoder_fp32` is not among them: no picture that was made without it would be another with it, and whoever adds
    /// it for the pictures that failed wants to go on with the same run.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hash(&self) -> Result<String> {
        hash_files(&self.dir, self.files())
    }

    /// Returns every file that changes pixels and is there.
    fn files(&self) -> Vec<PathBuf> {
        let texts = self.texts.iter().map(|text| &text.graph.file);
        let encoder = self.vae_encoder.iter().map(|encoder| &encoder.file);
        let graphs: Vec<_> = texts.chain([&self.unet.file, &self.vae_decoder.file]).chain(encoder).collect();
        let configs = graphs.iter().map(|graph| graph.config_path());
        let tokenizers = self.texts.iter().flat_map(TextPart::tokenizer_files);
        let others = ["model_index.json", "scheduler/scheduler_config.json", PYKE_FILE].map(|name| self.dir.join(name));
        let optional = configs.chain(tokenizers).chain(others).filter(|path| path.is_file());
        let weights = graphs.iter().flat_map(|graph| graph.external_files());
        graphs.iter().map(|graph| graph.path.clone()).chain(weights).chain(optional).collect()
    }
}

fn check_folder(dir: &Path) -> Result<()> {
    let message = match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "a model is a folder, this is a file".to_string(),
        Err(error) => format!("cannot open the model folder: {error}"),
    };
    Err(Error::new(ErrorKind::Model, "no_model", message)
        .at(Location::file(dir))
        .hint("give a folder such as `onnx/tiny-shapes` or what `onnx/export.py` writes"))
}

pub(super) fn folder_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

fn fixed_size(unet: &UnetGraph, vae_scale_factor: u32) -> Option<(u32, u32)> {
    if unet.packed() {
        return None;
    }
    let pixels = |axis| u32::try_from(unet.sample.fixed(axis)?).ok()?.checked_mul(vae_scale_factor);
    Some((pixels(3)?, pixels(2)?))
}

/// Returns the side in latent cells that diffusers' pipelines of a family take where no config says it.
fn default_cells(family: Family) -> u32 {
    if family == Family::StableDiffusion { 64 } else { 128 }
}

/// Returns width and height in pixels of `sample_size`, or of `cells` where no config says it.
fn default_size(unet: Option<&Config>, vae_scale_factor: u32, cells: u32) -> Result<(u32, u32)> {
    let Some(unet) = unet else { return Ok((cells * vae_scale_factor, cells * vae_scale_factor)) };
    let sizes = unet.counts("sample_size")?.unwrap_or_else(|| vec![cells as usize]);
    let pixels = |cells: usize| u32::try_from(cells).ok().and_then(|cells| cells.checked_mul(vae_scale_factor));
    let size = match sizes.as_slice() {
        [side] => pixels(*side).zip(pixels(*side)),
        [height, width] => pixels(*width).zip(pixels(*height)),
        _ => None,
    };
    size.filter(|(w, h)| *w > 0 && *h > 0).ok_or_else(|| unet.bad("sample_size", "must be one or two sizes above 0"))
}

/// Returns the number of the UNet's levels (4 where no config says it): it halves the latents once less than that, and
/// exported graphs only fit together where that works out without a remainder.
fn unet_blocks(unet: Option<&Config>) -> Result<usize> {
    let Some(unet) = unet else { return Ok(4) };
    match unet.counts("block_out_channels")?.map_or(4, |blocks| blocks.len()) {
        blocks @ 1..=8 => Ok(blocks),
        _ => Err(unet.bad("block_out_channels", "must list 1 to 8 blocks")),
    }
}

/// Returns the least number of heads. In diffusers' UNets `attention_head_dim` is that number for historical reasons
/// (`UNet2DConditionModel.__init__`: `num_attention_heads = num_attention_heads or attention_head_dim`).
fn attention_heads(unet: Option<&Config>) -> Result<Option<usize>> {
    let Some(unet) = unet else { return Ok(None) };
    let heads = match unet.counts("num_attention_heads")? {
        Some(heads) => Some(heads),
        None => unet.counts("attention_head_dim")?,
    };
    Ok(heads.and_then(|heads| heads.into_iter().min()))
}

/// Returns the longer side of the VAE's `sample_size`.
fn vae_sample_size(vae: Option<&Config>) -> Result<Option<u32>> {
    let sizes = vae.map_or(Ok(None), |vae| vae.counts("sample_size"))?;
    Ok(sizes.and_then(|sizes| sizes.into_iter().max()).and_then(|size| u32::try_from(size).ok()))
}
