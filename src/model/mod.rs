//! A model folder → `ModelSpec`: configs and graph signatures, no tensors. Reads files.
//!
//! The layout is optimum's: `model_index.json`, `scheduler/`, `tokenizer/` and one folder a network with `model.onnx` and
//! `config.json`. Whatever does not fit together is an error here, before the first network is loaded.

mod config;
mod family;
mod graphs;
mod hash;
mod header;
mod inspect;
mod signature;
mod spec;

pub use family::Family;
pub use graphs::{GraphFile, TextEncoderGraph, TimestepShape, UnetGraph, VaeDecoderGraph};
pub use header::read_signature;
pub use inspect::{GraphReport, Inspection};
pub use signature::{Dim, Dtype, Signature, TensorInfo};
pub use spec::ModelSpec;
