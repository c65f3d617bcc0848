//! NVIDIA's libraries: found where people have them, loaded by their full paths, and named where they are missing.
//!
//! ONNX Runtime's providers want them by name. A library that is already loaded answers to its name, so we load each from
//! wherever it is before a provider asks: the packages of pip lie in several folders that no system searches.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::device::Device;
use super::runtime::Runtime;
use crate::error::{Error, ErrorKind, Result};

/// Folders to search before all others, with colons between them.
const VARIABLE: &str = "NIGHTSHIFT_CUDA_LIBS";

/// A library and the pip package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Library {
    /// The name that providers ask for.
    pub file: &'static str,
    /// Where it comes from.
    pub package: &'static str,
}

impl Library {
    /// Returns whether only TensorRT needs it.
    pub(super) fn is_for_tensorrt(&self) -> bool {
        TENSORRT.contains(self)
    }
}

const fn library(file: &'static str, package: &'static str) -> Library {
    Library { file, package }
}

/// What ONNX Runtime 1.31's CUDA provider needs, each after those that it needs itself.
const CUDA: [Library; 7] = [
    library("libcuda.so.1", "the NVIDIA driver, 580 or newer"),
    library("libcudart.so.13", "nvidia-cuda-runtime"),
    library("libcublasLt.so.13", "nvidia-cublas"),
    library("libcublas.so.13", "nvidia-cublas"),
    library("libcurand.so.10", "nvidia-curand"),
    library("libnvrtc.so.13", "nvidia-cuda-nvrtc"),
    library("libcudnn.so.9", "nvidia-cudnn-cu13"),
];

/// What the TensorRT provider needs besides.
const TENSORRT: [Library; 2] = [
    library("libnvinfer.so.10", "tensorrt-cu13-libs, 10.x"),
    library("libnvonnxparser.so.10", "tensorrt-cu13-libs, 10.x"),
];

/// Returns what a device needs.
fn needed(device: Device) -> Vec<Library> {
    match device {
        Device::Cpu => Vec::new(),
        Device::Cuda(_) => CUDA.to_vec(),
        Device::TensorRt(_) => CUDA.into_iter().chain(TENSORRT).collect(),
    }
}

/// A library and where it was found; `None` where it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What was looked for.
    #[serde(flatten)]
    pub library: Library,
    /// The file, or the bare name where the system's own search finds it.
    pub path: Option<PathBuf>,
}

/// Loads what `device` needs, so that ONNX Runtime finds it.
///
/// # Errors
/// Kind `Provider`: `runtime` was built without the device's provider, or libraries are missing; the error names each and the
/// package that has it.
pub(super) fn open(runtime: &Runtime, device: Device) -> Result<()> {
    let known = match device {
        Device::Cpu => return Ok(()),
        Device::Cuda(_) => runtime.has_cuda(),
        Device::TensorRt(_) => runtime.has_tensorrt(),
    };
    if !known {
        let message =
            format!("device `{device}` cannot be had: `{}` is ONNX Runtime without it", runtime.library().display());
        return Err(Error::new(ErrorKind::Provider, "no_device", message)
            .hint("get the library for GPUs with `make setup ORT=gpu`; `--device cpu` works without"));
    }
    let missing: Vec<Library> =
        load(device).into_iter().filter(|found| found.path.is_none()).map(|found| found.library).collect();
    if missing.is_empty() { Ok(()) } else { Err(not_found(device, &missing)) }
}

/// Loads each library that `device` needs, from the first folder that has it, else by the system's own search.
pub(super) fn load(device: Device) -> Vec<Found> {
    let folders = folders(&|name| std::env::var_os(name), &|pattern| matching(Path::new("/"), pattern));
    let load = |library: Library| {
        let path = find(&folders, library.file);
        let candidates = path.into_iter().chain([PathBuf::from(library.file)]);
        let path = candidates.into_iter().find(|path| ort::util::preload_dylib(path.as_os_str()).is_ok());
        Found { library, path }
    };
    needed(device).into_iter().map(load).collect()
}

fn not_found(device: Device, missing: &[Library]) -> Error {
    let named: Vec<String> = missing.iter().map(|library| format!("{} ({})", library.file, library.package)).collect();
    let packages: Vec<&str> =
        missing.iter().map(|library| library.package).filter(|name| !name.contains(' ')).collect();
    let mut install: Vec<&str> = packages.clone();
    install.dedup();
    let hint = match install.is_empty() {
        true => format!("install it, or name its folder in {VARIABLE}; `nightshift doctor` lists what is there"),
        false => format!(
            "`pip install {}`, or name the folders that have them in {VARIABLE}; `nightshift doctor` lists what is there",
            install.join(" ")
        ),
    };
    let message = format!("device `{device}` cannot be had: missing {}", named.join(", "));
    Error::new(ErrorKind::Provider, "no_device", message).hint(hint)
}

/// Returns the file `name` of the first folder that has it.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Returns the folders to search, in order: those that are named, those of Python environments (in use, on the path, the
/// user's, the system's), those of the CUDA toolkit. `variable` gives environment variables, `matching` the paths of a pattern
/// that exist.
fn folders(variable: &dyn Fn(&str) -> Option<OsString>, matching: &dyn Fn(&str) -> Vec<PathBuf>) -> Vec<PathBuf> {
    let named = variable(VARIABLE).map(|list| std::env::split_paths(&list).collect::<Vec<_>>()).unwrap_or_default();
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name)).map(PathBuf::from).collect();
    prefixes.extend(variable("PATH").and_then(|path| python_prefix(&path)));
    prefixes.extend(variable("HOME").map(|home| Path::new(&home).join(".local")));
    prefixes.extend([PathBuf::from("/usr/local"), PathBuf::from("/usr")]);
    let mut all = Vec::new();
    for folder in named {
        all.extend(matching(&format!("{}/nvidia/*/lib", folder.display())));
        all.push(folder);
    }
    for prefix in prefixes {
        for packages in ["lib/python3*/site-packages", "lib/python3*/dist-packages"] {
            for inside in ["nvidia/*/lib", "tensorrt_libs"] {
                all.extend(matching(&format!("{}/{packages}/{inside}", prefix.display())));
            }
        }
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| variable(name)).map(PathBuf::from);
    all.extend(toolkits.flat_map(|toolkit| [toolkit.join("lib64"), toolkit.join("lib")]));
    for pattern in [
        "/usr/local/cuda*/lib64",
        "/usr/lib/*-linux-gnu",
        "/usr/lib64",
        "/opt/tensorrt*/lib",
        "/usr/local/tensorrt*/lib",
    ] {
        all.extend(matching(pattern));
    }
    all
}

/// Returns the prefix of the first Python on a search path, its links followed only within `bin`: an environment's Python
/// links to another's, whose packages are not its own.
fn python_prefix(path: &OsString) -> Option<PathBuf> {
    let bin = std::env::split_paths(path)
        .find(|folder| folder.join("python3").is_file() || folder.join("python").is_file())?;
    bin.parent().map(Path::to_path_buf)
}

/// Returns the paths below `root` that a pattern with `*` in its parts names, the highest versions first.
fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found.iter().flat_map(|folder| step(folder, part)).collect();
    }
    found
}

fn step(folder: &Path, part: &str) -> Vec<PathBuf> {
    let Some((before, after)) = part.split_once('*') else {
        return Some(folder.join(part)).filter(|path| path.exists()).into_iter().collect();
    };
    let fits = |name: &str| name.len() >= part.len() - 1 && name.starts_with(before) && name.ends_with(after);
    let names = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| fits(name)).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.into_iter().map(|name| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use super::*;

    fn touch(root: &Path, path: &str) {
        let path = root.join(path);
        create_dir_all(path.parent().expect("it has one")).expect("made");
        write(path, "").expect("written");
    }

    /// Returns where `name` is found in `root`, which stands for the whole machine, with some variables set.
    fn found(root: &Path, variables: &[(&str, &str)], name: &str) -> Option<String> {
        let value = |name: &str| {
            let (_, value) = variables.iter().find(|(variable, _)| *variable == name)?;
            let list = value.split(':').map(|path| root.join(path.trim_start_matches('/')).display().to_string());
            Some(OsString::from(list.collect::<Vec<_>>().join(":")))
        };
        // Patterns of variables begin with the root already.
        let inside = |pattern: &str| {
            let inner = pattern.strip_prefix(&root.display().to_string()).unwrap_or(pattern);
            matching(root, inner)
        };
        let path = find(&folders(&value, &inside), name)?;
        Some(path.strip_prefix(root).expect("inside").display().to_string())
    }

    #[test]
    fn libraries_are_found_where_pip_puts_them() {
        let machine = tempfile::tempdir().expect("a folder");
        let root = machine.path();
        touch(root, "venv/lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9");
        touch(root, "venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublas.so.13");
        touch(root, "venv/lib/python3.12/site-packages/tensorrt_libs/libnvinfer.so.10");
        let venv: &[(&str, &str)] = &[("VIRTUAL_ENV", "/venv")];
        for (name, place) in [
            ("libcudnn.so.9", "nvidia/cudnn/lib"),
            ("libcublas.so.13", "nvidia/cu13/lib"),
            ("libnvinfer.so.10", "tensorrt_libs"),
        ] {
            let path = format!("venv/lib/python3.12/site-packages/{place}/{name}");
            assert_eq!(found(root, venv, name), Some(path));
            assert_eq!(found(root, &[], name), None, "nobody says where the environment is");
        }
        touch(root, "venv/bin/python3");
        assert!(found(root, &[("PATH", "/usr/bin:/venv/bin")], "libcudnn.so.9").is_some(), "the Python on the path");
        touch(root, "home/.local/lib/python3.11/site-packages/nvidia/curand/lib/libcurand.so.10");
        assert!(found(root, &[("HOME", "/home")], "libcurand.so.10").is_some(), "the user's own packages");
    }

    #[test]
    fn a_named_folder_comes_first_and_the_toolkit_last() {
        let machine = tempfile::tempdir().expect("a folder");
        let root = machine.path();
        let name = "libcudart.so.13";
        touch(root, &format!("usr/local/cuda-13.1/lib64/{name}"));
        assert_eq!(found(root, &[], name), Some(format!("usr/local/cuda-13.1/lib64/{name}")));
        touch(root, &format!("conda/lib/python3.13/site-packages/nvidia/cu13/lib/{name}"));
        let conda = ("CONDA_PREFIX", "/conda");
        assert!(found(root, &[conda], name).is_some_and(|path| path.starts_with("conda")));
        touch(root, &format!("mine/{name}"));
        touch(root, &format!("wheels/nvidia/cuda_runtime/lib/{name}"));
        assert_eq!(found(root, &[conda, (VARIABLE, "/mine:/wheels")], name), Some(format!("mine/{name}")));
        assert!(found(root, &[conda, (VARIABLE, "/wheels")], name).is_some_and(|path| path.starts_with("wheels")));
    }

    #[test]
    fn the_message_names_each_library_and_its_package() {
        let error = not_found(Device::Cuda(1), &[CUDA[2], CUDA[3], CUDA[6]]);
        assert_eq!(
            error.to_string(),
            "device `cuda:1` cannot be had: missing libcublasLt.so.13 (nvidia-cublas), libcublas.so.13 (nvidia-cublas), \
             libcudnn.so.9 (nvidia-cudnn-cu13)"
        );
        assert!(
            error.how_to_fix().is_some_and(|hint| hint.starts_with("`pip install nvidia-cublas nvidia-cudnn-cu13`"))
        );
        assert_eq!(error.kind().exit_code(), 10);
        let driver = not_found(Device::TensorRt(0), &CUDA[..1]);
        assert!(driver.to_string().ends_with("missing libcuda.so.1 (the NVIDIA driver, 580 or newer)"), "{driver}");
    }
}
