//! `GroupNorm`: input, scale and shift of each channel; attributes `groups`, `epsilon` and `silu`.

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType;

use super::{SessionThreads, floats, input};
use crate::kernels::{GroupNormShape, group_norm};
use crate::onnx::rewrite::GROUP_NORM;

/// The operator.
pub(super) struct GroupNorm;

impl Operator for GroupNorm {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        GROUP_NORM
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [(); 3].map(|()| OperatorInput::required(TensorElementType::Float32))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, node: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let missing = || ort::Error::new("a group norm without `groups`, `epsilon` or `silu`");
        let groups = node.get::<i64>("groups").and_then(|groups| usize::try_from(groups).ok()).ok_or_else(missing)?;
        let epsilon = node.get::<f32>("epsilon").ok_or_else(missing)?;
        let silu = node.get::<i64>("silu").ok_or_else(missing)? != 0;
        Ok(Box::new(move |context: &ComputeContext| compute(groups, epsilon, silu, context)))
    }
}

fn compute(groups: usize, epsilon: f32, silu: bool, context: &ComputeContext) -> ort::Result<()> {
    let (x, scale, shift) = (input(context, 0)?, input(context, 1)?, input(context, 2)?);
    let ((dims, x), (_, scale), (_, shift)) = (floats(&x)?, floats(&scale)?, floats(&shift)?);
    let fits = |images: usize, channels: usize| {
        groups > 0
            && channels.is_multiple_of(groups)
            && scale.len() == channels
            && shift.len() == channels
            && images > 0
    };
    let [images, channels, plane @ ..] = &dims[..] else { return Err(unfit(&dims)) };
    if !fits(*images, *channels) {
        return Err(unfit(&dims));
    }
    let area = plane.iter().product();
    let shape = GroupNormShape { images: *images, channels: *channels, area, groups, epsilon, silu };
    let dims: Vec<i64> = dims.iter().map(|dim| *dim as i64).collect();
    let mut y = context.output(0, dims)?.ok_or_else(|| ort::Error::new("nobody takes the output"))?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    group_norm(shape, (x, scale, shift), y, &SessionThreads(context));
    Ok(())
}

fn unfit(dims: &[usize]) -> ort::Error {
    ort::Error::new(format!("the groups and scales of a group norm do not fit its input {dims:?}"))
}
