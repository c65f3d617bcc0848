//! nightshift turns CSV manifests of prompts into folders of images by running exported ONNX graphs of latent diffusion
//! models. `ARCHITECTURE.md` is the map; arrows in it mean "may use", and nothing points up.

pub mod cli;
pub mod engine;
pub mod error;
pub mod gpu;
pub mod guidance;
pub mod job;
pub mod journal;
pub mod kernels;
pub mod manifest;
pub mod model;
pub mod noise;
pub mod onnx;
pub mod output;
pub mod pixels;
pub mod plan;
pub mod prompt;
pub mod recipe;
pub mod remote;
pub mod run;
pub mod scheduler;
pub mod score;
pub mod template;
