//! What this machine has (`nightshift doctor`): the library, its providers, the processor.

use std::fmt;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use ort::ep::{CUDA, ExecutionProvider, TensorRT};
use serde::Serialize;

use super::library::{Searched, search};
use super::runtime::Runtime;

/// What was found, in the order in which it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        Doctor {
            nightshift: env!("CARGO_PKG_VERSION").to_string(),
            library_version: library.as_deref().and_then(version_in_name),
            library,
            build_info: runtime.as_ref().ok().map(|runtime| runtime.build_info().to_string()),
            problem: error.map(ToString::to_string),
            hint: error.and_then(|error| error.how_to_fix()).map(str::to_string),
            searched,
            devices: if runtime.is_ok() { devices() } else { Vec::new() },
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
        writeln!(f, "processor: {} threads, {}", self.threads, self.cpu_features.join(" "))
    }
}
