//! Kernels of our own for the processor, where ONNX Runtime's leave half of the work undone: pure arithmetic over slices.
//!
//! Half of a UNet's time, and nearly all of a VAE's, are convolutions with 3×3 filters. ONNX Runtime multiplies them out;
//! [`Conv3x3`] needs a quarter of the multiplications (Winograd's minimal filtering, F(4×4, 3×3)), at the same precision.

mod attention;
mod conv3x3;
mod exponential;
mod group_norm;
mod input;
mod output;
mod product;
mod simd;
mod small;
mod weights;
mod winograd;
mod workers;

pub use attention::{Attention, AttentionShape};
pub use conv3x3::{Conv3x3, ConvShape};
pub use group_norm::{GroupNormShape, group_norm};
pub use simd::is_available;
pub use workers::{Serial, Workers};
