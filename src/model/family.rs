//! Which kind of pipeline a model folder is, from its graphs first and its `model_index.json` second.

use std::path::Path;

use serde::Serialize;

use super::graph_file::GraphFile;
use crate::error::{Error, ErrorKind, Location, Result};

/// A kind of pipeline that we can run. What follows from it is in `recipes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Family {
    /// One CLIP text encoder, a UNet on its last hidden state: Stable Diffusion 1 and 2 and their like.
    StableDiffusion,
    /// One or two CLIP text encoders, a UNet that is told sizes too: SDXL, its refiner, Turbo, Lightning.
    StableDiffusionXl,
    /// Two CLIP text encoders and perhaps T5, a transformer, flow matching.
    StableDiffusion3,
    /// A CLIP text encoder, T5, a transformer on patches that is told positions, flow matching.
    Flux,
}

impl Family {
    /// Returns the family of the folder `dir` with this `_class_name` (where there is one) and this UNet or transformer.
    ///
    /// # Errors
    /// It is one that we cannot run; the error says which.
    pub fn identify(dir: &Path, class_name: Option<&str>, unet: &GraphFile) -> Result<Family> {
        if let Some(class_name) = class_name.filter(|class_name| !is_known(class_name)) {
            return Err(unsupported(dir, &format!("pipelines of class `{class_name}`")));
        }
        Ok(if unet.takes(&["img_ids"]) {
            Family::Flux
        } else if unet.takes(&["pooled_projections", "c_crossattn"]) {
            Family::StableDiffusion3
        } else if unet.takes(&["time_ids"]) {
            Family::StableDiffusionXl
        } else {
            Family::StableDiffusion
        })
    }
}

/// The beginnings of diffusers' names for pipelines that differ only in what they are given. Exporters put `ORT` or `Onnx`
/// in front.
const CLASSES: [&str; 5] =
    ["StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "LatentConsistencyModel", "Flux"];
const TASKS: [&str; 6] = ["", "Img2Img", "Inpaint", "InstructPix2Pix", "Instruct", "Pix2Pix"];

fn is_known(class_name: &str) -> bool {
    let plain = class_name.strip_prefix("ORT").or_else(|| class_name.strip_prefix("Onnx")).unwrap_or(class_name);
    let Some(plain) = plain.strip_suffix("Pipeline") else { return false };
    CLASSES.iter().any(|class| plain.strip_prefix(class).is_some_and(|task| TASKS.contains(&task)))
}

/// Returns the error for a model that is whole but of a kind that we cannot run.
pub(super) fn unsupported(dir: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Model, "not_supported_yet", format!("{what}: not supported yet"))
        .at(Location::file(dir))
        .hint("supported are Stable Diffusion 1, 2, XL and 3, Flux, latent consistency, inpainting and InstructPix2Pix models")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Signature, TensorInfo};

    fn unet(names: &[&str]) -> GraphFile {
        let input = |name: &&str| TensorInfo { name: (*name).into(), dtype: Dtype::Float32, dims: None };
        let signature = Signature { inputs: names.iter().map(input).collect(), ..Signature::default() };
        GraphFile { path: "m/unet/model.onnx".into(), signature }
    }

    fn family(class: Option<&str>, names: &[&str]) -> Result<Family> {
        Family::identify(Path::new("m"), class, &unet(names))
    }

    #[test]
    fn the_class_is_read_with_and_without_an_exporters_prefix() {
        for class in ["StableDiffusionPipeline", "ORTStableDiffusionPipeline", "OnnxStableDiffusionInpaintPipeline"] {
            assert_eq!(family(Some(class), &["sample"]).expect("supported"), Family::StableDiffusion);
        }
    }

    #[test]
    fn the_graph_decides() {
        let flux = ["hidden_states", "pooled_projections", "img_ids"];
        assert_eq!(family(None, &flux).expect("supported"), Family::Flux);
        assert_eq!(family(None, &flux[..2]).expect("supported"), Family::StableDiffusion3);
        let nvidia = ["sample", "sigma", "c_crossattn", "y"];
        assert_eq!(family(None, &nvidia).expect("supported"), Family::StableDiffusion3);
        let xl = family(Some("StableDiffusionPipeline"), &["sample", "time_ids"]).expect("supported");
        assert_eq!(xl, Family::StableDiffusionXl, "the graph beats the class");
    }

    #[test]
    fn what_we_cannot_run_is_named() {
        let error = family(Some("PixArtSigmaPipeline"), &["hidden_states"]).expect_err("unsupported").to_string();
        assert!(error.contains("`PixArtSigmaPipeline`: not supported yet"), "{error}");
        assert!(family(Some("StableDiffusionUpscalePipeline"), &["sample"]).is_err());
    }
}
