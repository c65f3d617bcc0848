//! The UNet, or the transformer that some models have in its place, as a trait object for the engine.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use ndarray::{
    Array1, Array4, ArrayD, ArrayView2, ArrayView3, ArrayView4, ArrayViewD, Axis, CowArray, Ix2, Ix4, Slice,
};
use ort::session::SessionInputValue;

use super::binding::Bound;
use super::device::Device;
use super::gpu_options::Binding;
use super::guidance_embedding::guidance_embedding;
use super::lanes::{Batch, fill, least_entries};
use super::patches;
use super::rewrite::{FEATURES, Part, can_be_cut};
use super::runtime::Runtime;
use super::session::{GraphSession, Inputs, SessionOptions};
use super::tensor::{as_given, float_input, number_input, timestep_input, zeros_input};
use crate::engine::{TimestepInput, Unet, UnetInputs};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::model::{Dtype, GraphFile, GuidanceInput, ModelSpec, PositionIds, TensorInfo, TimestepShape, UnetGraph};

/// Width of `timestep_cond` where the graph does not say it: that of all published models.
const EMBEDDING_WIDTH: usize = 256;

/// A UNet graph.
pub struct OnnxUnet {
    graph: GraphSession,
    bound: UnetGraph,
    batch: Batch,
    is_on_gpu: bool,
    /// For inputs that stay on the device.
    resident: Option<Bound>,
    told_rounding: bool,
    /// Where images keep what the inner blocks gave.
    cut: Option<Cut>,
}

/// A UNet that is cut: what lies outside of its inner blocks, and the tensors at the cut.
struct Cut {
    shallow: GraphSession,
    /// An output of the whole.
    given: TensorInfo,
    /// An input of what lies outside, of the same type.
    taken: TensorInfo,
}

impl fmt::Debug for OnnxUnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxUnet").field("graph", &self.graph).field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl OnnxUnet {
    /// Returns how many of which operators of our own the graph has, where it was loaded with any.
    pub fn own_kernels(&self) -> &[(&'static str, usize)] {
        self.graph.own_kernels()
    }

    /// Loads the UNet of `spec`.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions) -> Result<Self> {
        let bound = spec.unet.clone();
        let part = options.keep_features.then_some(Part::Deep);
        if part.is_some() {
            check_cut(&bound.file, options.device)?;
        }
        let graph = GraphSession::load_part(runtime, ("UNet", &bound.file), part, options, true)?;
        let cut = graph.cut().map(|given| Cut::load(runtime, &bound, given, options)).transpose()?;
        let least = match options.device {
            Device::Cpu => least_entries(options.thread_count(), spec.attention_heads.unwrap_or(1)),
            _ => 1,
        };
        let batch = Batch { fixed: bound.sample.fixed(0), least };
        let is_on_gpu = options.device != Device::Cpu;
        let is_resident = match options.gpu.binding {
            Binding::Auto => is_on_gpu,
            Binding::On => true,
            Binding::Off => false,
        };
        let resident = is_resident.then(|| graph.bind(options.device, &bound.out_sample)).transpose()?;
        Ok(OnnxUnet { graph, bound, batch, is_on_gpu, resident, told_rounding: false, cut })
    }

    fn tell_rounding(&mut self, timesteps: &[f64]) {
        let fractional = || timesteps.iter().find(|timestep| timestep.fract() != 0.0);
        if self.told_rounding || !self.bound.timestep.dtype.is_int() {
            return;
        }
        if let Some(timestep) = fractional() {
            self.told_rounding = true;
            tracing::warn!("the UNet takes whole timesteps only: {timestep} and others like it are rounded");
        }
    }

    /// Makes one call with the lanes `range`, filled up to `size`.
    fn call(&mut self, inputs: &UnetInputs<'_>, range: &Range<usize>, size: usize) -> Result<Array4<f32>> {
        let lanes = CallLanes::new(&self.bound, inputs, range, size)?;
        lanes.check(&self.graph, &self.bound)?;
        let output: ArrayD<f32> = self.graph.run(lanes.inputs(&self.bound), &self.bound.out_sample)?;
        self.prediction(output, &lanes)
    }

    /// Makes one call whose inputs stay on the device; with `is_again`, only what changes from step to step goes there.
    fn call_resident(&mut self, resident: &mut Bound, inputs: &UnetInputs<'_>, is_again: bool) -> Result<Array4<f32>> {
        let size = inputs.sample.dim().0.max(self.batch.least);
        let lanes = CallLanes::new(&self.bound, inputs, &(0..inputs.sample.dim().0), size)?;
        lanes.check(&self.graph, &self.bound)?;
        let bound = &self.bound;
        let output = self.graph.run_bound(resident, |resident| {
            if !is_again {
                resident.keep(&lanes.conditions(bound)?)?;
            }
            let sample = resident.float_input(lanes.sample(), bound.sample.dtype)?;
            resident.bind(&vec![named(&bound.sample, sample), lanes.timestep(bound)?])
        })?;
        let mut prediction = self.prediction(output, &lanes)?;
        prediction.slice_axis_inplace(Axis(0), Slice::from(..inputs.sample.dim().0));
        Ok(prediction)
    }

    /// Returns what the graph gave as latents, if it has the right shape.
    fn prediction(&self, output: ArrayD<f32>, lanes: &CallLanes<'_>) -> Result<Array4<f32>> {
        let (height, width) = (lanes.sample.dim().2, lanes.sample.dim().3);
        let expected = lanes.output_shape(&self.bound);
        self.graph.check_output(&output, &self.bound.out_sample, &expected)?;
        let output = match self.bound.packed() {
            true => patches::unpack(output.view().into_dimensionality().expect("just checked").view(), (height, width)),
            false => output.into_dimensionality().expect("just checked"),
        };
        Ok(if self.bound.denoises { lanes.velocity(output, &self.bound) } else { output })
    }

    /// Makes one call of the whole graph, and returns what its inner blocks gave too.
    fn call_deep(&mut self, inputs: &UnetInputs<'_>, range: &Range<usize>, size: usize) -> Result<Vec<Array4<f32>>> {
        let cut = self.cut.as_ref().ok_or_else(not_cut)?;
        let lanes = CallLanes::new(&self.bound, inputs, range, size)?;
        lanes.check(&self.graph, &self.bound)?;
        let mut outputs = self.graph.run_all(lanes.inputs(&self.bound), &[&self.bound.out_sample, &cut.given])?;
        let features = outputs.pop().and_then(|features| features.into_dimensionality().ok());
        let features: Array4<f32> = features.ok_or_else(not_cut)?;
        let output = outputs.pop().ok_or_else(not_cut)?;
        Ok(vec![self.prediction(output, &lanes)?, features])
    }

    /// Makes one call without the inner blocks.
    fn call_shallow(
        &mut self,
        (inputs, features): (&UnetInputs<'_>, ArrayView4<'_, f32>),
        range: &Range<usize>,
        size: usize,
    ) -> Result<Array4<f32>> {
        let cut = self.cut.as_mut().ok_or_else(not_cut)?;
        let lanes = CallLanes::new(&self.bound, inputs, range, size)?;
        let features = fill(features, range, size);
        let all = lanes.inputs(&self.bound).and_then(|mut all| {
            // What only the inner blocks look at is no input of what lies outside of them.
            all.push(named(&cut.taken, float_input(features.view(), cut.taken.dtype)?));
            all.retain(|(name, _)| cut.shallow.takes(name));
            Ok(all)
        });
        let output: ArrayD<f32> = cut.shallow.run(all, &self.bound.out_sample)?;
        self.prediction(output, &lanes)
    }

    /// Fails where the inputs of a call are not for the same lanes; returns how many they are for.
    fn lanes_of(&mut self, inputs: &UnetInputs<'_>) -> Result<usize> {
        self.tell_rounding(inputs.timesteps);
        let lanes = inputs.sample.dim().0;
        if inputs.timesteps.len() != lanes || inputs.encoder_hidden_states.dim().0 != lanes {
            let (times, states) = (inputs.timesteps.len(), inputs.encoder_hidden_states.dim().0);
            let message = format!("{lanes} samples with {times} timesteps and embeddings for {states}");
            return Err(Error::new(ErrorKind::Unexpected, "lanes_differ", message));
        }
        Ok(lanes)
    }

    fn predict_on(&mut self, inputs: UnetInputs<'_>, is_again: bool) -> Result<Array4<f32>> {
        let lanes = self.lanes_of(&inputs)?;
        // Calls that are cut share nothing from step to step.
        if let Some(mut resident) = self.resident.take_if(|_| self.batch.fixed.is_none()) {
            let output = self.call_resident(&mut resident, &inputs, is_again);
            self.resident = Some(resident);
            return output;
        }
        self.batch.run(lanes, |range, size| self.call(&inputs, &range, size))
    }
}

impl Unet for OnnxUnet {
    fn timestep_input(&self) -> TimestepInput {
        match self.bound.timestep_shape {
            TimestepShape::PerLane => TimestepInput::PerLane,
            TimestepShape::Scalar | TimestepShape::One => TimestepInput::Shared,
        }
    }

    fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        self.predict_on(inputs, false)
    }

    fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        self.predict_on(inputs, true)
    }

    fn predict_deep(&mut self, inputs: UnetInputs<'_>) -> Result<(Array4<f32>, Array4<f32>)> {
        let lanes = self.lanes_of(&inputs)?;
        let batch = self.batch;
        let mut outputs = batch.run_all(lanes, |range, size| self.call_deep(&inputs, &range, size))?;
        let features = outputs.pop().ok_or_else(not_cut)?;
        Ok((outputs.pop().ok_or_else(not_cut)?, features))
    }

    fn predict_shallow(&mut self, inputs: UnetInputs<'_>, features: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let lanes = self.lanes_of(&inputs)?;
        let batch = self.batch;
        batch.run(lanes, |range, size| self.call_shallow((&inputs, features), &range, size))
    }

    fn wants_fixed_lanes(&self) -> bool {
        self.is_on_gpu && self.batch.fixed.is_none()
    }
}

impl Cut {
    fn load(runtime: &Runtime, bound: &UnetGraph, given: &str, options: &SessionOptions) -> Result<Self> {
        let shallow = GraphSession::load_part(runtime, ("UNet", &bound.file), Some(Part::Shallow), options, true)?;
        let tensor = |name: &str| TensorInfo { name: name.to_string(), dtype: Dtype::Float32, dims: None };
        let dtype = shallow.input_dtype(FEATURES).unwrap_or(Dtype::Float32);
        Ok(Cut { shallow, given: tensor(given), taken: TensorInfo { dtype, ..tensor(FEATURES) } })
    }
}

/// Fails where a graph cannot be cut, or its parts not run: TensorRT is told of shapes by the inputs of the whole.
fn check_cut(file: &GraphFile, device: Device) -> Result<()> {
    let error = |what: &str, hint: &str| {
        let message = format!("`cache_interval`: {what}");
        Err(Error::new(ErrorKind::Model, "cannot_be_cut", message).at(Location::file(&file.path)).hint(hint))
    };
    match device {
        Device::TensorRt(_) => {
            error("a UNet that is cut does not run on TensorRT", "use `--device cuda`, or leave it empty")
        }
        // A file that cannot be read says so when it is loaded.
        _ if can_be_cut(&file.path).unwrap_or(true) => Ok(()),
        _ => error("the UNet has no skip connection to cut it at", "leave it empty with this model"),
    }
}

fn not_cut() -> Error {
    Error::new(
        ErrorKind::Unexpected,
        "no_features",
        "the UNet was not loaded to keep what its inner blocks give, or gives no such thing",
    )
}

/// The tensors of one call, filled up to the number of lanes that it has.
struct CallLanes<'a> {
    sample: CowArray<'a, f32, Ix4>,
    packed: Option<ndarray::Array3<f32>>,
    timesteps: Vec<f64>,
    states: CowArray<'a, f32, ndarray::Ix3>,
    pooled: Option<CowArray<'a, f32, Ix2>>,
    time_ids: Option<CowArray<'a, f32, Ix2>>,
    guidance: Option<ArrayD<f32>>,
}

impl<'a> CallLanes<'a> {
    fn new(bound: &UnetGraph, inputs: &UnetInputs<'a>, range: &Range<usize>, size: usize) -> Result<Self> {
        let sample: ArrayView4<'a, f32> = inputs.sample;
        let states: ArrayView3<'a, f32> = inputs.encoder_hidden_states;
        let rows = |rows: ArrayView2<'a, f32>| fill(rows, range, size);
        let sample = fill(sample, range, size);
        let scales = filled(&inputs.guidance_scales[range.clone()], size);
        Ok(CallLanes {
            packed: bound.packed().then(|| patches::pack(sample.view())),
            sample,
            timesteps: call_timesteps(bound, &inputs.timesteps[range.clone()], size)?,
            states: fill(states, range, size),
            pooled: inputs.pooled.filter(|_| bound.pooled.is_some()).map(rows),
            time_ids: inputs.time_ids.filter(|_| bound.time_ids.is_some()).map(rows),
            guidance: bound.guidance.as_ref().map(|input| match input {
                GuidanceInput::Embedding(tensor) => {
                    guidance_embedding(&scales, tensor.fixed(1).unwrap_or(EMBEDDING_WIDTH)).into_dyn()
                }
                GuidanceInput::Scale(_) => Array1::from_iter(scales.iter().map(|scale| *scale as f32)).into_dyn(),
            }),
        })
    }

    /// Fails if a tensor has another shape than the graph takes, or one is missing.
    fn check(&self, graph: &GraphSession, bound: &UnetGraph) -> Result<()> {
        let sample = self.packed.as_ref().map_or(self.sample.shape(), |packed| packed.shape());
        graph.check(&bound.sample, sample)?;
        graph.check(&bound.encoder_hidden_states, self.states.shape())?;
        for (tensor, given) in [(&bound.pooled, &self.pooled), (&bound.time_ids, &self.time_ids)] {
            if let Some(tensor) = tensor {
                graph.check(tensor, given.as_ref().map_or(&[], |given| given.shape()))?;
            }
        }
        Ok(())
    }

    /// Returns the velocity of flow matching that leads to these `denoised` latents: `(sample − denoised) / sigma`, in what the
    /// network got of both.
    fn velocity(&self, denoised: Array4<f32>, bound: &UnetGraph) -> Array4<f32> {
        let mut velocity = denoised;
        for (lane, mut values) in velocity.outer_iter_mut().enumerate() {
            let sigma = as_given(self.timesteps[lane.min(self.timesteps.len() - 1)] as f32, bound.timestep.dtype);
            values.zip_mut_with(&self.sample.index_axis(Axis(0), lane), |value, sample| {
                *value = (as_given(*sample, bound.sample.dtype) - *value) / sigma;
            });
        }
        velocity
    }

    /// Image channels come in and do not come out.
    fn output_shape(&self, bound: &UnetGraph) -> Vec<usize> {
        let mut shape = self.packed.as_ref().map_or(self.sample.shape(), |packed| packed.shape()).to_vec();
        if let Some(channels) = bound.out_sample.fixed(1).filter(|_| !bound.packed()) {
            shape[1] = channels;
        }
        shape
    }

    fn inputs<'s>(&'s self, bound: &'s UnetGraph) -> ort::Result<Inputs<'s>> {
        let mut all =
            vec![named(&bound.sample, float_input(self.sample(), bound.sample.dtype)?), self.timestep(bound)?];
        all.extend(self.conditions(bound)?);
        Ok(all)
    }

    /// Samples as the graph takes them.
    fn sample(&self) -> ArrayViewD<'_, f32> {
        self.packed.as_ref().map_or(self.sample.view().into_dyn(), |packed| packed.view().into_dyn())
    }

    fn timestep<'s>(&self, bound: &'s UnetGraph) -> ort::Result<(Cow<'s, str>, SessionInputValue<'s>)> {
        let dims: &[usize] = if bound.timestep_shape == TimestepShape::Scalar { &[] } else { &[self.timesteps.len()] };
        Ok(named(&bound.timestep, timestep_input(&self.timesteps, dims, bound.timestep.dtype)?))
    }

    /// Inputs that are the same at every step.
    fn conditions<'s>(&'s self, bound: &'s UnetGraph) -> ort::Result<Inputs<'s>> {
        let states = float_input(self.states.view(), bound.encoder_hidden_states.dtype)?;
        let mut all = vec![named(&bound.encoder_hidden_states, states)];
        for (tensor, rows) in [(&bound.pooled, &self.pooled), (&bound.time_ids, &self.time_ids)] {
            if let (Some(tensor), Some(rows)) = (tensor, rows) {
                all.push(named(tensor, float_input(rows.view(), tensor.dtype)?));
            }
        }
        if let (Some(tensor), Some(guidance)) = (bound.guidance.as_ref().map(GuidanceInput::tensor), &self.guidance) {
            all.push(named(tensor, float_input(guidance.view(), tensor.dtype)?));
        }
        if let Some(control) = &bound.control {
            all.push(named(control, zeros_input(&self.control_shape(control), control.dtype)?));
        }
        if let Some(positions) = &bound.positions {
            all.extend(self.positions(positions)?);
        }
        Ok(all)
    }

    /// Zeros for every block that a ControlNet of the exporter's has, and every patch of 2×2 cells.
    fn control_shape(&self, control: &TensorInfo) -> [usize; 4] {
        let (lanes, _, height, width) = self.sample.dim();
        let fixed = |axis| control.fixed(axis).unwrap_or(1);
        [fixed(0), lanes, (height / 2) * (width / 2), fixed(3)]
    }

    /// The positions of texts, all zero, and of patches; with a batch before them where the graph takes one.
    fn positions<'s>(&'s self, ids: &'s PositionIds) -> ort::Result<[(Cow<'s, str>, SessionInputValue<'s>); 2]> {
        let (lanes, _, height, width) = self.sample.dim();
        let texts = ndarray::Array2::zeros((self.states.dim().1, 3));
        let input = |tensor: &'s TensorInfo, rows: ndarray::Array2<f64>| -> ort::Result<_> {
            let (count, axes) = rows.dim();
            let rows = match tensor.rank() {
                Some(3) => rows.broadcast((lanes, count, axes)).expect("a batch of the same").to_owned().into_dyn(),
                _ => rows.into_dyn(),
            };
            Ok(named(tensor, number_input(rows, tensor.dtype)?))
        };
        Ok([input(&ids.txt_ids, texts)?, input(&ids.img_ids, patches::positions(height, width))?])
    }
}

fn named<'v>(tensor: &'v TensorInfo, value: SessionInputValue<'v>) -> (Cow<'v, str>, SessionInputValue<'v>) {
    (tensor.name.as_str().into(), value)
}

fn filled(values: &[f64], size: usize) -> Vec<f64> {
    let mut all = values.to_vec();
    all.resize(size, values.last().copied().unwrap_or_default());
    all
}

/// Returns the timesteps of one call: one a lane, or the one that all lanes share. Flux's transformer takes thousandths, and so
/// do denoisers that are told sigma.
fn call_timesteps(bound: &UnetGraph, timesteps: &[f64], size: usize) -> Result<Vec<f64>> {
    let scaled = |timestep: &f64| {
        if bound.packed() || bound.denoises { f64::from(*timestep as f32 / 1000.0) } else { *timestep }
    };
    let timesteps: Vec<f64> = timesteps.iter().map(scaled).collect();
    if bound.timestep_shape == TimestepShape::PerLane {
        return Ok(filled(&timesteps, size));
    }
    let first = timesteps.first().copied().unwrap_or_default();
    if timesteps.iter().any(|timestep| *timestep != first) {
        let message = format!("lanes at different timesteps {timesteps:?} in a call of a UNet that takes one");
        return Err(Error::new(ErrorKind::Unexpected, "mixed_timesteps", message));
    }
    Ok(vec![first])
}
