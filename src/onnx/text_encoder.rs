//! The text encoder as a trait object for the engine.

use ndarray::{Array3, ArrayView2, Axis, Slice};

use super::lanes::Batch;
use super::runtime::Runtime;
use super::session::{GraphSession, SessionOptions};
use super::tensor::ids_input;
use crate::engine::TextEncoder;
use crate::error::Result;
use crate::model::{ModelSpec, TensorInfo};

/// A text encoder graph. The rows of its attention are never fewer than the columns (77 tokens, heads of 64), so unlike the
/// UNet it needs no filling up to give a text the same bits alone and among others.
#[derive(Debug)]
pub struct OnnxTextEncoder {
    graph: GraphSession,
    input_ids: TensorInfo,
    batch: Batch,
}

impl OnnxTextEncoder {
    /// Loads the text encoder of `spec`.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions) -> Result<Self> {
        let text = &spec.text_encoder;
        let graph = GraphSession::load(runtime, ("text encoder", &text.file), &text.last_hidden_state, options, false)?;
        let batch = Batch { fixed: text.input_ids.fixed(0), least: 1 };
        Ok(OnnxTextEncoder { graph, input_ids: text.input_ids.clone(), batch })
    }
}

impl TextEncoder for OnnxTextEncoder {
    fn encode(&mut self, input_ids: ArrayView2<'_, i64>) -> Result<Array3<f32>> {
        let OnnxTextEncoder { graph, input_ids: input, batch } = self;
        batch.run(input_ids.nrows(), |range, size| {
            let ids = input_ids.slice_axis(Axis(0), Slice::from(range.clone()));
            let order: Vec<usize> = (0..size).map(|i| i.min(range.len() - 1)).collect();
            let ids = ids.select(Axis(0), &order);
            graph.check(input, ids.shape())?;
            let inputs = ids_input(ids.view(), input.dtype).map(|ids| vec![(input.name.as_str().into(), ids)]);
            graph.run(inputs)
        })
    }
}
