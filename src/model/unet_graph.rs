//! The graph of a UNet, or of the transformer that some models have in its place, bound.

use serde::Serialize;

use super::graph_file::{FLOATS, GraphFile, Role};
use super::signature::TensorInfo;
use crate::error::Result;

/// How many timesteps one call of a UNet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TimestepShape {
    /// `[]`: one for the call.
    Scalar,
    /// `[1]`: one for the call.
    One,
    /// `[batch]`: one a lane.
    PerLane,
}

/// An input that takes the guidance scale.
#[derive(Debug, Clone, PartialEq)]
pub enum GuidanceInput {
    /// `timestep_cond` `[batch, width]`: sines and cosines of the scale.
    Embedding(TensorInfo),
    /// `guidance` `[batch]`: the scale.
    Scale(TensorInfo),
}

impl GuidanceInput {
    /// Returns the input.
    pub fn tensor(&self) -> &TensorInfo {
        let (GuidanceInput::Embedding(tensor) | GuidanceInput::Scale(tensor)) = self;
        tensor
    }
}

/// Positions of tokens, for transformers that are told them.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionIds {
    /// `[tokens, 3]`, zeros; with a batch before it in old exports.
    pub txt_ids: TensorInfo,
    /// `[patches, 3]`: 0, row, column; with a batch before it in old exports.
    pub img_ids: TensorInfo,
}

/// The UNet: sample, timestep and embeddings to a prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetGraph {
    /// The file.
    pub file: GraphFile,
    /// float `[batch, channels, height, width]`, or `[batch, patches, channels · 4]` where [`UnetGraph::packed`].
    pub sample: TensorInfo,
    /// float or int64; see `timestep_shape`.
    pub timestep: TensorInfo,
    /// float `[batch, sequence, width]`.
    pub encoder_hidden_states: TensorInfo,
    /// float `[batch, width]`: pooled text embeddings.
    pub pooled: Option<TensorInfo>,
    /// float `[batch, 5 or 6]`.
    pub time_ids: Option<TensorInfo>,
    /// Takes the guidance scale.
    pub guidance: Option<GuidanceInput>,
    /// Take positions.
    pub positions: Option<PositionIds>,
    /// float, of `sample`'s shape but for image channels.
    pub out_sample: TensorInfo,
    /// How many timesteps one call takes.
    pub timestep_shape: TimestepShape,
    /// Whether the graph takes `sigma` in place of a timestep and gives denoised latents in place of a velocity: NVIDIA's demo
    /// exports SD3 so, as Stability AI's own code has it (`sd3_impls.py`, `BaseModel.forward`).
    pub denoises: bool,
    /// float `[blocks, batch, patches, width]`: what a ControlNet adds to the transformer's blocks.
    pub control: Option<TensorInfo>,
}

const VECTOR: Role = Role { ranks: &[2], shape: "[batch, width]", ..FLOATS };

const CONTROL: Role = Role {
    names: &["block_controlnet_hidden_states"],
    ranks: &[4],
    shape: "[blocks, batch, patches, width]",
    ..FLOATS
};

impl UnetGraph {
    /// Binds `file` as a UNet or a transformer.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a UNet's, or it takes more than we feed.
    pub fn bind(file: GraphFile) -> Result<Self> {
        let numbers =
            Role { dtype: |dtype| dtype.is_float() || dtype.is_int(), dtype_name: "float or int64", ..FLOATS };
        let latents = Role { ranks: &[3, 4], shape: "[batch, channels, height, width]", ..FLOATS };
        let timestep = Role {
            names: &["timestep", "timesteps", "sigma"],
            ranks: &[0, 1],
            shape: "a scalar, [1] or [batch]",
            ..numbers
        };
        let states = Role {
            names: &["encoder_hidden_states", "c_crossattn"],
            ranks: &[3],
            shape: "[batch, sequence, width]",
            ..FLOATS
        };
        let out = Role {
            side: "output",
            names: &["out_sample", "latent", "out_hidden_states", "sample", "noise_pred"],
            may_have_any_name: true,
            ..latents
        };
        let ids = |names| Role { names, ranks: &[2, 3], shape: "[tokens, 3]", ..numbers };
        let guidance = Role { names: &["guidance"], ranks: &[1], shape: "[batch]", ..FLOATS };
        let sample = file.input(&Role { names: &["sample", "hidden_states"], ..latents })?;
        let timestep = file.input(&timestep)?;
        let encoder_hidden_states = file.input(&states)?;
        let pooled = file.optional_input(&Role { names: &["text_embeds", "pooled_projections", "y"], ..VECTOR })?;
        let time_ids = file.optional_input(&Role { names: &["time_ids"], ..VECTOR })?;
        let embedding = file.optional_input(&Role { names: &["timestep_cond"], ..VECTOR })?;
        let scale = file.optional_input(&guidance)?;
        let guidance = embedding.map(GuidanceInput::Embedding).or(scale.map(GuidanceInput::Scale));
        let positions = match (file.optional_input(&ids(&["txt_ids"]))?, file.optional_input(&ids(&["img_ids"]))?) {
            (Some(txt_ids), Some(img_ids)) => Some(PositionIds { txt_ids, img_ids }),
            _ => None,
        };
        let out_sample = file.output(&out)?;
        let control = file.optional_input(&CONTROL)?;
        if let Some(control) = control.as_ref().filter(|tensor| tensor.fixed(0).is_none() || tensor.fixed(3).is_none())
        {
            let message = format!("{control} does not say how many blocks of what width it takes");
            return Err(file.error(message).hint("export the transformer without a ControlNet's inputs"));
        }
        let timestep_shape = timestep_shape(&file, &timestep)?;
        let unet = UnetGraph {
            sample,
            encoder_hidden_states,
            pooled,
            time_ids,
            guidance,
            positions,
            out_sample,
            timestep_shape,
            denoises: timestep.name == "sigma",
            control,
            timestep,
            file,
        };
        unet.file.only_inputs(&unet.inputs())?;
        Ok(unet)
    }

    /// Returns whether the graph takes latents in patches of 2×2 cells rather than as a picture (Flux).
    pub fn packed(&self) -> bool {
        self.sample.rank() == Some(3)
    }

    fn inputs(&self) -> Vec<&TensorInfo> {
        let guidance = self.guidance.as_ref().map(GuidanceInput::tensor);
        let optional = [self.pooled.as_ref(), self.time_ids.as_ref(), guidance, self.control.as_ref()];
        let positions = self.positions.iter().flat_map(|positions| [&positions.txt_ids, &positions.img_ids]);
        let all = [&self.sample, &self.timestep, &self.encoder_hidden_states].into_iter();
        all.chain(optional.into_iter().flatten()).chain(positions).collect()
    }
}

fn timestep_shape(file: &GraphFile, timestep: &TensorInfo) -> Result<TimestepShape> {
    match (timestep.rank(), timestep.fixed(0)) {
        (Some(0), _) => Ok(TimestepShape::Scalar),
        (Some(1), Some(1)) => Ok(TimestepShape::One),
        (Some(1), _) => Ok(TimestepShape::PerLane),
        _ => Err(file.error(format!("{timestep} does not say whether it is a scalar or one value a lane"))),
    }
}
