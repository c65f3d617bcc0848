//! A model folder → `ModelSpec`: configs and graph signatures, no tensors. Reads files.
//!
//! Every network is a folder with a graph and, mostly, a `config.json`; `layout` knows the folders' names of all exporters,
//! the `…_graph` files the names of inputs and outputs, `recipes` what each family does with them. Whatever does not fit
//! together is an error here (`fit`), before the first network is loaded.

mod config;
mod dialect;
mod family;
mod fit;
mod graph_file;
mod hash;
mod header;
mod inspect;
mod latents;
mod layout;
mod pyke;
mod recipes;
mod scheduler_file;
mod scorer;
mod signature;
mod spec;
mod text_graph;
mod text_part;
mod unet_graph;
mod vae_graphs;
mod weights;

pub use family::Family;
pub use graph_file::GraphFile;
pub use header::read_signature;
pub use inspect::{GraphReport, Inspection};
pub use scorer::{ImageTower, ScorerSpec, TextTower, read_preprocessor};
pub use signature::{Dim, Dtype, Signature, TensorInfo};
pub use spec::ModelSpec;
pub use text_graph::{Layer, TextEncoderGraph};
pub use text_part::TextPart;
pub use unet_graph::{GuidanceInput, PositionIds, TimestepShape, UnetGraph};
pub use vae_graphs::{VaeDecoderGraph, VaeEncoderGraph};
