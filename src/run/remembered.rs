//! What earlier runs learnt about memory, kept in the output folder: a run that resumes does not run out of it again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{CallLimit, Limits, Network, Settings};
use crate::onnx::Device;
use crate::output::{RunFolder, STATE_FOLDER};

/// `OUT/.nightshift/limits.json`: what was learnt, and with what.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Learnt {
    model_hash: String,
    device: String,
    limits: Vec<Entry>,
}

/// The limit for pictures of one size.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    network: Network,
    width: u32,
    height: u32,
    /// Entries of a call that were asked for.
    asked: usize,
    #[serde(flatten)]
    limit: CallLimit,
}

/// See the module's text.
pub(super) struct Remembered<'a> {
    pub(super) model_hash: &'a str,
    pub(super) device: Device,
    pub(super) settings: Settings,
    pub(super) folder: &'a RunFolder,
}

impl Remembered<'_> {
    /// Notes in `limits` those that earlier runs with the same model, device and settings had to keep to.
    pub(super) fn recall(&self, limits: &Limits) {
        for entry in self.learnt().unwrap_or_default().limits {
            if entry.asked == self.asked(entry.network) {
                limits.note(entry.network, (entry.width, entry.height), entry.limit);
            }
        }
    }

    /// Writes the limits where they say more than the file does. Limits that cannot be written never end a run.
    pub(super) fn write(&self, limits: &Limits) {
        let entry =
            |(network, (width, height), limit)| Entry { network, width, height, asked: self.asked(network), limit };
        let limits: Vec<Entry> = limits.all().into_iter().map(entry).collect();
        let learnt = Learnt { model_hash: self.model_hash.to_string(), device: self.device.to_string(), limits };
        if learnt.limits.is_empty() || self.learnt().as_ref() == Some(&learnt) {
            return;
        }
        let json = serde_json::to_vec_pretty(&learnt).unwrap_or_default();
        if let Err(error) = self.folder.durable().replace_unsynced(&self.path(), &json) {
            tracing::warn!("{error}");
        }
    }

    /// Returns what the file says of this model on this device. One that says anything else is made again.
    fn learnt(&self) -> Option<Learnt> {
        let learnt: Learnt = serde_json::from_slice(&std::fs::read(self.path()).ok()?).ok()?;
        let same = learnt.model_hash == self.model_hash && learnt.device == self.device.to_string();
        same.then_some(learnt)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(STATE_FOLDER).join("limits.json")
    }

    fn asked(&self, network: Network) -> usize {
        match network {
            Network::Unet => self.settings.lanes,
            Network::VaeDecoder => self.settings.vae_batch,
        }
    }
}
