//! ONNX Runtime: library, sessions, devices. The only module that uses `ort`.
//!
//! ```no_run
//! # fn main() -> nightshift::error::Result<()> {
//! use nightshift::onnx::{Networks, Runtime, SessionOptions};
//! let spec = nightshift::model::ModelSpec::open("onnx/tiny-shapes")?;
//! let runtime = Runtime::load(None)?;
//! let networks = Networks::load(&runtime, &spec, &SessionOptions::default(), false)?;
//! # Ok(())
//! # }
//! ```
//!
//! On CPU the same lane gives the same bits whatever shares its batch and however many threads work on it, for the
//! graphs that we support; `lanes` says where that needs help.

mod binding;
mod call_lanes;
mod captured;
mod clip;
mod cuda_libraries;
mod device;
mod devices;
mod doctor;
mod gpu;
mod gpu_options;
mod guidance_embedding;
mod heap;
mod lanes;
mod layer_norm;
mod library;
mod networks;
mod operators;
mod patches;
mod placement;
mod placement_api;
mod providers;
mod rewrite;
mod runtime;
mod session;
mod tensor;
mod tensorrt;
mod text_encoder;
mod unet;
mod vae_decoder;
mod vae_encoder;

pub use clip::{OnnxClip, TextInput};
pub use cuda_libraries::{Found, Library};
pub use device::Device;
pub use devices::Devices;
pub use doctor::Doctor;
pub use gpu::{Driver, driver, gpu_state, gpu_states, kind_of};
pub use gpu_options::{Binding, CudaOption, GpuOptions, TensorRtOption};
pub use library::{Searched, find_library};
pub use networks::Networks;
pub use runtime::Runtime;
pub use session::{Kernels, SessionOptions};
pub use tensorrt::{Profiles, Range, engine_folder};
pub use text_encoder::OnnxTextEncoder;
pub use unet::OnnxUnet;
pub use vae_decoder::{LazyVaeDecoder, OnnxVaeDecoder};
pub use vae_encoder::OnnxVaeEncoder;
