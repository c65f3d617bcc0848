//! Calls whose tensors have one address for good: what CUDA wants so that it can record a call once and then play it back (CUDA
//! graphs), which saves launching every kernel of it.
//!
//! For each set of shapes there are tensors on the device, bound once; before a call, what is new is copied into them. ONNX Runtime
//! records the second call of each and plays it back from then on. The same way works on a processor, where
//! nothing is recorded, and gives the same bits there, which is tested.

use std::borrow::Cow;
use std::collections::HashMap;

use ndarray::ArrayD;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session, SessionInputValue};
use ort::value::{DynTensor, DynTensorValueType};

use super::binding::owned;
use super::device::Device;
use super::session::Inputs;
use super::tensor::{float_output, float_type};
use crate::model::TensorInfo;

/// What ONNX Runtime calls the number of a recorded call, among the options of a run.
const NUMBER: &str = "gpu_graph_id";

/// The recorded calls of a session.
pub(super) struct Captured {
    memory: Allocator,
    output: TensorInfo,
    calls: Vec<Call>,
    /// The call that was made last.
    last: Option<usize>,
}

/// The tensors of calls of one set of shapes, on the device.
struct Call {
    io: IoBinding,
    inputs: HashMap<String, DynTensor>,
    output: DynTensor,
    options: RunOptions,
}

/// An input, on the host.
struct Input {
    name: String,
    tensor: DynTensor,
    /// Whether it is the same at every step.
    stays: bool,
}

/// The inputs of one call.
pub(super) struct CallInputs<'v> {
    /// Those that are the same at every step.
    pub(super) conditions: Inputs<'v>,
    /// All others.
    pub(super) changing: Inputs<'v>,
    /// The output's shape.
    pub(super) output_shape: Vec<usize>,
    /// Whether the conditions are those of the call before.
    pub(super) is_again: bool,
}

impl Captured {
    /// Returns no calls as yet of `session` on `device`, which compute `output` and nothing else.
    pub(super) fn new(session: &Session, device: Device, output: &TensorInfo) -> ort::Result<Self> {
        let memory = match device.gpu() {
            Some(index) => {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                let memory =
                    MemoryInfo::new(AllocationDevice::CUDA, index, AllocatorType::Device, MemoryType::Default)?;
                Allocator::new(session, memory)?
            }
            None => Allocator::default(),
        };
        Ok(Captured { memory, output: output.clone(), calls: Vec::new(), last: None })
    }

    /// Makes a call.
    pub(super) fn run(&mut self, session: &mut Session, inputs: CallInputs<'_>) -> ort::Result<ArrayD<f32>> {
        let CallInputs { conditions, changing, output_shape, is_again } = inputs;
        let inputs: Vec<Input> = conditions
            .into_iter()
            .map(kept(true))
            .chain(changing.into_iter().map(kept(false)))
            .collect::<ort::Result<_>>()?;
        let number = match self.calls.iter().position(|call| call.takes(&inputs)) {
            Some(number) => number,
            None => self.add(session, &inputs, &output_shape)?,
        };
        // Nothing is known of the tensors of a call that fails.
        let is_again = is_again && self.last.take() == Some(number);
        let call = &mut self.calls[number];
        call.fill(inputs.iter().filter(|input| !(is_again && input.stays)))?;
        drop(session.run_binding_with_options(&call.io, &call.options)?);
        let output = float_output(&call.output.to(AllocationDevice::CPU, 0)?.into_dyn())?;
        self.last = Some(number);
        Ok(output)
    }

    /// Gets memory for a call of new shapes; returns its number.
    fn add(&mut self, session: &Session, inputs: &[Input], output_shape: &[usize]) -> ort::Result<usize> {
        let number = self.calls.len();
        let mut io = session.create_binding()?;
        let mut on_device = HashMap::new();
        for Input { name, tensor, .. } in inputs {
            let fixed = DynTensor::new(&self.memory, *tensor.data_type(), tensor.shape().to_vec())?;
            io.bind_input(name, &fixed)?;
            on_device.insert(name.clone(), fixed);
        }
        let mut output = DynTensor::new(&self.memory, float_type(self.output.dtype)?, output_shape.to_vec())?;
        io.bind_output(self.output.name.as_str(), &mut output)?;
        let mut options = RunOptions::new()?;
        options.set(NUMBER, number.to_string())?;
        self.calls.push(Call { io, inputs: on_device, output, options });
        Ok(number)
    }
}

impl Call {
    /// Returns whether these are inputs of the shapes that it has memory for.
    fn takes(&self, inputs: &[Input]) -> bool {
        let same = |input: &Input| {
            self.inputs.get(&input.name).is_some_and(|fixed| fixed.shape()[..] == input.tensor.shape()[..])
        };
        inputs.len() == self.inputs.len() && inputs.iter().all(same)
    }

    /// Copies inputs to the device.
    fn fill<'i>(&mut self, mut inputs: impl Iterator<Item = &'i Input>) -> ort::Result<()> {
        inputs.try_for_each(|input| match self.inputs.get_mut(&input.name) {
            Some(fixed) => input.tensor.copy_into(fixed),
            None => Err(ort::Error::new(format!("there is no memory for the input `{}`", input.name))),
        })
    }
}

/// Returns how to make an [`Input`] of a named value.
fn kept<'v>(stays: bool) -> impl Fn((Cow<'v, str>, SessionInputValue<'v>)) -> ort::Result<Input> {
    move |(name, value)| {
        let tensor = match value {
            SessionInputValue::Owned(value) => value,
            // `ort` 2.0.0-rc.15 locks itself out over borrowed tensors, see `binding`.
            borrowed => owned(&borrowed)?,
        };
        Ok(Input { name: name.into_owned(), tensor: tensor.downcast::<DynTensorValueType>()?, stays })
    }
}
