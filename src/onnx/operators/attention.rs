//! `Attention`: queries [.., rows, depth], keys [.., depth, columns], values [.., columns, width] and, optionally, what scores are
//! multiplied by.

use std::sync::Arc;

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType;

use super::{SessionThreads, floats, input};
use crate::kernels::{Attention, AttentionShape};
use crate::onnx::rewrite::ATTENTION;

/// The operator; all its kernels share their memory, since they run one after the other.
#[derive(Default)]
pub(super) struct AttentionOperator {
    kernel: Arc<Attention>,
}

impl Operator for AttentionOperator {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        ATTENTION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let float = TensorElementType::Float32;
        let [queries, keys, values] = [(); 3].map(|()| OperatorInput::required(float));
        [queries, keys, values, OperatorInput::optional(float)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        let kernel = self.kernel.clone();
        Ok(Box::new(move |context: &ComputeContext| compute(&kernel, context)))
    }
}

fn compute(kernel: &Attention, context: &ComputeContext) -> ort::Result<()> {
    let (queries, keys, values) = (input(context, 0)?, input(context, 1)?, input(context, 2)?);
    let ((q, queries), (k, keys), (v, values)) = (floats(&queries)?, floats(&keys)?, floats(&values)?);
    let scale = context.input(3)?;
    let scale = scale.as_ref().map(|scale| floats(scale)).transpose()?;
    let scale = scale.and_then(|(_, values)| values.first().copied()).unwrap_or(1.0);
    let unfit = || ort::Error::new(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit"));
    let (Some((q_batch, &[rows, depth])), Some((k_batch, &[k_depth, columns])), Some((v_batch, &[v_columns, width]))) =
        (q.split_last_chunk(), k.split_last_chunk(), v.split_last_chunk())
    else {
        return Err(unfit());
    };
    if (depth, columns) != (k_depth, v_columns) {
        return Err(unfit());
    }
    let batch = broadcast(&[q_batch, k_batch, v_batch]).ok_or_else(unfit)?;
    let heads: Vec<[usize; 3]> = heads(&batch, [q_batch, k_batch, v_batch]);
    let dims: Vec<i64> = batch.iter().chain([&rows, &width]).map(|dim| *dim as i64).collect();
    let mut output = context.output(0, dims)?.ok_or_else(|| ort::Error::new("nobody takes the output"))?;
    let (_, output) = output.try_extract_tensor_mut::<f32>()?;
    let shape = AttentionShape { rows, columns, depth, width };
    kernel.run(shape, &heads, [queries, keys, values], scale, output, &SessionThreads(context));
    Ok(())
}

/// Returns the dimensions that `shapes` have together, by the rules of numpy: missing ones and those of 1 are repeated.
fn broadcast(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut all = vec![1; rank];
    for shape in shapes {
        for (dim, all) in shape.iter().rev().zip(all.iter_mut().rev()) {
            match (*dim, *all) {
                (dim, all) if dim == all || dim == 1 => {}
                (dim, 1) => *all = dim,
                _ => return None,
            }
        }
    }
    Some(all)
}

/// Returns which entry of each of `shapes` every entry of `batch` takes.
fn heads(batch: &[usize], shapes: [&[usize]; 3]) -> Vec<[usize; 3]> {
    (0..batch.iter().product())
        .map(|entry: usize| {
            shapes.map(|shape| {
                let (mut rest, mut number, mut size) = (entry, 0, 1);
                for (place, all) in batch.iter().enumerate().rev() {
                    let dim = (place + shape.len()).checked_sub(batch.len()).map_or(1, |place| shape[place]);
                    if dim > 1 {
                        number += rest % all * size;
                        size *= dim;
                    }
                    rest /= all;
                }
                number
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_counted_through_and_repeated() {
        let all: [&[usize]; 3] = [&[2, 3], &[2, 1], &[3]];
        let batch = broadcast(&all).expect("they fit");
        assert_eq!(batch, [2, 3]);
        assert_eq!(heads(&batch, all), [[0, 0, 0], [1, 0, 1], [2, 0, 2], [3, 1, 0], [4, 1, 1], [5, 1, 2]]);
        assert_eq!(broadcast(&[&[2], &[3]]), None);
    }
}
