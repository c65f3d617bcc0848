//! Where networks run: `cpu`, `cuda:1`, `tensorrt`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// A device and the way ONNX Runtime uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU through ONNX Runtime's CUDA provider.
    Cuda(u32),
    /// An NVIDIA GPU through TensorRT, with CUDA for what TensorRT leaves over.
    TensorRt(u32),
}

impl Device {
    /// Returns the number of the GPU, as CUDA counts those that this process may see.
    pub fn gpu(self) -> Option<u32> {
        match self {
            Device::Cpu => None,
            Device::Cuda(index) | Device::TensorRt(index) => Some(index),
        }
    }

    /// Returns the name of ONNX Runtime's provider for it.
    pub fn provider(self) -> &'static str {
        match self {
            Device::Cpu => "CPUExecutionProvider",
            Device::Cuda(_) => "CUDAExecutionProvider",
            Device::TensorRt(_) => "TensorrtExecutionProvider",
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let number = |index: Option<&str>| match index {
            None => Ok(0),
            Some(index) => {
                index.parse().map_err(|_| bad_device(format!("`{index}` in `{text}` is not the number of a GPU")))
            }
        };
        match name.to_ascii_lowercase().as_str() {
            "cpu" if index.is_none() => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(number(index)?)),
            "tensorrt" => Ok(Device::TensorRt(number(index)?)),
            _ => Err(bad_device(format!("`{text}` is not a device"))),
        }
    }
}

pub(super) fn bad_device(message: String) -> Error {
    Error::new(ErrorKind::Usage, "bad_device", message)
        .hint("use `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt:1`, or several with commas between them")
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::TensorRt(index) => write!(f, "tensorrt:{index}"),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_as_they_are_written() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3), Device::TensorRt(1)] {
            assert_eq!(device.to_string().parse::<Device>().expect("its own name"), device);
        }
        assert_eq!("cuda".parse::<Device>().expect("first GPU"), Device::Cuda(0));
    }
}
