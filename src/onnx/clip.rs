//! A CLIP model: pictures and texts to embeddings.

use ndarray::{Array1, ArrayD, ArrayView1, ArrayView3, Axis};

use super::cuda_libraries;
use super::device::Device;
use super::heap;
use super::runtime::Runtime;
use super::session::{GraphSession, Inputs, SessionOptions};
use super::tensor::{float_input, ids_input, number_input};
use crate::error::Result;
use crate::model::{ImageTower, ScorerSpec, TextTower};

/// A CLIP model's graphs, or the one that has both towers. One picture and one text a call: an embedding never depends on
/// what else is scored.
#[derive(Debug)]
pub struct OnnxClip {
    /// Embeds texts, and pictures too where `image` is none.
    text: GraphSession,
    image: Option<GraphSession>,
    bound: (TextTower, ImageTower),
}

/// A text as a CLIP model takes it.
#[derive(Debug, Clone, Copy)]
pub struct TextInput<'a> {
    /// Ids, padded.
    pub input_ids: ArrayView1<'a, i64>,
    /// How many of them are the text's, with start and end.
    pub length: usize,
}

impl OnnxClip {
    /// Loads the graphs of `spec`. On a processor one thread works on a call, so that scores have the same bits whatever
    /// `options` say; with TensorRT they run on CUDA, since an engine is not worth its building for them.
    ///
    /// # Errors
    /// ONNX Runtime cannot load a graph or use the device.
    pub fn load(runtime: &Runtime, spec: &ScorerSpec, options: &SessionOptions) -> Result<Self> {
        let device = match options.device {
            Device::TensorRt(number) => Device::Cuda(number),
            other => other,
        };
        cuda_libraries::open(runtime, device)?;
        let options = SessionOptions { device, threads: 1, ..options.clone() };
        let load = |file| GraphSession::load(runtime, ("scorer", file), &options, false);
        let text = load(&spec.text.file)?;
        let image = if spec.is_joint() { None } else { Some(load(&spec.image.file)?) };
        heap::give_back();
        Ok(OnnxClip { text, image, bound: (spec.text.clone(), spec.image.clone()) })
    }

    /// Returns the embeddings `[width]` of a picture, prepared as `pixel_values` `[3, height, width]`, and of a text; they may
    /// have any length.
    ///
    /// # Errors
    /// A graph fails to run.
    pub fn embed<'v>(
        &'v mut self,
        pixel_values: ArrayView3<'v, f32>,
        text: TextInput<'v>,
    ) -> Result<(Array1<f32>, Array1<f32>)> {
        let (text_tower, image_tower) = &self.bound;
        let wanted = [&image_tower.image_embeds, &text_tower.text_embeds];
        let (of_text, of_image) = (text_inputs(text_tower, text), image_inputs(image_tower, pixel_values));
        let mut outputs = match &mut self.image {
            Some(image) => [image.run_all(of_image, &wanted[..1])?, self.text.run_all(of_text, &wanted[1..])?].concat(),
            None => self.text.run_all(both(of_text, of_image), &wanted)?,
        };
        let mut next = || outputs.pop().map(|output| output.into_iter().collect()).unwrap_or_default();
        let text = next();
        Ok((next(), text))
    }
}

fn text_inputs<'v>(tower: &'v TextTower, text: TextInput<'v>) -> ort::Result<Inputs<'v>> {
    let ids = text.input_ids.insert_axis(Axis(0));
    let mut inputs: Inputs<'v> = vec![(tower.input_ids.name.as_str().into(), ids_input(ids, tower.input_ids.dtype)?)];
    if let Some(tensor) = &tower.attention_mask {
        let counts = |place: ndarray::IxDyn| f64::from(u8::from(place[1] < text.length));
        let mask = ArrayD::from_shape_fn(vec![1, text.input_ids.len()], counts);
        inputs.push((tensor.name.as_str().into(), number_input(mask, tensor.dtype)?));
    }
    Ok(inputs)
}

fn image_inputs<'v>(tower: &'v ImageTower, pixel_values: ArrayView3<'v, f32>) -> ort::Result<Inputs<'v>> {
    let tensor = &tower.pixel_values;
    Ok(vec![(tensor.name.as_str().into(), float_input(pixel_values.insert_axis(Axis(0)), tensor.dtype)?)])
}

fn both<'v>(text: ort::Result<Inputs<'v>>, image: ort::Result<Inputs<'v>>) -> ort::Result<Inputs<'v>> {
    Ok(text?.into_iter().chain(image?).collect())
}
