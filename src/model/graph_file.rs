//! A graph file, and binding its inputs and outputs by name: which input is the sample, which output the prediction.

use std::path::{Path, PathBuf};

use super::header::{is_lfs_pointer, read_signature};
use super::signature::{Dtype, Signature, TensorInfo};
use crate::error::{Error, ErrorKind, Location, Result};

/// A graph file and what it declares.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphFile {
    /// The `.onnx` file.
    pub path: PathBuf,
    /// Its inputs, outputs and origin.
    pub signature: Signature,
}

impl GraphFile {
    /// Returns the graph in the file `path`.
    ///
    /// # Errors
    /// It is not an ONNX graph, or a file with its weights is missing.
    pub fn open(path: PathBuf) -> Result<GraphFile> {
        let graph = GraphFile { signature: read_signature(&path)?, path };
        graph.external_files().iter().try_for_each(|file| check_weights(&graph.path, file))?;
        Ok(graph)
    }

    /// Returns the `config.json` beside the graph, whether it is there or not.
    pub fn config_path(&self) -> PathBuf {
        self.path.with_file_name("config.json")
    }

    /// Returns the files beside the graph that hold its weights.
    pub fn external_files(&self) -> Vec<PathBuf> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.signature.external_data.iter().map(|name| folder.join(name)).collect()
    }

    /// Returns whether the graph has an input of one of these names.
    pub(super) fn takes(&self, names: &[&str]) -> bool {
        self.signature.inputs.iter().any(|input| names.contains(&input.name.as_str()))
    }

    /// Returns the input of a role.
    pub(super) fn input(&self, role: &Role) -> Result<TensorInfo> {
        self.bind(&self.signature.inputs, role)
    }

    /// Returns the input of a role that the graph may do without.
    pub(super) fn optional_input(&self, role: &Role) -> Result<Option<TensorInfo>> {
        if self.takes(role.names) { self.input(role).map(Some) } else { Ok(None) }
    }

    /// Returns the output of a role.
    pub(super) fn output(&self, role: &Role) -> Result<TensorInfo> {
        self.bind(&self.signature.outputs, role)
    }

    /// Returns the tensor of `tensors` with one of the names of `role`, or the only tensor at all. Where names of several
    /// exporters clash, the one with the role's number of dimensions is meant.
    fn bind(&self, tensors: &[TensorInfo], role: &Role) -> Result<TensorInfo> {
        let fits = |tensor: &&TensorInfo| tensor.rank().is_none_or(|rank| role.ranks.contains(&rank));
        let named = |fit: bool| {
            let find = |name: &&str| tensors.iter().filter(|t| !fit || fits(t)).find(|tensor| tensor.name == *name);
            role.names.iter().find_map(find)
        };
        let tensor = match (named(true).or_else(|| named(false)), tensors) {
            (Some(tensor), _) => tensor,
            (None, [only]) if role.may_have_any_name => only,
            _ => return Err(self.unbound(tensors, role)),
        };
        if !(role.dtype)(tensor.dtype) {
            return Err(self.error(format!("{tensor} must be {}", role.dtype_name)));
        }
        if !fits(&tensor) {
            return Err(self.error(format!("{tensor} must be {}", role.shape)));
        }
        Ok(tensor.clone())
    }

    fn unbound(&self, tensors: &[TensorInfo], role: &Role) -> Error {
        let have: Vec<_> = tensors.iter().map(ToString::to_string).collect();
        let have = if have.is_empty() { "nothing".into() } else { have.join(", ") };
        self.error(format!("the graph has no {} `{}`, only {have}", role.side, role.names[0]))
            .hint("export the model with optimum's names, for example with `onnx/export.py`")
    }

    /// Fails if the graph has inputs besides `bound`: they would have to be fed.
    pub(super) fn only_inputs(&self, bound: &[&TensorInfo]) -> Result<()> {
        let other = self.signature.inputs.iter().find(|input| bound.iter().all(|bound| bound.name != input.name));
        other.map_or(Ok(()), |other| Err(self.error(format!("the graph takes {other}, which is not supported yet"))))
    }

    /// Returns an error about this graph.
    pub(super) fn error(&self, message: String) -> Error {
        Error::new(ErrorKind::Model, "graph_signature", message).at(Location::file(&self.path))
    }
}

fn check_weights(graph: &Path, file: &Path) -> Result<()> {
    if !file.is_file() {
        let message = format!("the weights `{}` of this graph are not there", file.display());
        return Err(Error::new(ErrorKind::Model, "weights_missing", message)
            .at(Location::file(graph))
            .hint("copy that file too, under the same name and beside the graph"));
    }
    if is_lfs_pointer(file) {
        let message = "the weights are a Git LFS pointer, not the weights";
        return Err(Error::new(ErrorKind::Model, "weights_missing", message)
            .at(Location::file(file))
            .hint("fetch the content with `git lfs pull`"));
    }
    Ok(())
}

/// What an input or output must be.
pub(super) struct Role {
    /// `input` or `output`.
    pub(super) side: &'static str,
    /// optimum's name first, then those of other exporters.
    pub(super) names: &'static [&'static str],
    /// Whether a graph's only tensor on this side is it whatever its name.
    pub(super) may_have_any_name: bool,
    pub(super) dtype: fn(Dtype) -> bool,
    pub(super) dtype_name: &'static str,
    pub(super) ranks: &'static [usize],
    pub(super) shape: &'static str,
}

/// A picture or latents; other roles say in what they differ.
pub(super) const FLOATS: Role = Role {
    side: "input",
    names: &[],
    may_have_any_name: false,
    dtype: Dtype::is_float,
    dtype_name: "a float tensor",
    ranks: &[4],
    shape: "[batch, channels, height, width]",
};
