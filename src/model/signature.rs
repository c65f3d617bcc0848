//! What an ONNX graph takes and gives: names, dtypes and dims, as its file declares them.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

/// Element type of a tensor (`TensorProto.DataType` of onnx.proto).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    Float32,
    /// 16-bit IEEE float.
    Float16,
    /// 16-bit brain float.
    Bfloat16,
    /// 64-bit float.
    Float64,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// Anything else, by its number in onnx.proto.
    Other(u64),
}

impl Dtype {
    /// Returns the dtype of a number of onnx.proto's `TensorProto.DataType`.
    pub fn from_onnx(number: u64) -> Self {
        match number {
            1 => Dtype::Float32,
            6 => Dtype::Int32,
            7 => Dtype::Int64,
            10 => Dtype::Float16,
            11 => Dtype::Float64,
            16 => Dtype::Bfloat16,
            other => Dtype::Other(other),
        }
    }

    /// Returns whether it is a floating-point type that we can feed and read.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float64)
    }

    /// Returns whether it is an integer type that we can feed.
    pub fn is_int(self) -> bool {
        matches!(self, Dtype::Int32 | Dtype::Int64)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dtype::Float32 => f.write_str("float32"),
            Dtype::Float16 => f.write_str("float16"),
            Dtype::Bfloat16 => f.write_str("bfloat16"),
            Dtype::Float64 => f.write_str("float64"),
            Dtype::Int32 => f.write_str("int32"),
            Dtype::Int64 => f.write_str("int64"),
            Dtype::Other(number) => write!(f, "onnx dtype {number}"),
        }
    }
}

impl Serialize for Dtype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One dimension of a graph's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Always this size.
    Fixed(u64),
    /// Any size; the name says which dims are meant to be equal.
    Named(String),
    /// Any size, without a name.
    Unknown,
}

impl Dim {
    /// Returns the size where the graph fixes it.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(size) => usize::try_from(*size).ok(),
            Dim::Named(_) | Dim::Unknown => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(size) => write!(f, "{size}"),
            Dim::Named(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Dim::Fixed(size) => serializer.serialize_u64(*size),
            other => serializer.collect_str(other),
        }
    }
}

/// One input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Name, by which it is fed or fetched.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions; `None` where the graph does not even say how many.
    pub dims: Option<Vec<Dim>>,
}

impl TensorInfo {
    /// Returns the size of dimension `axis` where the graph fixes it.
    pub fn fixed(&self, axis: usize) -> Option<usize> {
        self.dims.as_ref()?.get(axis)?.fixed()
    }

    /// Returns the number of dimensions where the graph says it.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// Returns whether a tensor of this `shape` can be it.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        let Some(dims) = &self.dims else { return true };
        dims.len() == shape.len()
            && dims.iter().zip(shape).all(|(dim, size)| dim.fixed().is_none_or(|want| want == *size))
    }
}

impl fmt::Display for TensorInfo {
    /// Writes `` `sample` float32 [batch, 4, height, width]``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {} ", self.name, self.dtype)?;
        let Some(dims) = &self.dims else { return f.write_str("[any]") };
        f.write_str("[")?;
        for (i, dim) in dims.iter().enumerate() {
            write!(f, "{}{dim}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

/// What a graph takes and gives, and where it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// Inputs that must be fed, in the file's order (initializers that old exporters list as inputs are left out).
    pub inputs: Vec<TensorInfo>,
    /// Outputs, in the file's order.
    pub outputs: Vec<TensorInfo>,
    /// Version of the default operator set.
    pub opset: Option<u64>,
    /// Exporter and its version, such as `pytorch 2.15.0`.
    pub producer: String,
    /// Number of nodes of the main graph.
    pub nodes: usize,
    /// Whether nodes of ONNX Runtime's own operators (`com.microsoft`) are in the main graph.
    pub contrib_ops: bool,
    /// Operators of the main graph that only ONNX Runtime's CUDA provider computes.
    pub cuda_only_ops: BTreeSet<String>,
    /// Whether nodes of the main graph draw random numbers of their own.
    pub random_ops: bool,
    /// Files beside the graph that hold its weights, as the graph names them.
    pub external_data: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TensorInfo {
        let dims = vec![Dim::Named("batch".into()), Dim::Fixed(4), Dim::Unknown];
        TensorInfo { name: "sample".into(), dtype: Dtype::Float16, dims: Some(dims) }
    }

    #[test]
    fn tensors_read_as_in_the_graph() {
        assert_eq!(sample().to_string(), "`sample` float16 [batch, 4, ?]");
        let json = serde_json::to_string(&sample()).expect("plain data");
        assert_eq!(json, r#"{"name":"sample","dtype":"float16","dims":["batch",4,"?"]}"#);
    }

    #[test]
    fn only_fixed_dims_restrict_a_shape() {
        assert!(sample().accepts(&[2, 4, 9]));
        assert!(!sample().accepts(&[2, 5, 9]));
        assert!(!sample().accepts(&[2, 4]));
        assert!(TensorInfo { dims: None, ..sample() }.accepts(&[1]));
    }
}
