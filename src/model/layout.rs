//! Where exporters put the parts of a model. Reads folders.
//!
//! Every part is a folder with one graph. optimum, diffusers' old converter, Olive and ours agree on the folders' names;
//! the demos of ONNX Runtime and NVIDIA have names of their own, with the device in them. pyke's graphs lie side by side.

use std::path::{Path, PathBuf};

use super::config::missing;
use super::graph_file::GraphFile;
use super::pyke::Pyke;
use crate::error::{Error, ErrorKind, Location, Result};

/// A network of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    TextEncoder,
    TextEncoder2,
    TextEncoder3,
    Unet,
    VaeDecoder,
    VaeDecoderFp32,
    VaeEncoder,
}

impl Part {
    /// The names of its folder, the usual one first. A demo's folder has a dot and more after its name.
    fn folders(self) -> &'static [&'static str] {
        match self {
            Part::TextEncoder => &["text_encoder", "clip", "clip_l"],
            // T5 is the second of Flux and the third of SD3; where CLIP's second is there, it comes first.
            Part::TextEncoder2 => &["text_encoder_2", "clip2", "clip_g", "t5"],
            Part::TextEncoder3 => &["text_encoder_3", "t5", "t5xxl"],
            Part::Unet => &["unet", "transformer", "unetxl", "mmdit"],
            Part::VaeDecoder => &["vae_decoder", "vae"],
            Part::VaeDecoderFp32 => &["vae_decoder_fp32"],
            Part::VaeEncoder => &["vae_encoder"],
        }
    }
}

/// The folder that holds the parts.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
    pyke: Option<Pyke>,
}

/// Where the parts are: beside the configs, or where the demos of ONNX Runtime and of NVIDIA put them.
const PARTS_FOLDERS: [&str; 3] = ["", "engine", "onnx"];

impl Layout {
    /// Returns the layout of the model folder `dir`.
    ///
    /// # Errors
    /// It is pyke's, and the file that says so is broken.
    pub(super) fn of(dir: &Path) -> Result<Layout> {
        if let Some(pyke) = Pyke::read_if_there(dir)? {
            return Ok(Layout { root: dir.to_path_buf(), pyke: Some(pyke) });
        }
        let mut layouts = PARTS_FOLDERS.iter().map(|name| Layout { root: dir.join(name), pyke: None });
        let with_unet = layouts.find(|layout| !matches!(layout.has(Part::Unet), Ok(false)));
        Ok(with_unet.unwrap_or_else(|| Layout { root: dir.to_path_buf(), pyke: None }))
    }

    /// Returns what pyke's file says, if the layout is pyke's.
    pub(super) fn pyke(&self) -> Option<&Pyke> {
        self.pyke.as_ref()
    }

    /// Returns whether the part is there.
    pub(super) fn has(&self, part: Part) -> Result<bool> {
        Ok(self.find(part)?.is_some())
    }

    /// Returns the graph of a part that must be there.
    ///
    /// # Errors
    /// It is not, it is not an ONNX graph, or a file with its weights is missing.
    pub(super) fn graph(&self, part: Part) -> Result<GraphFile> {
        self.optional_graph(part)?.ok_or_else(|| {
            missing(&self.root.join(part.folders()[0]).join("model.onnx")).hint(
                "a model folder holds `text_encoder`, `unet` and `vae_decoder`, each with `model.onnx`; \
                 export PyTorch weights with `onnx/export.py`",
            )
        })
    }

    /// Returns the graph of a part, or `None` if it is not there.
    pub(super) fn optional_graph(&self, part: Part) -> Result<Option<GraphFile>> {
        self.find(part)?.map(GraphFile::open).transpose()
    }

    fn find(&self, part: Part) -> Result<Option<PathBuf>> {
        if let Some(pyke) = &self.pyke {
            return Ok(pyke.graph(part).map(|path| self.root.join(path)));
        }
        for name in part.folders() {
            let folder = self.root.join(name);
            let folder = if folder.is_dir() { Some(folder) } else { self.with_device(name) };
            if let Some(graph) = folder.map(|folder| graph_in(&folder)).transpose()?.flatten() {
                return Ok(Some(graph));
            }
        }
        Ok(None)
    }

    /// Returns the first folder called `name.…`, such as `unetxl.ort_cuda.fp16`.
    fn with_device(&self, name: &str) -> Option<PathBuf> {
        let starts = |path: &PathBuf| {
            let rest = path.file_name()?.to_str()?.strip_prefix(name)?;
            Some(rest.starts_with('.') && path.is_dir())
        };
        let entries = std::fs::read_dir(&self.root).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found: Vec<_> = entries.filter(|path| starts(path) == Some(true)).collect();
        found.sort();
        found.into_iter().next()
    }
}

/// Returns `model.onnx` of a folder, or its only graph under another name.
fn graph_in(folder: &Path) -> Result<Option<PathBuf>> {
    let usual = folder.join("model.onnx");
    if usual.exists() {
        return Ok(Some(usual));
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut graphs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "onnx")).collect();
    graphs.sort();
    match graphs.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        [first, second, ..] => {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let message = format!("the folder has several graphs, such as `{}` and `{}`", name(first), name(second));
            let error = Error::new(ErrorKind::Model, "which_graph", message).at(Location::file(folder));
            Err(error.hint("leave the one to use there, as `model.onnx`"))
        }
    }
}
