//! Options of ONNX Runtime's GPU providers, as `key=value`: only those that are known, with values that make sense, so that a
//! misspelt one is an error before the night and not an option without effect.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::device::Device;
use super::tensorrt::Profiles;
use crate::error::{Error, ErrorKind, Result};

/// How networks are loaded on a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Options of the CUDA provider, over ours.
    pub cuda: Vec<CudaOption>,
    /// Options of the TensorRT provider, over ours.
    pub tensorrt: Vec<TensorRtOption>,
    /// Whether nodes may run on the processor that the GPU has no kernels for.
    pub allow_cpu_nodes: bool,
    /// When inputs that do not change between steps are kept on the device.
    pub binding: Binding,
    /// Where TensorRT keeps the engines that it builds; `None`: nowhere.
    pub engine_cache: Option<PathBuf>,
    /// The shapes that TensorRT builds engines for.
    pub profiles: Profiles,
}

impl GpuOptions {
    /// Fails where `device` has not what is asked for.
    ///
    /// # Errors
    /// Kind `Usage`: calls are to be recorded, and the device is none of CUDA's.
    pub fn check(&self, device: Device) -> Result<()> {
        if self.binding != Binding::Captured || matches!(device, Device::Cuda(_)) {
            return Ok(());
        }
        let message = format!("`--cuda-graphs` cannot be had on `{device}`");
        Err(Error::new(ErrorKind::Usage, "bad_device_option", message).hint("use `--device cuda`, or leave it out"))
    }

    /// Returns whether calls of the network `part` are recorded and played back: those of the UNet, of which there are many.
    pub(super) fn records(&self, part: &str) -> bool {
        self.binding == Binding::Captured && part == "UNet"
    }
}

/// When inputs that do not change between steps are kept on the device, and others go through memory that it reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Binding {
    /// On GPUs.
    #[default]
    Auto,
    /// Also on a processor, where it gains nothing.
    On,
    /// Never.
    Off,
    /// On GPUs all tensors have one address for good, so that CUDA can record a call and play it back; works on a processor too.
    Captured,
}

/// What a value must look like.
#[derive(Debug, Clone, Copy)]
enum Values {
    Switch,
    Number(u64, u64),
    Bytes,
    Names(&'static [&'static str]),
    /// Names with `|` between them, each a bit of a number.
    Flags(&'static [(&'static str, u32)]),
}

/// Attention kernels and their bits (onnxruntime, `attention_common.h`).
const ATTENTION: [(&str, u32); 5] = [("flash", 1), ("efficient", 2), ("trt", 4), ("cudnn", 8), ("math", 16)];

/// What the CUDA provider takes (onnxruntime 1.31, `cuda_execution_provider_info.cc`), without what we set ourselves.
const CUDA: [(&str, Values); 10] = [
    ("cudnn_conv_algo_search", Values::Names(&["EXHAUSTIVE", "HEURISTIC", "DEFAULT"])),
    ("cudnn_conv_use_max_workspace", Values::Switch),
    ("cudnn_conv1d_pad_to_nc1d", Values::Switch),
    ("prefer_nhwc", Values::Switch),
    ("fuse_conv_bias", Values::Switch),
    ("use_tf32", Values::Switch),
    ("sdpa_kernel", Values::Flags(&ATTENTION)),
    ("gpu_mem_limit", Values::Bytes),
    ("arena_extend_strategy", Values::Names(&["kSameAsRequested", "kNextPowerOfTwo"])),
    ("enable_skip_layer_norm_strict_mode", Values::Switch),
];

/// What the TensorRT provider takes, without what we set ourselves: caches and profiles.
const TENSORRT: [(&str, Values); 11] = [
    ("trt_fp16_enable", Values::Switch),
    ("trt_bf16_enable", Values::Switch),
    ("trt_max_workspace_size", Values::Bytes),
    ("trt_builder_optimization_level", Values::Number(0, 5)),
    ("trt_auxiliary_streams", Values::Number(0, 8)),
    ("trt_build_heuristics_enable", Values::Switch),
    ("trt_sparsity_enable", Values::Switch),
    ("trt_layer_norm_fp32_fallback", Values::Switch),
    ("trt_context_memory_sharing_enable", Values::Switch),
    ("trt_engine_hw_compatible", Values::Switch),
    ("trt_min_subgraph_size", Values::Number(1, 1000)),
];

/// Known options that are not to be set by hand, and why.
const NOT_BY_HAND: [(&str, &str); 5] = [
    ("enable_cuda_graph", "`--cuda-graphs` says it"),
    ("trt_cuda_graph_enable", "CUDA graphs are recorded by the CUDA provider only"),
    ("device_id", "`--device cuda:N` says it"),
    ("trt_engine_cache_enable", "`--engine-cache` says it"),
    ("user_compute_stream", "it is an address"),
];

/// One option of the CUDA provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaOption {
    /// ONNX Runtime's name.
    pub key: &'static str,
    /// The value as ONNX Runtime takes it.
    pub value: String,
}

/// One option of the TensorRT provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRtOption {
    /// ONNX Runtime's name.
    pub key: &'static str,
    /// The value as ONNX Runtime takes it.
    pub value: String,
}

impl FromStr for CudaOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, value) = parse(text, &CUDA)?;
        Ok(CudaOption { key, value })
    }
}

impl FromStr for TensorRtOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, value) = parse(text, &TENSORRT)?;
        Ok(TensorRtOption { key, value })
    }
}

/// Returns key and value of `key=value`, the value as ONNX Runtime takes it.
fn parse(text: &str, known: &[(&'static str, Values)]) -> Result<(&'static str, String)> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(bad_option(format!("`{text}` is not `key=value`"), known));
    };
    let (key, value) = (key.trim(), value.trim());
    if let Some((_, why)) = NOT_BY_HAND.iter().find(|(name, _)| *name == key) {
        return Err(bad_option(format!("`{key}` cannot be set: {why}"), known));
    }
    let Some((key, values)) = known.iter().find(|(name, _)| *name == key) else {
        return Err(bad_option(format!("`{key}` is no option of this provider"), known));
    };
    let value = values.read(value).ok_or_else(|| bad_option(format!("{key}: `{value}` is not {values}"), known))?;
    Ok((key, value))
}

fn bad_option(message: String, known: &[(&'static str, Values)]) -> Error {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    Error::new(ErrorKind::Usage, "bad_device_option", message).hint(format!("known are {}", names.join(", ")))
}

impl Values {
    fn read(self, value: &str) -> Option<String> {
        let lower = value.to_ascii_lowercase();
        match self {
            Values::Switch => match lower.as_str() {
                "1" | "true" | "on" => Some("1".to_string()),
                "0" | "false" | "off" => Some("0".to_string()),
                _ => None,
            },
            Values::Number(least, most) => value
                .parse::<u64>()
                .ok()
                .filter(|number| (least..=most).contains(number))
                .map(|number| number.to_string()),
            Values::Bytes => bytes(&lower).map(|bytes| bytes.to_string()),
            Values::Names(names) => {
                names.iter().find(|name| name.eq_ignore_ascii_case(value)).map(|name| (*name).to_string())
            }
            Values::Flags(flags) => {
                let bit = |name: &str| flags.iter().find(|(known, _)| *known == name.trim()).map(|(_, bit)| *bit);
                let bits: Option<Vec<u32>> = lower.split('|').map(bit).collect();
                bits.map(|bits| bits.into_iter().fold(0, |all, bit| all | bit).to_string())
            }
        }
    }
}

/// Reads `20g`, `512m` or a number of bytes, more than none.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'g' => (&text[..text.len() - 1], 30),
        b'm' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Values::Switch => f.write_str("`0` or `1`"),
            Values::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Values::Bytes => f.write_str("a number of bytes such as `20g`"),
            Values::Names(names) => write!(f, "one of {}", names.join(", ")),
            Values::Flags(flags) => {
                let names: Vec<&str> = flags.iter().map(|(name, _)| *name).collect();
                write!(f, "one or more of {} with `|` between them", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_out_as_onnx_runtime_takes_them() {
        let cases = [
            ("cudnn_conv_algo_search=exhaustive", "EXHAUSTIVE"),
            ("prefer_nhwc=on", "1"),
            ("use_tf32=false", "0"),
            ("sdpa_kernel=flash|cudnn", "9"),
            ("gpu_mem_limit=20g", "21474836480"),
            ("gpu_mem_limit = 1024", "1024"),
            ("arena_extend_strategy=kNextPowerOfTwo", "kNextPowerOfTwo"),
        ];
        for (text, value) in cases {
            let option: CudaOption = text.parse().expect(text);
            assert_eq!((option.key, option.value.as_str()), (text.split(['=', ' ']).next().expect("a key"), value));
        }
        let option: TensorRtOption = "trt_builder_optimization_level=5".parse().expect("known");
        assert_eq!((option.key, option.value.as_str()), ("trt_builder_optimization_level", "5"));
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        for text in [
            "prefer_nhwc",
            "prefer_nhcw=1",
            "prefer_nhwc=2",
            "cudnn_conv_algo_search=fast",
            "sdpa_kernel=flash,math",
            "gpu_mem_limit=0",
            "gpu_mem_limit=99999999999g",
            "enable_cuda_graph=1",
            "device_id=1",
            "trt_fp16_enable=1",
        ] {
            let error = text.parse::<CudaOption>().expect_err(text);
            assert_eq!((error.kind(), error.code()), (ErrorKind::Usage, "bad_device_option"), "{text}");
            assert!(error.how_to_fix().is_some_and(|hint| hint.contains("cudnn_conv_algo_search")), "{text}");
        }
        assert!("trt_builder_optimization_level=6".parse::<TensorRtOption>().is_err());
        assert!("prefer_nhwc=1".parse::<TensorRtOption>().is_err());
    }
}
