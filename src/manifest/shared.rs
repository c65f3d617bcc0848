//! Texts that many rows have in common, held once.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Texts that are remembered: rows with the same text mostly stand near each other, or have few different ones.
const SLOTS: usize = 1024;

/// A memory of recent texts, of fixed size: a manifest whose texts all differ must not pay twice for them.
pub(super) struct Shared {
    slots: Vec<Option<Arc<str>>>,
    hasher: RandomState,
}

impl Default for Shared {
    fn default() -> Self {
        Shared { slots: vec![None; SLOTS], hasher: RandomState::new() }
    }
}

impl Shared {
    /// Returns `text`, shared with earlier rows that had the same, if that is still known.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        let slot = &mut self.slots[self.hasher.hash_one(text) as usize % SLOTS];
        match slot {
            Some(known) if **known == *text => known.clone(),
            _ => slot.insert(text.into()).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let mut shared = Shared::default();
        let first = shared.get("blurry");
        assert!(Arc::ptr_eq(&first, &shared.get("blurry")));
        for row in 0..5000 {
            assert_eq!(*shared.get(&row.to_string()), *row.to_string());
        }
    }
}
