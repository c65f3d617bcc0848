//! What this machine has (`nightshift doctor`): the library, its providers, GPUs and what they need, the processor.

use std::fmt;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use ort::ep::{CUDA, ExecutionProvider, TensorRT};
use serde::Serialize;

use super::cuda_libraries::{Found, load};
use super::device::Device;
use super::gpu::{Driver, driver, gpu_states};
use super::library::{Searched, search};
use super::runtime::Runtime;
use crate::gpu::GpuState;

/// What was found, in the order in which it matters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Doctor {
    /// nightshift's own version.
    pub nightshift: String,
    /// The library that a run would use.
    pub library: Option<PathBuf>,
    /// Version in the library's name.
    pub library_version: Option<String>,
    /// What the library says about its build, if it loads.
    pub build_info: Option<String>,
    /// Why it does not load.
    pub problem: Option<String>,
    /// How to fix that.
    pub hint: Option<String>,
    /// Where the library was looked for.
    pub searched: Vec<Searched>,
    /// Devices that the library was built for. Whether a GPU works is only known by loading a model on it.
    pub devices: Vec<String>,
    /// The NVIDIA driver, if there is one.
    pub driver: Option<Driver>,
    /// The GPUs that this process may see.
    pub gpus: Vec<GpuState>,
    /// NVIDIA's libraries that TensorRT (and, but for its own, CUDA) needs, and where they are. Only looked for where the library
    /// was built for GPUs, or there is one.
    pub nvidia_libraries: Vec<Found>,
    /// What keeps the GPUs from being used, in plain words; empty where nothing does, or nobody would want to.
    pub gpu_problems: Vec<String>,
    /// Threads that this process may use.
    pub threads: usize,
    /// Vector instructions of the processor that ONNX Runtime makes use of.
    pub cpu_features: Vec<String>,
}

impl Doctor {
    /// Looks for the library as a run with this `--ort-lib` would, loads it and asks it.
    pub fn examine(explicit: Option<&Path>) -> Doctor {
        let searched = search(explicit);
        let runtime = Runtime::load(explicit);
        let library = searched.iter().find_map(|place| place.found.clone());
        let error = runtime.as_ref().err();
        let devices = if runtime.is_ok() { devices() } else { Vec::new() };
        let (driver, gpus) = (driver(), gpu_states());
        let wants_gpu = devices.len() > 1 || driver.is_some();
        let nvidia_libraries = if wants_gpu { load(Device::TensorRt(0)) } else { Vec::new() };
        let gpu_problems =
            if wants_gpu { gpu_problems(&devices, driver.as_ref(), &gpus, &nvidia_libraries) } else { Vec::new() };
        Doctor {
            nightshift: env!("CARGO_PKG_VERSION").to_string(),
            library_version: library.as_deref().and_then(version_in_name),
            library,
            build_info: runtime.as_ref().ok().map(|runtime| runtime.build_info().to_string()),
            problem: error.map(ToString::to_string),
            hint: error.and_then(|error| error.how_to_fix()).map(str::to_string),
            searched,
            devices,
            driver,
            gpus,
            nvidia_libraries,
            gpu_problems,
            threads: available_parallelism().map_or(1, NonZero::get),
            cpu_features: cpu_features(),
        }
    }

    /// Returns whether a run on CPU would get as far as loading a model.
    pub fn is_well(&self) -> bool {
        self.problem.is_none()
    }
}

fn version_in_name(library: &Path) -> Option<String> {
    let name = library.file_name()?.to_str()?;
    let start = name.find(|c: char| c.is_ascii_digit())?;
    Some(name[start..].trim_end_matches(".dylib").to_string())
}

fn devices() -> Vec<String> {
    let built = |there: ort::Result<bool>, name: &str| there.unwrap_or(false).then(|| name.to_string());
    let gpus = [built(CUDA::is_available(), "cuda"), built(TensorRT::is_available(), "tensorrt")];
    std::iter::once("cpu".to_string()).chain(gpus.into_iter().flatten()).collect()
}

/// Returns what stands between ONNX Runtime and the GPUs of this machine.
fn gpu_problems(devices: &[String], driver: Option<&Driver>, gpus: &[GpuState], libraries: &[Found]) -> Vec<String> {
    let mut problems = Vec::new();
    if driver.is_none() {
        problems
            .push("no NVIDIA driver answers: install one, and in a container start it with `--gpus all`".to_string());
    } else if gpus.is_empty() {
        problems.push("the driver shows no GPU: look at `nvidia-smi` and CUDA_VISIBLE_DEVICES".to_string());
    }
    if !devices.iter().any(|device| device == "cuda") {
        problems.push("this ONNX Runtime was built without CUDA: get the other with `make setup ORT=gpu`".to_string());
    }
    let cuda = driver.and_then(|driver| driver.cuda.as_deref()?.split('.').next()?.parse::<u32>().ok());
    if let Some(cuda) = cuda.filter(|cuda| *cuda < 13) {
        problems.push(format!(
            "the driver runs CUDA up to {cuda}, and the libraries are for 13: install driver 580 or newer"
        ));
    }
    for found in libraries.iter().filter(|found| found.path.is_none()) {
        let whose = if found.library.is_for_tensorrt() { ", which only TensorRT needs," } else { "" };
        problems.push(format!("{}{whose} is missing: it is in {}", found.library.file, found.library.package));
    }
    problems
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let features = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
    ];
    features.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_string()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

impl Doctor {
    fn write_gpus(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            None => writeln!(f, "NVIDIA driver: none")?,
            Some(Driver { version, cuda }) => {
                writeln!(f, "NVIDIA driver: {version}, CUDA up to {}", cuda.as_deref().unwrap_or("?"))?;
            }
        }
        for gpu in &self.gpus {
            let capability = gpu.compute_capability.as_deref().unwrap_or("?");
            writeln!(f, "  {gpu}: {}, compute capability {capability}", gpu.name)?;
        }
        for Found { library, path } in &self.nvidia_libraries {
            let place = path.as_ref().map_or("missing".to_string(), |path| path.display().to_string());
            writeln!(f, "  {}: {place}", library.file)?;
        }
        self.gpu_problems.iter().try_for_each(|problem| writeln!(f, "  to use GPUs: {problem}"))
    }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nightshift {}", self.nightshift)?;
        match (&self.library, &self.problem) {
            (Some(library), None) => {
                let version = self.library_version.as_deref().unwrap_or("of unknown version");
                writeln!(f, "ONNX Runtime {version}: {}", library.display())?;
            }
            (_, problem) => writeln!(f, "ONNX Runtime: {}", problem.as_deref().unwrap_or("not found"))?,
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "  hint: {hint}")?;
        }
        if let Some(build_info) = &self.build_info {
            writeln!(f, "  {build_info}")?;
        }
        for place in &self.searched {
            let found = if place.found.is_some() { "found" } else { "not there" };
            writeln!(f, "  looked in {} ({}): {found}", place.path.display(), place.reason)?;
        }
        let devices = if self.devices.is_empty() { "none".into() } else { self.devices.join(", ") };
        writeln!(f, "devices the library was built for: {devices}")?;
        self.write_gpus(f)?;
        writeln!(f, "processor: {} threads, {}", self.threads, self.cpu_features.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cuda_libraries::Library;
    use super::*;

    #[test]
    fn what_keeps_gpus_from_working_is_said_in_order() {
        let driver = |cuda: &str| Driver { version: "580.95.05".into(), cuda: Some(cuda.into()) };
        let gpu = [GpuState { name: "a GPU".into(), ..GpuState::default() }];
        let built = ["cpu".to_string(), "cuda".to_string()];
        let library = Library { file: "libcudnn.so.9", package: "nvidia-cudnn-cu13" };
        let there = [Found { library, path: Some("/x/libcudnn.so.9".into()) }];
        let missing = [Found { library, path: None }];
        assert!(gpu_problems(&built, Some(&driver("13.0")), &gpu, &there).is_empty());
        let problems = gpu_problems(&built[..1], Some(&driver("12.8")), &[], &missing);
        let words = [
            "shows no GPU",
            "built without CUDA",
            "CUDA up to 12",
            "libcudnn.so.9 is missing: it is in nvidia-cudnn-cu13",
        ];
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, word) in problems.iter().zip(words) {
            assert!(problem.contains(word), "{problem}");
        }
        assert!(gpu_problems(&built, None, &[], &there)[0].contains("no NVIDIA driver answers"));
    }

    #[test]
    fn a_machine_with_gpus_is_described_line_by_line() {
        let mut doctor = Doctor::examine(None);
        doctor.driver = Some(Driver { version: "580.95.05".into(), cuda: Some("13.0".into()) });
        let name = "NVIDIA H100 80GB HBM3".to_string();
        let memory = (Some(0), Some(80 << 30));
        let capability = Some("9.0".to_string());
        doctor.gpus = vec![GpuState {
            name,
            compute_capability: capability,
            memory_used: memory.0,
            memory_total: memory.1,
            ..GpuState::default()
        }];
        doctor.gpu_problems = vec!["libcudnn.so.9 is missing: it is in nvidia-cudnn-cu13".into()];
        let text = doctor.to_string();
        for line in [
            "NVIDIA driver: 580.95.05, CUDA up to 13.0",
            "  GPU 0 0.0/80.0 GiB: NVIDIA H100 80GB HBM3, compute capability 9.0",
            "  to use GPUs: libcudnn.so.9 is missing: it is in nvidia-cudnn-cu13",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n---\n{text}");
        }
    }
}
