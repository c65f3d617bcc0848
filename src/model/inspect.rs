//! A model folder in plain words (`nightshift inspect`).

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::dialect::dialect;
use super::family::Family;
use super::graph_file::GraphFile;
use super::signature::{Dtype, Signature};
use super::spec::ModelSpec;
use super::unet_graph::{TimestepShape, UnetGraph};
use crate::recipe::{GuidanceStyle, ImageChannels, Recipe};

/// What a model folder is and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The folder.
    pub dir: String,
    /// Its name.
    pub name: String,
    /// What kind of pipeline it is.
    pub family: Family,
    /// `_class_name` of `model_index.json`.
    pub class_name: String,
    /// Which exporter's names and layout it has, as far as that can be told.
    pub dialect: &'static str,
    /// How its networks are used.
    pub recipe: Recipe,
    /// Token ids per text, of each text encoder.
    pub model_max_length: Vec<usize>,
    /// Width and height in pixels if the manifest gives none.
    pub default_size: (u32, u32),
    /// Width and height are multiples of this.
    pub size_multiple: u32,
    /// `_class_name` of the scheduler's config.
    pub scheduler: Option<String>,
    /// `prediction_type` of the scheduler's config (diffusers' default where it is absent).
    pub prediction_type: String,
    /// The graphs.
    pub graphs: Vec<GraphReport>,
    /// What follows from all this, a sentence each.
    pub notes: Vec<String>,
}

/// One graph of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GraphReport {
    /// Which network it is.
    pub part: &'static str,
    /// The file.
    pub path: String,
    /// Bytes of the file and its weights.
    pub bytes: u64,
    /// What it takes and gives.
    pub signature: Signature,
}

impl Inspection {
    /// Returns the description of `spec`.
    pub fn new(spec: &ModelSpec) -> Inspection {
        let scheduler: Value = serde_json::from_str(&spec.scheduler_config).unwrap_or(Value::Null);
        let text = |key: &str| scheduler.get(key).and_then(Value::as_str).map(str::to_string);
        Inspection {
            dir: spec.dir.display().to_string(),
            name: spec.name.clone(),
            family: spec.family,
            class_name: spec.class_name.clone(),
            dialect: dialect(spec),
            recipe: spec.recipe.clone(),
            model_max_length: spec.texts.iter().map(|text| text.model_max_length).collect(),
            default_size: spec.default_size,
            size_multiple: spec.size_multiple,
            scheduler: text("_class_name"),
            prediction_type: text("prediction_type").unwrap_or_else(|| "epsilon".into()),
            graphs: graphs(spec).map(|(part, graph)| report(part, graph)).collect(),
            notes: notes(spec),
        }
    }
}

const SAFETY_CHECKERS: [&str; 2] = ["safety_checker", "safety_checker.onnx"];

const TEXT_ENCODERS: [&str; 3] = ["text_encoder", "text_encoder_2", "text_encoder_3"];

/// Returns every graph with the name of its part.
fn graphs(spec: &ModelSpec) -> impl Iterator<Item = (&'static str, &GraphFile)> {
    // The refiner's only text encoder is the second.
    let skipped = usize::from(spec.family == Family::StableDiffusionXl && spec.texts.len() == 1);
    let texts = TEXT_ENCODERS.into_iter().skip(skipped).zip(spec.texts.iter().map(|text| &text.graph.file));
    let unet = if spec.recipe.patch_size.is_some() { "transformer" } else { "unet" };
    let others = [(unet, &spec.unet.file), ("vae_decoder", &spec.vae_decoder.file)];
    texts.chain(others).chain(spec.vae_encoder.iter().map(|encoder| ("vae_encoder", &encoder.file)))
}

fn report(part: &'static str, graph: &GraphFile) -> GraphReport {
    let files = std::iter::once(graph.path.clone()).chain(graph.external_files());
    let bytes = files.filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len()).sum();
    GraphReport { part, path: graph.path.display().to_string(), bytes, signature: graph.signature.clone() }
}

fn notes(spec: &ModelSpec) -> Vec<String> {
    let mut notes = vec![match spec.unet.timestep_shape {
        TimestepShape::PerLane => "timestep [batch]: images at different steps share a call".to_string(),
        TimestepShape::Scalar => {
            "timestep scalar: only images at the same step share a call; `onnx/widen_timestep.py` lifts that"
                .to_string()
        }
        TimestepShape::One => "timestep [1]: only images at the same step share a call".to_string(),
    }];
    notes.extend(denoiser_notes(&spec.unet));
    if spec.unet.timestep.dtype.is_int() {
        notes.push("timestep is an integer: fractional timesteps (Karras sigmas and others) are rounded".into());
    }
    if spec.unet.timestep.dtype == Dtype::Float16 && spec.unet.denoises {
        notes.push("sigma is float16: noise levels have three digits".into());
    } else if spec.unet.timestep.dtype == Dtype::Float16 {
        notes.push("timestep is float16: whole numbers up to 2048 are exact, fractional timesteps lose digits".into());
    }
    if let Some(lanes) = spec.fixed_lanes {
        notes.push(format!("the UNet's batch is fixed to {lanes}: calls are cut and filled up to it"));
    }
    if let Some((width, height)) = spec.fixed_size {
        notes.push(format!("the size is fixed to {width}x{height}"));
    }
    if SAFETY_CHECKERS.iter().any(|name| spec.dir.join(name).exists()) {
        notes.push("the safety checker in the folder is not run".into());
    }
    notes.extend(pipeline_notes(spec));
    notes.extend(spec.assumed.iter().cloned());
    for (_, graph) in graphs(spec) {
        let (path, cuda_only) = (graph.path.display(), &graph.signature.cuda_only_ops);
        if !cuda_only.is_empty() {
            let operators = cuda_only.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            notes.push(format!("{path} runs on CUDA only: no other device computes {operators}"));
        } else if graph.signature.contrib_ops {
            notes.push(format!(
                "{path} holds com.microsoft operators: it was optimized for one device and may not run on others"
            ));
        }
    }
    notes
}

/// What follows from inputs and outputs that are not a timestep and a prediction.
fn denoiser_notes(unet: &UnetGraph) -> Vec<String> {
    let mut notes = Vec::new();
    if unet.denoises {
        let what = "takes `sigma` and gives denoised latents: fed timestep / 1000, and turned into the velocity";
        notes.push(format!("the transformer {what} that schedulers of flow matching expect"));
    }
    if let Some(control) = &unet.control {
        notes.push(format!("{control}: fed zeros, as there is no ControlNet"));
    }
    notes
}

/// What follows from how the networks are used.
fn pipeline_notes(spec: &ModelSpec) -> Vec<String> {
    let recipe = &spec.recipe;
    let mut notes = Vec::new();
    match recipe.guidance {
        GuidanceStyle::ClassifierFree => {}
        GuidanceStyle::Embedded => notes.push("guidance_scale goes into the network: one lane an image".to_string()),
        GuidanceStyle::TextAndImage => notes.push("guidance by text and by image: three lanes an image".to_string()),
    }
    match recipe.image_channels {
        ImageChannels::None => {}
        ImageChannels::MaskAndImage => {
            notes.push("inpainting UNet: every row needs `image` and `mask_image`".to_string())
        }
        ImageChannels::Image => notes.push("every row needs an `image`, which the text edits".to_string()),
    }
    if recipe.zeros_for_no_negative {
        notes.push("an empty `negative_prompt` is embeddings of zeros, not those of the empty text".to_string());
    }
    if recipe.clip_skip {
        let layers = spec.texts.iter().filter(|text| text.has_layers_to_skip()).map(|text| text.graph.skipped.len());
        notes.push(match layers.min() {
            None | Some(0) => "`clip_skip` cannot be used: the text encoder gives no `hidden_states`".to_string(),
            Some(layers) => format!("`clip_skip` up to {layers}"),
        });
    }
    match &spec.vae_encoder {
        None => notes.push("no VAE encoder: rows with `image` cannot be made".to_string()),
        Some(encoder) if encoder.file.signature.random_ops => {
            let what = "the VAE encoder draws noise of its own: pictures made of an `image` differ from run to run";
            notes.push(format!("{what}; export it with `latent_parameters`, as `onnx/export.py` does"));
        }
        Some(_) => {}
    }
    notes
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.default_size;
        let class_name = if self.class_name.is_empty() { "no model_index.json" } else { &self.class_name };
        writeln!(f, "{} ({class_name}, {:?})", self.dir, self.family)?;
        writeln!(f, "  size        {width}x{height}, multiples of {}", self.size_multiple)?;
        let latents = &self.recipe.latents;
        write!(f, "  latents     {} channels, {} pixels a cell", latents.channels, latents.vae_scale_factor)?;
        writeln!(f, ", scaling_factor {}, shift_factor {}", latents.scaling_factor, latents.shift_factor)?;
        let tokens: Vec<_> = self.model_max_length.iter().map(ToString::to_string).collect();
        writeln!(f, "  text        {} token ids", tokens.join(", "))?;
        writeln!(f, "  dialect     {}", self.dialect)?;
        let scheduler = self.scheduler.as_deref().unwrap_or("unnamed");
        writeln!(f, "  scheduler   {scheduler}, prediction_type {}", self.prediction_type)?;
        self.graphs.iter().try_for_each(|graph| write!(f, "{graph}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  note        {note}"))
    }
}

impl fmt::Display for GraphReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = &self.signature;
        let opset = signature.opset.map_or_else(|| "?".into(), |opset| opset.to_string());
        let size = self.bytes as f64 / 1e6;
        writeln!(
            f,
            "  {:<16}{size:.1} MB, {} nodes, opset {opset}, {}",
            self.part, signature.nodes, signature.producer
        )?;
        signature.inputs.iter().try_for_each(|input| writeln!(f, "    in        {input}"))?;
        signature.outputs.iter().try_for_each(|output| writeln!(f, "    out       {output}"))
    }
}
