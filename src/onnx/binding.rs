//! A graph whose inputs stay on its device from call to call: those that are the same at every step are copied there once.
//!
//! What changes goes through host memory that the device reaches by itself (pinned), where the provider has such. The same way
//! works on a processor, where nothing is gained, and gives the same bits there, which is tested.

use std::fmt::Debug;

use half::f16;
use ndarray::{ArrayD, ArrayViewD};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session, SessionInputValue};
use ort::value::{DynTensor, DynValue, PrimitiveTensorElementType, Tensor, TensorElementType};

use super::device::Device;
use super::session::Inputs;
use super::tensor::{float_input, float_output};
use crate::model::{Dtype, TensorInfo};

/// Inputs and outputs of a session, bound.
pub(super) struct Bound {
    io: IoBinding,
    output: String,
    /// Gives memory that the device reaches by itself, if there is such.
    pinned: Option<Allocator>,
}

impl Bound {
    /// Returns a binding for `session` on `device` that computes `output` and nothing else.
    pub(super) fn new(session: &Session, device: Device, output: &TensorInfo) -> ort::Result<Self> {
        let pinned = device.gpu().and_then(|index| pinned_allocator(session, index).ok());
        Ok(Bound { io: session.create_binding()?, output: output.name.clone(), pinned })
    }

    /// Binds the inputs that stay, in place of all that was bound before.
    pub(super) fn keep(&mut self, inputs: &Inputs<'_>) -> ort::Result<()> {
        self.io.clear();
        self.bind(inputs)?;
        // The buffer of an output is reused as long as it is bound, so it must not be for another shape.
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)?;
        self.io.bind_output_to_device(&self.output, &memory)
    }

    /// Binds inputs that change from call to call.
    pub(super) fn bind(&mut self, inputs: &Inputs<'_>) -> ort::Result<()> {
        inputs.iter().try_for_each(|(name, value)| match value {
            SessionInputValue::Owned(value) => self.io.bind_input(name.as_ref(), value),
            // `ort` 2.0.0-rc.15 copies borrowed tensors itself, and locks itself out over it on a processor.
            _ => self.io.bind_input(name.as_ref(), &owned(value)?),
        })
    }

    /// Returns `values` as an input of `dtype`, in memory that the device reaches by itself if there is such.
    pub(super) fn float_input<'v>(
        &self,
        values: ArrayViewD<'v, f32>,
        dtype: Dtype,
    ) -> ort::Result<SessionInputValue<'v>> {
        match (&self.pinned, dtype) {
            (Some(pinned), Dtype::Float32) => {
                let mut tensor = Tensor::<f32>::new(pinned, values.shape())?;
                tensor.extract_array_mut().assign(&values);
                Ok(tensor.into())
            }
            (Some(pinned), Dtype::Float16) => {
                let mut tensor = Tensor::<f16>::new(pinned, values.shape())?;
                tensor.extract_array_mut().zip_mut_with(&values, |to, from| *to = f16::from_f32(*from));
                Ok(tensor.into())
            }
            _ => float_input(values, dtype),
        }
    }

    /// Runs the session with what is bound.
    pub(super) fn run(&self, session: &mut Session, options: &RunOptions) -> ort::Result<ArrayD<f32>> {
        let outputs = session.run_binding_with_options(&self.io, options)?;
        let missing = || ort::Error::new(format!("the output `{}` is missing", self.output));
        float_output(outputs.get(&self.output).ok_or_else(missing)?)
    }
}

/// Returns a copy of a tensor on the host.
pub(super) fn owned(value: &DynValue) -> ort::Result<DynValue> {
    fn copy<T>(value: &DynValue) -> ort::Result<DynValue>
    where
        T: PrimitiveTensorElementType + Clone + Debug + 'static,
    {
        Ok(Tensor::from_array(value.try_extract_array::<T>()?.to_owned())?.into_dyn())
    }
    match value.data_type() {
        TensorElementType::Float32 => copy::<f32>(value),
        TensorElementType::Float16 => copy::<f16>(value),
        TensorElementType::Float64 => copy::<f64>(value),
        TensorElementType::Int32 => copy::<i32>(value),
        TensorElementType::Int64 => copy::<i64>(value),
        other => Err(ort::Error::new(format!("inputs of type {other:?} cannot be bound"))),
    }
}

fn pinned_allocator(session: &Session, index: u32) -> ort::Result<Allocator> {
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    let memory = MemoryInfo::new(AllocationDevice::CUDA_PINNED, index, AllocatorType::Device, MemoryType::CPUOutput)?;
    let allocator = Allocator::new(session, memory)?;
    // Whether it gives anything is only known by asking.
    DynTensor::new(&allocator, ort::value::TensorElementType::Float32, [1_usize])?;
    Ok(allocator)
}
