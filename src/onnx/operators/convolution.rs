//! `Conv3x3`: input, filters and, optionally, a bias.

use std::sync::Arc;

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType;

use super::{SessionThreads, floats, input};
use crate::kernels::{Conv3x3, ConvShape};
use crate::onnx::rewrite::CONVOLUTION;

/// The operator; all its kernels share their memory, since they run one after the other.
#[derive(Default)]
pub(super) struct Convolution {
    kernel: Arc<Conv3x3>,
}

impl Operator for Convolution {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        CONVOLUTION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let float = TensorElementType::Float32;
        [OperatorInput::required(float), OperatorInput::required(float), OperatorInput::optional(float)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let kernel = self.kernel.clone();
        Ok(Box::new(move |context: &ComputeContext| compute(&kernel, context)))
    }
}

fn compute(kernel: &Conv3x3, context: &ComputeContext) -> ort::Result<()> {
    let (x, filters, bias) = (input(context, 0)?, input(context, 1)?, context.input(2)?);
    let ((x_shape, x), (filters_shape, filters)) = (floats(&x)?, floats(&filters)?);
    let bias = bias.as_ref().map(|bias| floats(bias)).transpose()?.map(|(_, values)| values);
    let (&[images, inputs, height, width], &[outputs, of, 3, 3]) = (&x_shape[..], &filters_shape[..]) else {
        return Err(ort::Error::new(format!("{x_shape:?} and {filters_shape:?} are no convolution with 3×3 filters")));
    };
    if inputs != of || bias.is_some_and(|bias| bias.len() != outputs) {
        return Err(ort::Error::new(format!("filters {filters_shape:?} do not fit an input {x_shape:?}")));
    }
    let shape = ConvShape { images, inputs, outputs, height, width };
    let dims = [images, outputs, height, width].map(|dim| dim as i64);
    let mut y = context.output(0, dims)?.ok_or_else(|| ort::Error::new("nobody takes the output"))?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    kernel.run(shape, (x, filters, bias), y, &SessionThreads(context));
    Ok(())
}
