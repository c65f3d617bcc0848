//! Flags that only matter on GPUs.

use std::path::PathBuf;

use clap::Args;

use crate::onnx::{Binding, CudaOption, GpuOptions, TensorRtOption};

/// Flags that only matter on GPUs.
#[derive(Debug, Args)]
#[command(next_help_heading = "On GPUs")]
pub struct GpuArgs {
    /// Let the processor run nodes that the GPU has no kernels for, beyond the arithmetic of shapes
    ///
    /// Without it, such a graph is refused: every such node costs two copies a call.
    #[arg(long, env = "NIGHTSHIFT_ALLOW_CPU_NODES")]
    pub allow_cpu_nodes: bool,
    /// Record the UNet's calls and play them back (CUDA graphs); for `--device cuda`
    ///
    /// Saves launching every kernel of it by itself, which only counts where calls are short: few lanes, or small pictures.
    #[arg(long, env = "NIGHTSHIFT_CUDA_GRAPHS")]
    pub cuda_graphs: bool,
    /// Option of ONNX Runtime's CUDA provider, such as `cudnn_conv_algo_search=EXHAUSTIVE`, `prefer_nhwc=1` or
    /// `sdpa_kernel=flash|cudnn`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", env = "NIGHTSHIFT_CUDA_OPTION", value_delimiter = ',')]
    pub cuda_option: Vec<CudaOption>,
    /// Option of ONNX Runtime's TensorRT provider, such as `trt_fp16_enable=1`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", env = "NIGHTSHIFT_TENSORRT_OPTION", value_delimiter = ',')]
    pub tensorrt_option: Vec<TensorRtOption>,
    /// Where TensorRT keeps engines  [default: $XDG_CACHE_HOME/nightshift or ~/.cache/nightshift]
    #[arg(long, value_name = "DIR", env = "NIGHTSHIFT_ENGINE_CACHE")]
    pub engine_cache: Option<PathBuf>,
}

impl GpuArgs {
    pub(super) fn into_options(self) -> GpuOptions {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let cache = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        GpuOptions {
            binding: if self.cuda_graphs { Binding::Captured } else { Binding::Auto },
            cuda: self.cuda_option,
            tensorrt: self.tensorrt_option,
            allow_cpu_nodes: self.allow_cpu_nodes,
            engine_cache: self.engine_cache.or_else(|| cache().map(|cache| cache.join("nightshift"))),
            ..GpuOptions::default()
        }
    }
}
