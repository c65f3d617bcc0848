//! Our kernels as operators of ONNX Runtime.

mod attention;
mod convolution;
mod group_norm;

use ort::operator::{ComputeContext, OperatorDomain};
use ort::value::{DynValue, ValueRef};

use super::rewrite::DOMAIN;
use crate::kernels::Workers;
use attention::AttentionOperator;
use convolution::Convolution;
use group_norm::GroupNorm;

/// Returns the operators for one session.
pub(super) fn operators() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Convolution::default())?.add(AttentionOperator::default())?.add(GroupNorm)
}

/// ONNX Runtime's own threads, those of the session.
struct SessionThreads<'c>(&'c ComputeContext);

impl Workers for SessionThreads<'_> {
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 {
            return (0..tasks).for_each(work);
        }
        if self.0.par_for(tasks, 0, work).is_err() {
            (0..tasks).for_each(work);
        }
    }
}

/// Returns input `number`, which the graph must give.
fn input(context: &ComputeContext, number: usize) -> ort::Result<ValueRef<'_>> {
    context.input(number)?.ok_or_else(|| ort::Error::new(format!("input {number} is missing")))
}

/// Returns the shape and the values of a float32 tensor.
fn floats(value: &DynValue) -> ort::Result<(Vec<usize>, &[f32])> {
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    Ok((shape.iter().map(|dim| *dim as usize).collect(), values))
}
