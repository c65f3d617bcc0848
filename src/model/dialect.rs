//! Which exporter made a model folder, as far as its names and dims tell (`inspect`). Nothing is decided by it: what is fed
//! and fetched follows from the graphs themselves.

use super::pyke::PYKE_FILE;
use super::signature::{Dim, Dtype, TensorInfo};
use super::spec::ModelSpec;
use super::unet_graph::TimestepShape;

/// Returns the exporter in a few words.
pub(super) fn dialect(spec: &ModelSpec) -> &'static str {
    let unet = &spec.unet;
    let transformer = spec.recipe.patch_size.is_some();
    match unet.timestep_shape {
        _ if spec.dir.join("nightshift_export.json").is_file() => "nightshift (onnx/export.py)",
        _ if spec.dir.join(PYKE_FILE).is_file() => "pyke Diffusers (graphs side by side)",
        _ if unet.out_sample.name == "latent" => demo(spec),
        _ if olive(&unet.sample) => "Olive",
        _ if transformer && unet.out_sample.name == "out_sample" => "Olive (component configs)",
        _ if transformer && is_in(spec, "unet") => "AMD's layout (the transformer is in `unet`)",
        _ if transformer => "optimum's layout",
        TimestepShape::Scalar => "optimum from 1.24 on (timestep is a scalar)",
        TimestepShape::PerLane if unet.timestep.dtype == Dtype::Int64 => "optimum up to 1.23 (timestep int64)",
        TimestepShape::PerLane if is_converted(spec) => {
            "diffusers' convert_stable_diffusion_checkpoint_to_onnx.py, or alike"
        }
        _ if gives_parameters(spec) => "optimum's layout, timestep widened",
        _ => "optimum's layout",
    }
}

/// Both demos have the same names; their folders differ.
fn demo(spec: &ModelSpec) -> &'static str {
    match spec.dir.join("engine").is_dir() {
        true => "demo of ONNX Runtime (`engine`)",
        false => "demo of NVIDIA TensorRT",
    }
}

/// Returns whether the UNet's graph is in a folder called `name`.
fn is_in(spec: &ModelSpec, name: &str) -> bool {
    spec.unet.file.path.parent().is_some_and(|folder| folder.ends_with(name))
}

/// diffusers' converter writes no configs, and ids of 32 bits.
fn is_converted(spec: &ModelSpec) -> bool {
    let weights = spec.unet.file.signature.external_data.iter().any(|name| name == "weights.pb");
    let ids = spec.texts.first().map(|text| text.graph.input_ids.dtype);
    weights || (ids == Some(Dtype::Int32) && !spec.unet.file.config_path().is_file())
}

fn gives_parameters(spec: &ModelSpec) -> bool {
    let parameters = spec.vae_encoder.as_ref().is_some_and(|vae| vae.latents.name == "latent_parameters");
    parameters && spec.unet.file.config_path().is_file()
}

/// Olive names every dim after its tensor.
fn olive(sample: &TensorInfo) -> bool {
    let named = |dim: &Dim| matches!(dim, Dim::Named(name) if name.starts_with("unet_"));
    sample.dims.as_ref().is_some_and(|dims| dims.iter().any(named))
}
