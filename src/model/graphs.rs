//! The three graphs of a model, bound by name: which input is the sample, which output the prediction.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::missing;
use super::header::{is_lfs_pointer, read_signature};
use super::signature::{Dtype, Signature, TensorInfo};
use crate::error::{Error, ErrorKind, Location, Result};

/// A graph file and what it declares.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphFile {
    /// The `.onnx` file.
    pub path: PathBuf,
    /// Its inputs, outputs and origin.
    pub signature: Signature,
}

impl GraphFile {
    /// Returns the graph of the first of `folders` under `dir` that there is.
    ///
    /// # Errors
    /// There is none, it is not an ONNX graph, or a file with its weights is missing.
    pub fn open(dir: &Path, folders: &[&str]) -> Result<GraphFile> {
        let paths = folders.iter().map(|folder| dir.join(folder).join("model.onnx"));
        let Some(path) = paths.clone().find(|path| path.exists()) else {
            let first = paths.into_iter().next().unwrap_or_else(|| dir.to_path_buf());
            return Err(missing(&first).hint(
                "a model folder holds `text_encoder`, `unet` and `vae_decoder`, each with `model.onnx`; \
                 export PyTorch weights with `onnx/export.py`",
            ));
        };
        let graph = GraphFile { signature: read_signature(&path)?, path };
        graph.external_files().iter().try_for_each(|file| check_weights(&graph.path, file))?;
        Ok(graph)
    }

    /// Returns the files beside the graph that hold its weights.
    pub fn external_files(&self) -> Vec<PathBuf> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.signature.external_data.iter().map(|name| folder.join(name)).collect()
    }

    /// Returns the only tensor of `tensors` with one of the names of `role`, or the only tensor at all.
    fn bind(&self, tensors: &[TensorInfo], role: &Role) -> Result<TensorInfo> {
        let named = role.names.iter().find_map(|name| tensors.iter().find(|tensor| tensor.name == *name));
        let tensor = match (named, tensors) {
            (Some(tensor), _) => tensor,
            (None, [only]) if role.may_have_any_name => only,
            _ => return Err(self.unbound(tensors, role)),
        };
        if !(role.dtype)(tensor.dtype) {
            return Err(self.error(format!("{tensor} must be {}", role.dtype_name)));
        }
        if tensor.rank().is_some_and(|rank| !role.ranks.contains(&rank)) {
            return Err(self.error(format!("{tensor} must be {}", role.shape)));
        }
        Ok(tensor.clone())
    }

    fn unbound(&self, tensors: &[TensorInfo], role: &Role) -> Error {
        let have: Vec<_> = tensors.iter().map(ToString::to_string).collect();
        let have = if have.is_empty() { "nothing".into() } else { have.join(", ") };
        self.error(format!("the graph has no {} `{}`, only {have}", role.side, role.names[0]))
            .hint("export the model with optimum's names, for example with `onnx/export.py`")
    }

    /// Fails if the graph has inputs besides `bound`: they would have to be fed.
    fn only_inputs(&self, bound: &[&TensorInfo]) -> Result<()> {
        let other = self.signature.inputs.iter().find(|input| bound.iter().all(|bound| bound.name != input.name));
        other.map_or(Ok(()), |other| Err(self.error(format!("the graph takes {other}, which is not supported yet"))))
    }

    fn error(&self, message: String) -> Error {
        Error::new(ErrorKind::Model, "graph_signature", message).at(Location::file(&self.path))
    }
}

fn check_weights(graph: &Path, file: &Path) -> Result<()> {
    if !file.is_file() {
        let message = format!("the weights `{}` of this graph are not there", file.display());
        return Err(Error::new(ErrorKind::Model, "weights_missing", message)
            .at(Location::file(graph))
            .hint("copy that file too, under the same name and beside the graph"));
    }
    if is_lfs_pointer(file) {
        let message = "the weights are a Git LFS pointer, not the weights";
        return Err(Error::new(ErrorKind::Model, "weights_missing", message)
            .at(Location::file(file))
            .hint("fetch the content with `git lfs pull`"));
    }
    Ok(())
}

/// What an input or output must be.
struct Role {
    side: &'static str,
    /// optimum's name first, then those of other exporters.
    names: &'static [&'static str],
    /// Whether a graph's only tensor on this side is it whatever its name.
    may_have_any_name: bool,
    dtype: fn(Dtype) -> bool,
    dtype_name: &'static str,
    ranks: &'static [usize],
    shape: &'static str,
}

const FLOATS: Role = Role {
    side: "input",
    names: &[],
    may_have_any_name: false,
    dtype: Dtype::is_float,
    dtype_name: "a float tensor",
    ranks: &[4],
    shape: "[batch, channels, height, width]",
};

/// The text encoder: ids to embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderGraph {
    /// The file.
    pub file: GraphFile,
    /// int32 or int64 `[batch, sequence]`.
    pub input_ids: TensorInfo,
    /// float `[batch, sequence, width]`.
    pub last_hidden_state: TensorInfo,
}

impl TextEncoderGraph {
    /// Binds `file` as a text encoder.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a text encoder's.
    pub fn bind(file: GraphFile) -> Result<Self> {
        let ids = Role {
            names: &["input_ids"],
            may_have_any_name: true,
            dtype: Dtype::is_int,
            dtype_name: "int32 or int64",
            ranks: &[2],
            shape: "[batch, sequence]",
            ..FLOATS
        };
        let embeds = Role {
            side: "output",
            names: &["last_hidden_state", "text_embeddings", "prompt_embeds"],
            may_have_any_name: true,
            ranks: &[3],
            shape: "[batch, sequence, width]",
            ..FLOATS
        };
        let input_ids = file.bind(&file.signature.inputs, &ids)?;
        let last_hidden_state = file.bind(&file.signature.outputs, &embeds)?;
        file.only_inputs(&[&input_ids])?;
        Ok(TextEncoderGraph { file, input_ids, last_hidden_state })
    }
}

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

/// The UNet: sample, timestep and embeddings to a prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetGraph {
    /// The file.
    pub file: GraphFile,
    /// float `[batch, channels, height, width]`.
    pub sample: TensorInfo,
    /// float or int64; see `timestep_shape`.
    pub timestep: TensorInfo,
    /// float `[batch, sequence, width]`.
    pub encoder_hidden_states: TensorInfo,
    /// float, of `sample`'s shape.
    pub out_sample: TensorInfo,
    /// How many timesteps one call takes.
    pub timestep_shape: TimestepShape,
}

impl UnetGraph {
    /// Binds `file` as a UNet.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a UNet's, or it takes more than we feed.
    pub fn bind(file: GraphFile) -> Result<Self> {
        let timestep = Role {
            names: &["timestep", "timesteps"],
            dtype: |dtype| dtype.is_float() || dtype.is_int(),
            dtype_name: "float or int64",
            ranks: &[0, 1],
            shape: "a scalar, [1] or [batch]",
            ..FLOATS
        };
        let states =
            Role { names: &["encoder_hidden_states"], ranks: &[3], shape: "[batch, sequence, width]", ..FLOATS };
        let out = Role {
            side: "output",
            names: &["out_sample", "latent", "out_hidden_states", "sample", "noise_pred"],
            may_have_any_name: true,
            ..FLOATS
        };
        let sample = file.bind(&file.signature.inputs, &Role { names: &["sample"], ..FLOATS })?;
        let timestep = file.bind(&file.signature.inputs, &timestep)?;
        let encoder_hidden_states = file.bind(&file.signature.inputs, &states)?;
        let out_sample = file.bind(&file.signature.outputs, &out)?;
        file.only_inputs(&[&sample, &timestep, &encoder_hidden_states])?;
        let timestep_shape = timestep_shape(&file, &timestep)?;
        Ok(UnetGraph { file, sample, timestep, encoder_hidden_states, out_sample, timestep_shape })
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

/// The VAE's decoder: latents to pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeDecoderGraph {
    /// The file.
    pub file: GraphFile,
    /// float `[batch, channels, height, width]`.
    pub latent_sample: TensorInfo,
    /// float `[batch, 3, height, width]`.
    pub sample: TensorInfo,
}

impl VaeDecoderGraph {
    /// Binds `file` as a VAE decoder.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a VAE decoder's.
    pub fn bind(file: GraphFile) -> Result<Self> {
        let latent = Role { names: &["latent_sample", "latent", "latents"], may_have_any_name: true, ..FLOATS };
        let image = Role { side: "output", names: &["sample", "images"], may_have_any_name: true, ..FLOATS };
        let latent_sample = file.bind(&file.signature.inputs, &latent)?;
        let sample = file.bind(&file.signature.outputs, &image)?;
        file.only_inputs(&[&latent_sample])?;
        Ok(VaeDecoderGraph { file, latent_sample, sample })
    }
}
