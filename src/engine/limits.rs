//! What a run learns about memory: pictures of each size have a limit of their own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::limit::CallLimit;

/// Width and height of a picture in pixels.
pub type Size = (u32, u32);

/// A network whose calls may have to be smaller than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Entries are lanes.
    Unet,
    /// Entries are pictures.
    VaeDecoder,
}

/// The limits that had to be lowered; others may read them while the engine works.
#[derive(Debug, Default)]
pub struct Limits(Mutex<BTreeMap<(Network, Size), CallLimit>>);

impl Limits {
    /// Returns what is known for pictures of `size` to someone who asks for `asked` entries a call.
    pub fn of(&self, network: Network, size: Size, asked: usize) -> CallLimit {
        let known = self.lock().get(&(network, size)).copied().filter(|limit| limit.suits(asked));
        known.unwrap_or_else(|| CallLimit::new(asked))
    }

    /// Notes a limit that an earlier run learnt.
    pub fn note(&self, network: Network, size: Size, limit: CallLimit) {
        self.lock().insert((network, size), limit);
    }

    /// Notes what calls have shown: `too_many` entries did not fit, or one more did. Lower limits than ever are told.
    pub(super) fn learn(&self, network: Network, size: Size, limit: CallLimit, too_many: Option<usize>) {
        let mut all = self.lock();
        let former = all.get(&(network, size)).map(CallLimit::now);
        if let Some(too_many) = too_many.filter(|_| former.is_none_or(|former| limit.now() < former)) {
            network.tell(size, too_many, limit.now());
        }
        if too_many.is_some() || former.is_some() {
            all.insert((network, size), limit);
        }
    }

    /// Returns all limits that were noted.
    pub fn all(&self) -> Vec<(Network, Size, CallLimit)> {
        self.lock().iter().map(|((network, size), limit)| (*network, *size, *limit)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Network, Size), CallLimit>> {
        // A map is right after every single operation, so a panic elsewhere cannot have spoilt it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Returns what a call of it that is too large is said to be.
    pub(super) fn tell(self, (width, height): Size, failed: usize, fits: usize) {
        let (name, entries) = match self {
            Network::Unet => ("UNet", "lanes"),
            Network::VaeDecoder => ("VAE decoder", "pictures"),
        };
        tracing::warn!(
            "the {name} runs out of memory with {failed} {entries} of {width}x{height}: it goes on with {fits} a call"
        );
    }
}
