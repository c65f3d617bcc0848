//! A text encoder's graph, bound: ids to hidden states and pooled embeddings.

use super::graph_file::{FLOATS, GraphFile, Role};
use super::signature::{Dtype, TensorInfo};
use crate::error::Result;

/// Which of an encoder's layers a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The last, after the final layer norm.
    Last,
    /// The one before the last, as it is.
    Penultimate,
    /// None.
    Unused,
}

/// The text encoder: ids to embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderGraph {
    /// The file.
    pub file: GraphFile,
    /// int32 or int64 `[batch, sequence]`.
    pub input_ids: TensorInfo,
    /// int32, int64 or float `[batch, sequence]`, if the graph takes it: which ids count. All do, as in diffusers' pipelines.
    pub attention_mask: Option<TensorInfo>,
    /// float `[batch, sequence, width]`, of the layer that the model takes, if it takes one.
    pub hidden_states: Option<TensorInfo>,
    /// float `[batch, width]`, if the model takes it.
    pub pooled: Option<TensorInfo>,
    /// Hidden states of the layers before that one, nearest first, as far as the graph gives them. Where the model takes the
    /// last layer, the final layer norm is still to be applied to them.
    pub skipped: Vec<TensorInfo>,
}

const HIDDEN: Role = Role {
    side: "output",
    names: &["last_hidden_state", "text_embeddings", "prompt_embeds", "hidden_states"],
    may_have_any_name: true,
    ranks: &[3],
    shape: "[batch, sequence, width]",
    ..FLOATS
};

const STABILITY_POOLED: &str = "pooled_output";

/// The pooled embeddings of encoders with a projection, then of those without.
const POOLED: Role = Role {
    side: "output",
    names: &[
        "text_embeds",
        "pooled_embeddings",
        "pooled_prompt_embeds",
        "text_embeddings",
        STABILITY_POOLED,
        "pooler_output",
    ],
    ranks: &[2],
    shape: "[batch, width]",
    ..FLOATS
};

impl TextEncoderGraph {
    /// Binds `file` as a text encoder of `layers` layers (from its config, else as many as the graph has hidden states),
    /// for a model that takes `layer`, and the pooled embeddings if `pooled`.
    ///
    /// # Errors
    /// A name, dtype or number of dimensions is not a text encoder's.
    pub fn bind(file: GraphFile, layer: Layer, pooled: bool, layers: Option<usize>) -> Result<Self> {
        let ids = Role {
            names: &["input_ids"],
            may_have_any_name: true,
            dtype: Dtype::is_int,
            dtype_name: "int32 or int64",
            ranks: &[2],
            shape: "[batch, sequence]",
            ..FLOATS
        };
        let mask = Role {
            names: &["attention_mask"],
            may_have_any_name: false,
            dtype: |dtype| dtype.is_int() || dtype.is_float(),
            dtype_name: "int32, int64 or float",
            ..ids
        };
        let input_ids = file.input(&ids)?;
        let attention_mask = file.optional_input(&mask)?;
        let inputs: Vec<_> = std::iter::once(&input_ids).chain(&attention_mask).collect();
        file.only_inputs(&inputs)?;
        let numbered = numbered(&file);
        // Of N layers there are the embeddings, 0, and N outputs; optimum leaves the last out.
        let layers = layers.or(numbered.last().map(|(number, _)| layers_of(*number, layer))).unwrap_or(0);
        let hidden_states = match layer {
            Layer::Unused => None,
            Layer::Last => Some(file.output(&HIDDEN)?),
            Layer::Penultimate => Some(penultimate(&file, &numbered, layers)?),
        };
        let taken = if layer == Layer::Last { layers } else { layers.saturating_sub(1) };
        let before = numbered.into_iter().rev().filter(|(number, _)| *number < taken).map(|(_, tensor)| tensor);
        let skipped = before.collect();
        let pooled = if pooled { Some(file.output(&POOLED)?) } else { None };
        Ok(TextEncoderGraph { file, input_ids, attention_mask, hidden_states, pooled, skipped })
    }
}

/// Returns the number of layers of an encoder whose last `hidden_states` has this number, where no config says it. Encoders
/// of models that take the layer before the last have 12 or 32: an odd number means that the last was left out.
fn layers_of(last: usize, layer: Layer) -> usize {
    if layer == Layer::Penultimate { last.next_multiple_of(2) } else { last }
}

/// Returns the outputs `hidden_states.N`, rising.
fn numbered(file: &GraphFile) -> Vec<(usize, TensorInfo)> {
    let number = |tensor: &TensorInfo| tensor.name.strip_prefix("hidden_states.")?.parse().ok();
    let outputs = file.signature.outputs.iter();
    let mut found: Vec<_> = outputs.filter_map(|tensor| Some((number(tensor)?, tensor.clone()))).collect();
    found.sort_by_key(|(number, _)| *number);
    found
}

/// Returns the output of the layer before the last. Graphs made for one model give only that, without a number.
fn penultimate(file: &GraphFile, numbered: &[(usize, TensorInfo)], layers: usize) -> Result<TensorInfo> {
    let wanted = layers.checked_sub(1);
    if let Some((_, tensor)) = numbered.iter().find(|(number, _)| Some(*number) == wanted) {
        return Ok(tensor.clone());
    }
    // NVIDIA's demo of SD3 has it under the name of the last: what gives `pooled_output` beside it is Stability AI's own
    // encoder (`SDClipModel`), made for that layer.
    let is_stability = file.signature.outputs.iter().any(|output| output.name == STABILITY_POOLED);
    let names: &[_] = if is_stability { &["hidden_states", "text_embeddings"] } else { &["hidden_states"] };
    let chosen = Role { names, may_have_any_name: false, ..HIDDEN };
    file.output(&chosen).map_err(|error| {
        error.hint("the model takes the states of the layer before the last: export with all `hidden_states`, as `onnx/export.py` does")
    })
}
