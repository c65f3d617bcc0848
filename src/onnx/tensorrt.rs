//! What TensorRT builds its engines for, and where it keeps them.
//!
//! An engine takes minutes to build, and fits one graph on one kind of GPU with one version of everything. With a range of
//! shapes for every free dim (a profile) it is built once, before the first call, and not again for every new size.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::TensorInfo;

/// The shapes of each network's inputs, by the network's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profiles(BTreeMap<&'static str, Profile>);

/// Smallest, most frequent and largest shapes of the inputs of one network, as TensorRT's provider takes them:
/// `sample:2x4x64x64,timestep:2`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) min: String,
    pub(super) opt: String,
    pub(super) max: String,
}

/// One free dim: smallest, most frequent and largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Smallest.
    pub min: usize,
    /// Most frequent.
    pub opt: usize,
    /// Largest.
    pub max: usize,
}

impl Range {
    /// Returns the range of one value.
    pub fn only(value: usize) -> Self {
        Range { min: value, opt: value, max: value }
    }

    /// Returns the range of `values`, of which the first is the most frequent; `None` of none.
    pub fn of(values: impl IntoIterator<Item = usize>) -> Option<Self> {
        let values: Vec<usize> = values.into_iter().collect();
        let (min, max) = (values.iter().min()?, values.iter().max()?);
        Some(Range { min: *min, opt: values[0], max: *max })
    }
}

impl Profiles {
    /// Adds an input of a network: its dims in order. Dims that the graph has fixed stay as they are.
    pub fn add(&mut self, part: &'static str, tensor: &TensorInfo, dims: &[Range]) {
        let profile = self.0.entry(part).or_default();
        let shapes = [
            (&mut profile.min, (|range| range.min) as fn(&Range) -> usize),
            (&mut profile.opt, |range| range.opt),
            (&mut profile.max, |range| range.max),
        ];
        for (text, value) in shapes {
            let sizes = dims.iter().enumerate().map(|(axis, dim)| tensor.fixed(axis).unwrap_or(value(dim)).to_string());
            let comma = if text.is_empty() { "" } else { "," };
            text.push_str(&format!("{comma}{}:{}", tensor.name, sizes.collect::<Vec<_>>().join("x")));
        }
    }

    /// Returns the profile of a network, if one was given.
    pub(super) fn of(&self, part: &str) -> Option<&Profile> {
        self.0.get(part)
    }
}

/// Returns the folder below `cache` for the engines of one model on one kind of GPU with these versions: whatever changes gives
/// another folder, so that an old engine is never taken for a new one.
pub fn engine_folder(cache: &Path, model_hash: &str, gpu: &str, versions: &[&str]) -> PathBuf {
    let slug = |text: &str| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        text.chars().map(plain).collect::<String>().trim_matches('-').to_string()
    };
    let model: String = model_hash.chars().take(16).collect();
    let parts: Vec<String> = [model.as_str(), gpu].iter().chain(versions).map(|part| slug(part)).collect();
    cache.join(parts.join("_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dim, Dtype};

    #[test]
    fn profiles_are_written_as_the_provider_reads_them() {
        let free = || Dim::Unknown;
        let sample = TensorInfo {
            name: "sample".into(),
            dtype: Dtype::Float16,
            dims: Some(vec![free(), Dim::Fixed(4), free(), free()]),
        };
        let timestep = TensorInfo { name: "timestep".into(), dtype: Dtype::Float32, dims: Some(vec![free()]) };
        let lanes = Range::of([16, 2, 8]).expect("some");
        let cells = Range::of([64, 96]).expect("some");
        let mut profiles = Profiles::default();
        profiles.add("UNet", &sample, &[lanes, Range::only(9), cells, cells]);
        profiles.add("UNet", &timestep, &[lanes]);
        let profile = profiles.of("UNet").expect("just added");
        assert_eq!(profile.min, "sample:2x4x64x64,timestep:2");
        assert_eq!(profile.opt, "sample:16x4x64x64,timestep:16");
        assert_eq!(profile.max, "sample:16x4x96x96,timestep:16");
        assert_eq!(profiles.of("VAE decoder"), None);
        assert_eq!(Range::of([]), None);
    }

    #[test]
    fn engines_of_other_models_gpus_and_versions_lie_elsewhere() {
        let folder = |hash: &str, gpu: &str, version: &str| {
            engine_folder(Path::new("/c"), hash, gpu, &[version, "580.95"]).display().to_string()
        };
        let one = folder("0123456789abcdef0123", "NVIDIA H100 80GB HBM3", "1.31.1");
        assert_eq!(one, "/c/0123456789abcdef_nvidia-h100-80gb-hbm3_1.31.1_580.95");
        assert_ne!(one, folder("1123456789abcdef0123", "NVIDIA H100 80GB HBM3", "1.31.1"));
        assert_ne!(one, folder("0123456789abcdef0123", "NVIDIA H200", "1.31.1"));
        assert_ne!(one, folder("0123456789abcdef0123", "NVIDIA H100 80GB HBM3", "1.32.0"));
    }
}
