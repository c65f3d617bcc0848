//! A model folder in plain words (`nightshift inspect`).

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::family::Family;
use super::graphs::{GraphFile, TimestepShape};
use super::signature::{Dtype, Signature};
use super::spec::ModelSpec;

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
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Pixels per latent cell.
    pub vae_scale_factor: u32,
    /// What latents are divided by before decoding.
    pub scaling_factor: f64,
    /// What is added to latents before decoding.
    pub shift_factor: f64,
    /// Token ids per text.
    pub model_max_length: usize,
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
            latent_channels: spec.latent_channels,
            vae_scale_factor: spec.vae_scale_factor,
            scaling_factor: spec.scaling_factor,
            shift_factor: spec.shift_factor,
            model_max_length: spec.model_max_length,
            default_size: spec.default_size,
            size_multiple: spec.size_multiple,
            scheduler: text("_class_name"),
            prediction_type: text("prediction_type").unwrap_or_else(|| "epsilon".into()),
            graphs: vec![
                report("text_encoder", &spec.text_encoder.file),
                report("unet", &spec.unet.file),
                report("vae_decoder", &spec.vae_decoder.file),
            ],
            notes: notes(spec),
        }
    }
}

fn report(part: &'static str, graph: &GraphFile) -> GraphReport {
    let files = std::iter::once(graph.path.clone()).chain(graph.external_files());
    let bytes = files.filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len()).sum();
    GraphReport { part, path: graph.path.display().to_string(), bytes, signature: graph.signature.clone() }
}

fn notes(spec: &ModelSpec) -> Vec<String> {
    let mut notes = vec![match spec.unet.timestep_shape {
        TimestepShape::PerLane => "timestep [batch]: images at different steps share a call".to_string(),
        TimestepShape::Scalar => "timestep scalar: only images at the same step share a call".to_string(),
        TimestepShape::One => "timestep [1]: only images at the same step share a call".to_string(),
    }];
    if spec.unet.timestep.dtype.is_int() {
        notes.push("timestep is an integer: schedules with fractional timesteps are rounded".into());
    }
    if spec.unet.timestep.dtype == Dtype::Float16 {
        notes.push("timestep is float16: whole numbers up to 2048 are exact, fractional timesteps lose digits".into());
    }
    if let Some(lanes) = spec.fixed_lanes {
        notes.push(format!("the UNet's batch is fixed to {lanes}: calls are padded to it"));
    }
    if let Some((width, height)) = spec.fixed_size {
        notes.push(format!("the size is fixed to {width}x{height}"));
    }
    for graph in [&spec.text_encoder.file, &spec.unet.file, &spec.vae_decoder.file] {
        if graph.signature.contrib_ops {
            let path = graph.path.display();
            notes.push(format!(
                "{path} holds com.microsoft operators: it was optimized for one device and may not run on others"
            ));
        }
    }
    notes
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.default_size;
        writeln!(f, "{} ({}, {:?})", self.dir, self.class_name, self.family)?;
        writeln!(f, "  size        {width}x{height}, multiples of {}", self.size_multiple)?;
        write!(f, "  latents     {} channels, {} pixels a cell", self.latent_channels, self.vae_scale_factor)?;
        writeln!(f, ", scaling_factor {}, shift_factor {}", self.scaling_factor, self.shift_factor)?;
        writeln!(f, "  text        {} token ids", self.model_max_length)?;
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
            "  {:<13}{size:.1} MB, {} nodes, opset {opset}, {}",
            self.part, signature.nodes, signature.producer
        )?;
        signature.inputs.iter().try_for_each(|input| writeln!(f, "    in        {input}"))?;
        signature.outputs.iter().try_for_each(|output| writeln!(f, "    out       {output}"))
    }
}
