//! Which exporter made a model folder, as far as its names and dims tell (`inspect`). Nothing is decided by it: what is fed
//! and fetched follows from the graphs themselves.

use super::signature::{Dim, Dtype, TensorInfo};
use super::spec::ModelSpec;
use super::unet_graph::TimestepShape;

/// Returns the exporter in a few words.
pub(super) fn dialect(spec: &ModelSpec) -> &'static str {
    let unet = &spec.unet;
    let ids = spec.texts.first().map(|text| text.graph.input_ids.dtype);
    let parameters = spec.vae_encoder.as_ref().is_some_and(|vae| vae.latents.name == "latent_parameters");
    let weights = unet.file.signature.external_data.iter().any(|name| name == "weights.pb");
    let has_config = unet.file.config_path().is_file();
    match unet.timestep_shape {
        _ if spec.dir.join("nightshift_export.json").is_file() => "nightshift (onnx/export.py)",
        _ if unet.out_sample.name == "latent" => "demo of ONNX Runtime or NVIDIA TensorRT",
        _ if olive(&unet.sample) => "Olive",
        TimestepShape::Scalar => "optimum from 1.24 on (timestep is a scalar)",
        TimestepShape::PerLane if unet.timestep.dtype == Dtype::Int64 => "optimum up to 1.23 (timestep int64)",
        TimestepShape::PerLane if weights || (ids == Some(Dtype::Int32) && !has_config) => {
            "diffusers' convert_stable_diffusion_checkpoint_to_onnx.py, or alike"
        }
        _ if parameters && has_config => "optimum's layout, timestep widened",
        _ => "optimum's layout",
    }
}

/// Olive names every dim after its tensor.
fn olive(sample: &TensorInfo) -> bool {
    let named = |dim: &Dim| matches!(dim, Dim::Named(name) if name.starts_with("unet_"));
    sample.dims.as_ref().is_some_and(|dims| dims.iter().any(named))
}
