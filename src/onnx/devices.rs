//! Several devices: `cuda:0,cuda:1`, or `cuda` for all GPUs that this process may see.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::device::{Device, bad_device};
use super::gpu;
use crate::error::{Error, ErrorKind, Result};

/// The devices of a run as they were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(Vec<Wanted>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    One(Device),
    AllCuda,
    AllTensorRt,
}

impl Devices {
    /// Returns the devices, one worker each. GPUs are only counted where all are asked for.
    ///
    /// # Errors
    /// All GPUs are asked for and there is none, or one would be used twice.
    pub fn resolve(&self) -> Result<Vec<Device>> {
        self.resolve_with(&visible_gpus)
    }

    fn resolve_with(&self, visible: &dyn Fn() -> u32) -> Result<Vec<Device>> {
        let all = |device: fn(u32) -> Device| match visible() {
            0 => Err(no_gpu()),
            count => Ok((0..count).map(device).collect()),
        };
        let mut devices = Vec::new();
        for wanted in &self.0 {
            devices.extend(match wanted {
                Wanted::One(device) => vec![*device],
                Wanted::AllCuda => all(Device::Cuda)?,
                Wanted::AllTensorRt => all(Device::TensorRt)?,
            });
        }
        refuse_twice(&devices)?;
        Ok(devices)
    }
}

/// The processor may be shared by several workers; a GPU has one.
fn refuse_twice(devices: &[Device]) -> Result<()> {
    for (i, device) in devices.iter().enumerate() {
        if let Some(gpu) = device.gpu().filter(|gpu| devices[..i].iter().any(|other| other.gpu() == Some(*gpu))) {
            return Err(bad_device(format!("GPU {gpu} is named twice")).hint("name each GPU once"));
        }
    }
    Ok(())
}

fn no_gpu() -> Error {
    Error::new(ErrorKind::Provider, "no_device", "no NVIDIA GPU can be seen")
        .hint("`nvidia-smi` must list it, and CUDA_VISIBLE_DEVICES must not hide it; `nightshift doctor` says more, `--device cpu` works without")
}

/// Returns how many GPUs this process may see: those that CUDA_VISIBLE_DEVICES names, else those that the driver knows.
fn visible_gpus() -> u32 {
    let named = std::env::var("CUDA_VISIBLE_DEVICES").ok().map(|list| gpu::visible(&list).len());
    let known = || gpu::count().unwrap_or_else(|| known_to_kernel(Path::new("/proc/driver/nvidia/gpus")));
    named.map_or_else(known, |count| u32::try_from(count).unwrap_or(u32::MAX))
}

fn known_to_kernel(folder: &Path) -> u32 {
    std::fs::read_dir(folder).map_or(0, |entries| u32::try_from(entries.flatten().count()).unwrap_or(u32::MAX))
}

impl FromStr for Devices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Devices> {
        let wanted = |entry: &str| match entry.trim().to_ascii_lowercase().as_str() {
            "cuda" => Ok(Wanted::AllCuda),
            "tensorrt" => Ok(Wanted::AllTensorRt),
            entry => entry.parse().map(Wanted::One),
        };
        let devices = Devices(text.split(',').map(wanted).collect::<Result<_>>()?);
        let named = devices.0.iter().filter_map(|wanted| match wanted {
            Wanted::One(device) => Some(*device),
            _ => None,
        });
        refuse_twice(&named.collect::<Vec<_>>())?;
        Ok(devices)
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, wanted) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            match wanted {
                Wanted::One(device) => write!(f, "{device}")?,
                Wanted::AllCuda => f.write_str("cuda")?,
                Wanted::AllTensorRt => f.write_str("tensorrt")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, gpus: u32) -> Result<Vec<Device>> {
        text.parse::<Devices>()?.resolve_with(&|| gpus)
    }

    #[test]
    fn a_list_names_one_worker_each() {
        let named = [("cpu", vec![Device::Cpu]), ("cuda:1, CPU", vec![Device::Cuda(1), Device::Cpu])];
        for (text, devices) in named {
            assert_eq!(resolved(text, 0).expect(text), devices);
        }
        assert_eq!(resolved("cpu,cpu", 0).expect("two workers"), [Device::Cpu, Device::Cpu]);
        assert_eq!(resolved("cuda", 3).expect("all"), [Device::Cuda(0), Device::Cuda(1), Device::Cuda(2)]);
        assert_eq!(resolved("tensorrt,cpu", 1).expect("all"), [Device::TensorRt(0), Device::Cpu]);
        assert_eq!("cuda,cpu,tensorrt:2".parse::<Devices>().expect("a list").to_string(), "cuda,cpu,tensorrt:2");
    }

    #[test]
    fn what_is_no_device_is_a_usage_error() {
        for text in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cpu,,cpu", "cuda:0,cuda:0", "cuda:1,tensorrt:1"]
        {
            let error = text.parse::<Devices>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
        assert_eq!(resolved("cuda,cuda:0", 2).expect_err("twice").kind(), ErrorKind::Usage);
    }

    #[test]
    fn all_of_no_gpus_is_a_device_that_cannot_be_had() {
        let error = resolved("cuda", 0).expect_err("none");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Provider, "no_device"));
    }

    #[test]
    fn the_kernel_lists_a_folder_a_gpu() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(known_to_kernel(&folder.path().join("absent")), 0);
        for name in ["0000:19:00.0", "0000:3b:00.0"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        assert_eq!(known_to_kernel(folder.path()), 2);
    }
}
