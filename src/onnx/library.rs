//! Finds ONNX Runtime's shared library. Never downloads anything.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// Name of the environment variable that gives the library, as the `ort` crate and others call it.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// How to get the library, for hints.
pub(super) const HOW_TO_GET: &str = "run `make setup`, or `pip download --no-deps onnxruntime==1.31.1`, unpack the wheel and give \
     its `onnxruntime/capi/libonnxruntime.so.1.31.1` with `--ort-lib`";

/// A place where the library was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Searched {
    /// Why there.
    pub reason: String,
    /// The file or folder.
    pub path: PathBuf,
    /// The library, if it is there.
    pub found: Option<PathBuf>,
}

/// Returns ONNX Runtime's library and every place that was looked at until it was found: `explicit` (`--ort-lib`), else
/// `ORT_DYLIB_PATH`, else beside the executable, else `.ort/` in the current folder, the executable's, and their parents.
///
/// # Errors
/// There is none; the error lists the places. A file that was named but is not there is an error at once.
pub fn find_library(explicit: Option<&Path>) -> Result<(PathBuf, Vec<Searched>)> {
    let searched = search(explicit);
    match searched.iter().find_map(|place| place.found.clone()) {
        Some(library) => Ok((library, searched)),
        None => Err(not_found(&searched)),
    }
}

/// Looks at the places in order and stops at the first library, or at a place that the user named.
pub(super) fn search(explicit: Option<&Path>) -> Vec<Searched> {
    if let Some(path) = explicit {
        return vec![named("--ort-lib", path)];
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return vec![named(VARIABLE, Path::new(&path))];
    }
    let mut searched: Vec<Searched> = Vec::new();
    for (reason, folder) in folders() {
        if searched.iter().any(|place| place.path == folder) {
            continue;
        }
        let found = library_in(&folder);
        let done = found.is_some();
        searched.push(Searched { reason, path: folder, found });
        if done {
            break;
        }
    }
    searched
}

/// Returns the place that the user named: the library itself, or a folder with it.
fn named(reason: &str, path: &Path) -> Searched {
    let found = if path.is_dir() { library_in(path) } else { absolute(path) };
    Searched { reason: reason.to_string(), path: path.to_path_buf(), found }
}

fn folders() -> Vec<(String, PathBuf)> {
    let executable = std::env::current_exe().ok().and_then(|path| path.canonicalize().ok());
    let beside = executable.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let current = std::env::current_dir().ok();
    let mut folders: Vec<_> =
        beside.iter().map(|folder| ("beside the executable".to_string(), folder.clone())).collect();
    for (name, start) in [("the current folder", &current), ("the executable's folder", &beside)] {
        let parents = start.iter().flat_map(|start| start.ancestors());
        folders.extend(parents.map(|folder| (format!("`.ort` of {name} and its parents"), folder.join(".ort"))));
    }
    folders
}

/// Returns the library in `folder`: the plain name, else the highest version.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| Some((version_of(name.to_str()?)?, folder.join(&name))));
    let (_, path) = names.filter(|(_, path)| path.is_file()).max()?;
    absolute(&path)
}

/// Returns the version in the name of ONNX Runtime's library on Linux, macOS or Windows; an unversioned name counts as
/// the highest. `libonnxruntime_providers_cuda.so` is not it.
fn version_of(name: &str) -> Option<Vec<u32>> {
    let version = match name {
        "libonnxruntime.so" | "libonnxruntime.dylib" | "onnxruntime.dll" => return Some(vec![u32::MAX]),
        _ => match name.strip_prefix("libonnxruntime.so.") {
            Some(version) => version,
            None => name.strip_prefix("libonnxruntime.")?.strip_suffix(".dylib")?,
        },
    };
    version.split('.').map(|part| part.parse().ok()).collect()
}

fn absolute(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}

fn not_found(searched: &[Searched]) -> Error {
    let message = match searched {
        [only] => format!("ONNX Runtime's library is not at `{}` ({})", only.path.display(), only.reason),
        _ => {
            let places: Vec<_> = searched.iter().map(|place| format!("`{}`", place.path.display())).collect();
            format!("ONNX Runtime's library is not in any of {}", places.join(", "))
        }
    };
    Error::new(ErrorKind::Provider, "no_onnxruntime", message).hint(HOW_TO_GET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    #[test]
    fn names_of_three_systems_and_their_versions() {
        assert_eq!(version_of("libonnxruntime.so.1.31.1"), Some(vec![1, 31, 1]));
        assert_eq!(version_of("libonnxruntime.1.31.1.dylib"), Some(vec![1, 31, 1]));
        assert!(version_of("libonnxruntime.so") > version_of("libonnxruntime.so.2.0"));
        assert!(version_of("onnxruntime.dll").is_some());
        assert!(version_of("libonnxruntime.so.1.9") < version_of("libonnxruntime.so.1.31"), "numbers, not text");
        for name in ["libonnxruntime_providers_shared.so", "libonnxruntime.so.bak", "libonnxruntime.a", "ort.dll"] {
            assert_eq!(version_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_folder_gives_its_newest_library() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(library_in(folder.path()), None);
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so"] {
            write(folder.path().join(name), "").expect("written");
        }
        let found = library_in(folder.path()).expect("found");
        assert!(found.ends_with("libonnxruntime.so.1.31.1"));
        assert_eq!(find_library(Some(folder.path())).expect("a folder will do").0, found);
    }

    #[test]
    fn a_named_file_that_is_not_there_is_not_replaced_by_another() {
        let error = find_library(Some(Path::new("no/such.so"))).expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::Provider);
        assert!(error.to_string().contains("`no/such.so` (--ort-lib)"));
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains("make setup")));
    }
}
