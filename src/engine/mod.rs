//! Encode → lane pool (denoise) → decode, over traits: no files, no ONNX Runtime.

mod networks;

pub use networks::{TextEncoder, TimestepInput, Unet, VaeDecoder};
