//! A text encoder as a trait object for the engine.

use ndarray::{Array2, Array3, ArrayD, ArrayView2, Axis, Slice};

use super::device::Device;
use super::heap;
use super::lanes::Batch;
use super::layer_norm::LayerNorm;
use super::runtime::Runtime;
use super::session::{GraphSession, Inputs, SessionOptions};
use super::tensor::{ids_input, number_input};
use crate::engine::{Encoded, TextEncoder};
use crate::error::{Error, ErrorKind, Location, OUT_OF_MEMORY, Result};
use crate::model::{Layer, TensorInfo, TextEncoderGraph, TextPart};

/// Texts of every call on a GPU.
const TEXTS_ON_GPU: usize = 16;

/// A text encoder graph. The rows of its attention are never fewer than the columns (77 tokens, heads of 64), so unlike the
/// UNet it needs no filling up to give a text the same bits alone and among others.
#[derive(Debug)]
pub struct OnnxTextEncoder {
    /// Loaded; `None` while there are no texts.
    graph: Option<GraphSession>,
    runtime: Runtime,
    options: SessionOptions,
    bound: TextEncoderGraph,
    layer: Layer,
    has_layers_to_skip: bool,
    batch: Batch,
    /// Whether calls may become smaller where memory does not suffice.
    may_shrink: bool,
    /// Read when the first text skips layers.
    final_layer_norm: Option<LayerNorm>,
}

impl OnnxTextEncoder {
    /// Loads a text encoder.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(runtime: &Runtime, part: &TextPart, options: &SessionOptions) -> Result<Self> {
        let graph = load(runtime, &part.graph, options)?;
        // On a GPU a text has the same bits whatever others share its call only if all calls have one size.
        let one_size = (options.device != Device::Cpu).then_some(TEXTS_ON_GPU);
        let batch = Batch { fixed: part.graph.input_ids.fixed(0).or(one_size), least: 1 };
        let may_shrink = one_size.is_some() && batch.fixed == one_size;
        let (bound, layer, has_layers_to_skip) = (part.graph.clone(), part.layer(), part.has_layers_to_skip());
        let (runtime, options, graph) = (runtime.clone(), options.clone(), Some(graph));
        let final_layer_norm = None;
        Ok(OnnxTextEncoder {
            graph,
            runtime,
            options,
            bound,
            layer,
            has_layers_to_skip,
            batch,
            may_shrink,
            final_layer_norm,
        })
    }

    /// Runs the graph on `input_ids` and returns the outputs `wanted`, each with one entry a text; on a GPU, in calls of half the
    /// size from then on where memory does not suffice.
    fn outputs(&mut self, input_ids: ArrayView2<'_, i64>, wanted: &[&TensorInfo]) -> Result<Vec<ArrayD<f32>>> {
        loop {
            match (self.try_outputs(input_ids, wanted), self.batch.fixed) {
                (Err(error), Some(texts)) if self.may_shrink && texts > 1 && error.code() == OUT_OF_MEMORY => {
                    tracing::warn!(
                        "{} texts a call are too many for the memory, {} are tried: {error}",
                        texts,
                        texts / 2
                    );
                    self.batch.fixed = Some(texts / 2);
                }
                (outputs, _) => return outputs,
            }
        }
    }

    fn try_outputs(&mut self, input_ids: ArrayView2<'_, i64>, wanted: &[&TensorInfo]) -> Result<Vec<ArrayD<f32>>> {
        let OnnxTextEncoder { graph, runtime, options, bound, batch, .. } = self;
        let graph = match graph {
            Some(graph) => graph,
            None => graph.insert(load(runtime, bound, options)?),
        };
        batch.run_all(input_ids.nrows(), |range, size| {
            let ids = filled(input_ids.slice_axis(Axis(0), Slice::from(range)), size);
            let input = &bound.input_ids;
            graph.check(input, ids.shape())?;
            let inputs = inputs(bound, ids.view());
            graph.run_all(inputs, wanted)
        })
    }

    /// Returns the output that stands for the layer `skip` before the model's own, 0 being that itself.
    fn layer(&self, skip: u32) -> Result<Option<TensorInfo>> {
        let graph = &self.bound;
        match skip.checked_sub(1) {
            Some(before) if self.has_layers_to_skip => {
                graph.skipped.get(before as usize).cloned().map(Some).ok_or_else(|| self.no_layer(skip))
            }
            _ => Ok(graph.hidden_states.clone()),
        }
    }

    /// Applies the final layer norm to states of a layer that was not meant to be the last (diffusers 0.42.1,
    /// `encode_prompt` of Stable Diffusion). Models that take the layer before the last take it as it is.
    fn normalize(&mut self, states: Array3<f32>) -> Result<Array3<f32>> {
        let norm = match self.final_layer_norm.take() {
            Some(norm) => norm,
            None => LayerNorm::read(&self.bound.file)?,
        };
        let states = norm.apply(states);
        self.final_layer_norm = Some(norm);
        Ok(states)
    }

    fn odd_output(&self, tensor: &TensorInfo, error: &dyn std::fmt::Display) -> Error {
        Error::new(ErrorKind::Model, "graph_shape", format!("the text encoder gives {tensor} an odd shape: {error}"))
            .at(Location::file(&self.bound.file.path))
    }

    fn no_layer(&self, skip: u32) -> Error {
        let there = self.bound.skipped.len();
        let message =
            format!("`clip_skip` {skip}: the text encoder's graph gives the states of {there} layers before its own");
        Error::new(ErrorKind::Row, "clip_skip", message)
            .at(Location::file(&self.bound.file.path))
            .hint("skip fewer layers, or export the model with all `hidden_states`, as `onnx/export.py` does")
    }
}

/// Returns the inputs of a call with `ids`; where the graph takes a mask, all ids count.
fn inputs<'v>(bound: &'v TextEncoderGraph, ids: ArrayView2<'v, i64>) -> ort::Result<Inputs<'v>> {
    let mut inputs: Inputs<'v> = vec![(bound.input_ids.name.as_str().into(), ids_input(ids, bound.input_ids.dtype)?)];
    if let Some(mask) = &bound.attention_mask {
        let all = number_input(ArrayD::ones(ids.shape()), mask.dtype)?;
        inputs.push((mask.name.as_str().into(), all));
    }
    Ok(inputs)
}

/// Returns `ids` with the last row repeated until there are `size`.
fn filled(ids: ArrayView2<'_, i64>, size: usize) -> Array2<i64> {
    let order: Vec<usize> = (0..size).map(|i| i.min(ids.nrows() - 1)).collect();
    ids.select(Axis(0), &order)
}

fn load(runtime: &Runtime, bound: &TextEncoderGraph, options: &SessionOptions) -> Result<GraphSession> {
    GraphSession::load(runtime, ("text encoder", &bound.file), options, false)
}

impl TextEncoder for OnnxTextEncoder {
    fn rest(&mut self) {
        if self.graph.take().is_some() {
            heap::give_back();
        }
    }

    fn encode(&mut self, input_ids: ArrayView2<'_, i64>, clip_skip: u32) -> Result<Encoded> {
        let states = self.layer(clip_skip)?;
        let pooled = self.bound.pooled.clone();
        let wanted: Vec<_> = states.iter().chain(&pooled).collect();
        let mut outputs = self.outputs(input_ids, &wanted)?.into_iter();
        let mut encoded = Encoded { hidden_states: None, pooled: None };
        if let (Some(tensor), Some(output)) = (&states, states.as_ref().and_then(|_| outputs.next())) {
            let output = output.into_dimensionality().map_err(|error| self.odd_output(tensor, &error))?;
            let skipped = clip_skip > 0 && self.has_layers_to_skip && self.layer == Layer::Last;
            encoded.hidden_states = Some(if skipped { self.normalize(output)? } else { output });
        }
        if let (Some(tensor), Some(output)) = (&pooled, outputs.next()) {
            encoded.pooled = Some(output.into_dimensionality().map_err(|error| self.odd_output(tensor, &error))?);
        }
        Ok(encoded)
    }
}
