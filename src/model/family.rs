//! Which kind of pipeline a model folder is, from its graphs first and its `model_index.json` second.

use std::path::Path;

use serde::Serialize;

use super::signature::Signature;
use crate::error::{Error, ErrorKind, Location, Result};

/// A kind of pipeline that we can run. New ones are a variant here and whatever `graphs` must bind for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Family {
    /// One CLIP text encoder, a UNet on its last hidden state, AutoencoderKL: Stable Diffusion 1 and 2 and their like.
    StableDiffusion,
}

impl Family {
    /// Returns the family of the folder `dir` with this `_class_name` and this UNet.
    ///
    /// # Errors
    /// It is one that we cannot run yet; the error says which.
    pub fn identify(dir: &Path, class_name: &str, unet: &Signature) -> Result<Family> {
        let takes = |name: &str| unet.inputs.iter().any(|input| input.name == name);
        let channels = unet.inputs.iter().find(|input| input.name == "sample").and_then(|sample| sample.fixed(1));
        let found = if takes("time_ids") {
            Some("Stable Diffusion XL (its UNet takes `time_ids`)")
        } else if takes("timestep_cond") {
            Some("latent consistency models (its UNet takes `timestep_cond`)")
        } else {
            match channels {
                Some(9) => Some("inpainting (its UNet takes 9 channels)"),
                Some(8) => Some("image-conditioned UNets (its UNet takes 8 channels)"),
                Some(5 | 7) => Some("depth-conditioned UNets and upscalers (its UNet takes 5 or 7 channels)"),
                _ => None,
            }
        };
        found.map_or_else(|| Family::of_class(dir, class_name), |what| Err(not_yet(dir, what)))
    }

    /// Returns the family that a `_class_name` alone promises. Exporters put `ORT` or `Onnx` in front of diffusers' names.
    ///
    /// # Errors
    /// It is one that we cannot run yet.
    pub fn of_class(dir: &Path, class_name: &str) -> Result<Family> {
        match plain_class(class_name) {
            "StableDiffusionPipeline" | "StableDiffusionImg2ImgPipeline" => Ok(Family::StableDiffusion),
            _ => Err(not_yet(dir, &format!("pipelines of class `{class_name}`"))),
        }
    }
}

fn plain_class(class_name: &str) -> &str {
    class_name.strip_prefix("ORT").or_else(|| class_name.strip_prefix("Onnx")).unwrap_or(class_name)
}

/// Returns the error for a model that is whole but of a kind that we cannot run.
pub(super) fn not_yet(dir: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Model, "not_supported_yet", format!("{what}: not supported yet"))
        .at(Location::file(dir))
        .hint("supported are text-to-image models of class `StableDiffusionPipeline` (Stable Diffusion 1 and 2 and their like)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dim, Dtype, TensorInfo};

    fn unet(channels: u64, names: &[&str]) -> Signature {
        let dims = vec![Dim::Unknown, Dim::Fixed(channels), Dim::Unknown, Dim::Unknown];
        let input = |name: &&str| TensorInfo { name: (*name).into(), dtype: Dtype::Float32, dims: Some(dims.clone()) };
        Signature { inputs: names.iter().map(input).collect(), ..Signature::default() }
    }

    #[test]
    fn the_class_is_read_with_and_without_an_exporters_prefix() {
        for class in ["StableDiffusionPipeline", "ORTStableDiffusionPipeline", "OnnxStableDiffusionPipeline"] {
            let family = Family::identify(Path::new("m"), class, &unet(4, &["sample"])).expect("supported");
            assert_eq!(family, Family::StableDiffusion);
        }
    }

    #[test]
    fn what_we_cannot_run_is_named() {
        let message =
            |class, unet| Family::identify(Path::new("m"), class, &unet).expect_err("unsupported").to_string();
        let sd = "StableDiffusionPipeline";
        assert!(message(sd, unet(4, &["sample", "time_ids"])).contains("XL"), "the graph beats the class");
        assert!(message(sd, unet(4, &["sample", "timestep_cond"])).contains("consistency"));
        assert!(message(sd, unet(9, &["sample"])).contains("inpainting"));
        assert!(message("FluxPipeline", unet(4, &["sample"])).contains("`FluxPipeline`: not supported yet"));
    }
}
