//! The UNet, or the transformer that some models have in its place, as a trait object for the engine.

use std::fmt;
use std::ops::Range;

use ndarray::{Array4, ArrayD, ArrayView4, Axis, Slice};

use super::binding::Bound;
use super::call_lanes::{CallLanes, named};
use super::captured::{CallInputs, Captured};
use super::device::Device;
use super::gpu_options::{Binding, GpuOptions};
use super::lanes::{Batch, fill, least_entries};
use super::patches;
use super::rewrite::{FEATURES, Part, can_be_cut};
use super::runtime::Runtime;
use super::session::{GraphSession, SessionOptions};
use super::tensor::float_input;
use crate::engine::{TimestepInput, Unet, UnetInputs};
use crate::error::{Error, ErrorKind, Location, Result};
use crate::model::{Dtype, GraphFile, ModelSpec, TensorInfo, TimestepShape, UnetGraph};

/// A UNet graph.
pub struct OnnxUnet {
    graph: GraphSession,
    bound: UnetGraph,
    batch: Batch,
    is_on_gpu: bool,
    /// For tensors that stay on the device.
    resident: Option<Resident>,
    told_rounding: bool,
    /// Where images keep what the inner blocks gave.
    cut: Option<Cut>,
}

/// Tensors that stay on the device from call to call.
enum Resident {
    /// Those inputs that are the same at every step.
    Inputs(Box<Bound>),
    /// All of them, at one address for good.
    Captured(Captured),
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
        let options = &recordable(options, &bound);
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
        let output = &bound.out_sample;
        let resident = match options.gpu.binding {
            // Calls that are cut share nothing from step to step.
            _ if batch.fixed.is_some() => None,
            Binding::Captured => Some(Resident::Captured(graph.capture(options.device, output)?)),
            Binding::On => Some(Resident::Inputs(Box::new(graph.bind(options.device, output)?))),
            Binding::Auto if is_on_gpu => Some(Resident::Inputs(Box::new(graph.bind(options.device, output)?))),
            Binding::Auto | Binding::Off => None,
        };
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

    /// Makes one call whose tensors stay on the device; with `is_again`, only what changes from step to step goes there.
    fn call_resident(
        &mut self,
        resident: &mut Resident,
        inputs: &UnetInputs<'_>,
        is_again: bool,
    ) -> Result<Array4<f32>> {
        let size = inputs.sample.dim().0.max(self.batch.least);
        let lanes = CallLanes::new(&self.bound, inputs, &(0..inputs.sample.dim().0), size)?;
        lanes.check(&self.graph, &self.bound)?;
        let bound = &self.bound;
        let output = match resident {
            Resident::Inputs(resident) => self.graph.run_bound(resident, |resident| {
                if !is_again {
                    resident.keep(&lanes.conditions(bound)?)?;
                }
                let sample = resident.float_input(lanes.sample(), bound.sample.dtype)?;
                resident.bind(&vec![named(&bound.sample, sample), lanes.timestep(bound)?])
            })?,
            Resident::Captured(captured) => self.graph.run_captured(captured, || {
                let sample = float_input(lanes.sample(), bound.sample.dtype)?;
                Ok(CallInputs {
                    conditions: lanes.conditions(bound)?,
                    changing: vec![named(&bound.sample, sample), lanes.timestep(bound)?],
                    output_shape: lanes.output_shape(bound),
                    is_again,
                })
            })?,
        };
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
        if let Some(mut resident) = self.resident.take() {
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

/// Returns the options without recorded calls where there can be none, and says so.
fn recordable(options: &SessionOptions, bound: &UnetGraph) -> SessionOptions {
    let why = match options.gpu.binding {
        Binding::Captured if bound.sample.fixed(0).is_some() => "its graph takes one number of lanes only",
        Binding::Captured if options.keep_features => "`cache_interval` cuts it in two",
        _ => return options.clone(),
    };
    tracing::warn!("the UNet runs without CUDA graphs: {why}");
    let gpu = GpuOptions { binding: Binding::Auto, ..options.gpu.clone() };
    SessionOptions { gpu, ..options.clone() }
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
