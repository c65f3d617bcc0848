//! What earlier runs learnt about memory, kept in the output folder: a run that resumes does not run out of it again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{CallLimit, Limits, Network, Settings};
use crate::onnx::{Device, kind_of};
use crate::output::{RunFolder, STATE_FOLDER};

/// `OUT/.nightshift/limits.json`: what was learnt, and with which model.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Learnt {
    model_hash: String,
    limits: Vec<Entry>,
    /// Lanes that pay, as they were measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lanes: Vec<Paying>,
}

/// The lanes that pay for pictures of one size on one kind of device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Paying {
    device: String,
    width: u32,
    height: u32,
    lanes: usize,
}

/// The limit for pictures of one size on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    device: String,
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
    /// Notes in `limits` what earlier runs with the same model, device and settings had to keep to.
    pub(super) fn recall(&self, limits: &Limits) {
        for entry in self.learnt().limits.iter().filter(|entry| self.is_ours(entry)) {
            limits.note(entry.network, (entry.width, entry.height), entry.limit);
        }
    }

    /// Writes `limits`, beside those of other devices and settings. Limits that cannot be written never end a run.
    pub(super) fn write(&self, limits: &Limits) {
        let former = self.learnt();
        let entry = |(network, (width, height), limit)| {
            let (device, asked) = (kind_of(self.device), self.asked(network));
            Entry { device, network, width, height, asked, limit }
        };
        let others = former.limits.iter().filter(|entry| !self.is_ours(entry)).cloned();
        let limits = others.chain(limits.all().into_iter().map(entry)).collect();
        let learnt = Learnt { model_hash: self.model_hash.to_string(), limits, lanes: former.lanes.clone() };
        if learnt != former && !learnt.limits.is_empty() {
            self.replace(&learnt);
        }
    }

    /// Returns the lanes that an earlier run found to pay for pictures of this size.
    pub(super) fn lanes(&self, (width, height): (u32, u32)) -> Option<usize> {
        let device = kind_of(self.device);
        let is_it = |paying: &&Paying| paying.device == device && (paying.width, paying.height) == (width, height);
        self.learnt().lanes.iter().find(is_it).map(|paying| paying.lanes.clamp(1, 1024))
    }

    /// Writes down the lanes that pay for pictures of this size.
    pub(super) fn note_lanes(&self, (width, height): (u32, u32), lanes: usize) {
        let mut learnt = self.learnt();
        learnt.model_hash = self.model_hash.to_string();
        learnt.lanes.push(Paying { device: kind_of(self.device), width, height, lanes });
        self.replace(&learnt);
    }

    fn replace(&self, learnt: &Learnt) {
        let json = serde_json::to_vec_pretty(learnt).unwrap_or_default();
        if let Err(error) = self.folder.durable().replace_unsynced(&self.path(), &json) {
            tracing::warn!("{error}");
        }
    }

    /// Returns what the file says of this model. One that says anything else is made again.
    fn learnt(&self) -> Learnt {
        let read = || serde_json::from_slice::<Learnt>(&std::fs::read(self.path()).ok()?).ok();
        read().filter(|learnt| learnt.model_hash == self.model_hash).unwrap_or_default()
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.device == kind_of(self.device) && entry.asked == self.asked(entry.network)
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
