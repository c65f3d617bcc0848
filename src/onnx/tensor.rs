//! Arrays ↔ tensors, in whatever dtype a graph declares.

use half::{bf16, f16};
use ndarray::{Array, ArrayD, ArrayView, Dimension, IxDyn, ShapeError};
use ort::session::SessionInputValue;
use ort::value::{DynValue, Tensor, TensorElementType, TensorRef, ValueType};

use crate::model::Dtype;

/// Returns `values` as an input of `dtype`; float32 in standard layout is lent, not copied.
pub(super) fn float_input<'v, D: Dimension + 'static>(
    values: ArrayView<'v, f32, D>,
    dtype: Dtype,
) -> ort::Result<SessionInputValue<'v>> {
    Ok(match dtype {
        Dtype::Float32 if values.is_standard_layout() => TensorRef::from_array_view(values)?.into(),
        Dtype::Float32 => Tensor::from_array(values.to_owned())?.into(),
        Dtype::Float16 => Tensor::from_array(values.mapv(f16::from_f32))?.into(),
        Dtype::Bfloat16 => Tensor::from_array(values.mapv(bf16::from_f32))?.into(),
        Dtype::Float64 => Tensor::from_array(values.mapv(f64::from))?.into(),
        other => return Err(ort::Error::new(format!("a float tensor cannot be given as {other}"))),
    })
}

/// Returns token ids as an input of `dtype`; int64 in standard layout is lent, not copied.
pub(super) fn ids_input<'v, D: Dimension + 'static>(
    ids: ArrayView<'v, i64, D>,
    dtype: Dtype,
) -> ort::Result<SessionInputValue<'v>> {
    Ok(match dtype {
        Dtype::Int64 if ids.is_standard_layout() => TensorRef::from_array_view(ids)?.into(),
        Dtype::Int64 => Tensor::from_array(ids.to_owned())?.into(),
        // A vocabulary of 2^31 tokens does not exist.
        Dtype::Int32 => Tensor::from_array(ids.mapv(|id| id as i32))?.into(),
        other => return Err(ort::Error::new(format!("token ids cannot be given as {other}"))),
    })
}

/// Returns zeros of this shape as an input of `dtype`.
pub(super) fn zeros_input(shape: &[usize], dtype: Dtype) -> ort::Result<SessionInputValue<'static>> {
    Ok(match dtype {
        Dtype::Float32 => Tensor::from_array(ArrayD::<f32>::zeros(shape))?.into(),
        Dtype::Float16 => Tensor::from_array(ArrayD::<f16>::zeros(shape))?.into(),
        Dtype::Bfloat16 => Tensor::from_array(ArrayD::<bf16>::from_elem(shape, bf16::ZERO))?.into(),
        other => number_input(ArrayD::zeros(shape), other)?,
    })
}

/// Returns `value` as a network gets it that takes `dtype`.
pub(super) fn as_given(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float16 => f16::from_f32(value).to_f32(),
        Dtype::Bfloat16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Returns `values` in the shape `dims` (`[]` is a scalar) as an input of `dtype`; integers are rounded to.
pub(super) fn timestep_input(values: &[f64], dims: &[usize], dtype: Dtype) -> ort::Result<SessionInputValue<'static>> {
    let values = Array::from_shape_vec(IxDyn(dims), values.to_vec()).map_err(ort::Error::wrap::<ShapeError>)?;
    number_input(values, dtype)
}

/// Returns `values` as an input of any `dtype` of numbers; integers are rounded to.
pub(super) fn number_input(values: ArrayD<f64>, dtype: Dtype) -> ort::Result<SessionInputValue<'static>> {
    Ok(match dtype {
        Dtype::Float32 => Tensor::from_array(values.mapv(|value| value as f32))?.into(),
        Dtype::Float16 => Tensor::from_array(values.mapv(f16::from_f64))?.into(),
        Dtype::Bfloat16 => Tensor::from_array(values.mapv(bf16::from_f64))?.into(),
        Dtype::Float64 => Tensor::from_array(values)?.into(),
        Dtype::Int64 => Tensor::from_array(values.mapv(|value| value.round() as i64))?.into(),
        Dtype::Int32 => Tensor::from_array(values.mapv(|value| value.round() as i32))?.into(),
        other => return Err(ort::Error::new(format!("a number cannot be given as {other}"))),
    })
}

/// Returns ONNX Runtime's name for a type of float tensors.
pub(super) fn float_type(dtype: Dtype) -> ort::Result<TensorElementType> {
    Ok(match dtype {
        Dtype::Float32 => TensorElementType::Float32,
        Dtype::Float16 => TensorElementType::Float16,
        Dtype::Bfloat16 => TensorElementType::Bfloat16,
        Dtype::Float64 => TensorElementType::Float64,
        other => return Err(ort::Error::new(format!("{other} is no type of float tensors"))),
    })
}

/// Returns a float output as float32.
pub(super) fn float_output<D: Dimension>(value: &DynValue) -> ort::Result<Array<f32, D>> {
    fn cast<T: Copy, D: Dimension>(
        view: ArrayView<'_, T, IxDyn>,
        cast: impl Fn(T) -> f32,
    ) -> ort::Result<Array<f32, D>> {
        let view = view.into_dimensionality::<D>().map_err(ort::Error::wrap::<ShapeError>)?;
        Ok(view.mapv(cast))
    }
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(ort::Error::new(format!("the output is {}, not a tensor", value.dtype())));
    };
    use ort::value::TensorElementType as Element;
    match ty {
        Element::Float32 => cast(value.try_extract_array::<f32>()?, |x| x),
        Element::Float16 => cast(value.try_extract_array::<f16>()?, f16::to_f32),
        Element::Bfloat16 => cast(value.try_extract_array::<bf16>()?, bf16::to_f32),
        Element::Float64 => cast(value.try_extract_array::<f64>()?, |x| x as f32),
        other => Err(ort::Error::new(format!("the output is {other}, not a float tensor"))),
    }
}
