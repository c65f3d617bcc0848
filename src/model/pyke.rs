//! pyke's layout: graphs side by side in one folder, which `pyke-diffusers.toml` names. Reads that file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::read_text_if_there;
use super::layout::Part;
use crate::error::{Error, ErrorKind, Location, Result};

/// The file that makes a folder one of pyke's.
pub(super) const PYKE_FILE: &str = "pyke-diffusers.toml";

/// What `pyke-diffusers.toml` says that we need.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Pyke {
    text_encoder: Network,
    unet: Network,
    vae: Vae,
    tokenizer: Option<Tokenizer>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Network {
    path: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vae {
    encoder: Option<PathBuf>,
    decoder: PathBuf,
    /// pyke's converters write it either way.
    #[serde(alias = "scale_factor")]
    scale_factor: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Tokenizer {
    path: PathBuf,
    model_max_length: Option<usize>,
}

impl Pyke {
    /// Reads the file of the folder `dir`, if it is there.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, or lacks a network.
    pub(super) fn read_if_there(dir: &Path) -> Result<Option<Pyke>> {
        let path = dir.join(PYKE_FILE);
        let Some(text) = read_text_if_there(&path)? else { return Ok(None) };
        let pyke: Pyke = toml::from_str(&text).map_err(|error| bad(&path, error.message().to_string()))?;
        match pyke.vae.scale_factor {
            Some(factor) if factor.is_nan() || factor <= 0.0 => {
                Err(bad(&path, "`scale-factor` must be above 0".into()))
            }
            _ => Ok(Some(pyke)),
        }
    }

    /// Returns the graph of a part, relative to the folder.
    pub(super) fn graph(&self, part: Part) -> Option<&Path> {
        match part {
            Part::TextEncoder => Some(&self.text_encoder.path),
            Part::Unet => Some(&self.unet.path),
            Part::VaeDecoder => Some(&self.vae.decoder),
            Part::VaeEncoder => self.vae.encoder.as_deref(),
            Part::VaeDecoderFp32 | Part::TextEncoder2 | Part::TextEncoder3 => None,
        }
    }

    /// Returns the folder of `tokenizer.json`, relative to the folder.
    pub(super) fn tokenizer_folder(&self) -> &Path {
        self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.path.parent()).unwrap_or(Path::new(""))
    }

    /// Returns the number of token ids of a text.
    pub(super) fn model_max_length(&self) -> Option<usize> {
        self.tokenizer.as_ref()?.model_max_length.filter(|length| *length >= 2)
    }

    /// Returns the VAE's `scaling_factor`.
    pub(super) fn scaling_factor(&self) -> Option<f64> {
        self.vae.scale_factor
    }
}

fn bad(path: &Path, message: String) -> Error {
    Error::new(ErrorKind::Model, "bad_model_config", message)
        .at(Location::file(path))
        .hint("it names the graphs under `[text-encoder]`, `[unet]` and `[vae]`; copy the file again")
}
