//! Who does the work, and what memory they borrow for it.
#![expect(
    unsafe_code,
    reason = "memory in whole cache lines, and places that workers share; each says what it relies on"
)]

use std::sync::{Mutex, PoisonError};

/// Who does the work.
pub trait Workers {
    /// Calls `work` with each number below `tasks`, side by side or in turn.
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync));
}

/// The caller alone.
#[derive(Debug, Clone, Copy)]
pub struct Serial;

impl Workers for Serial {
    fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(work);
    }
}

/// As much as a cache line, and placed as one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Memory for the blocks under way, lent to whoever works; shared by all convolutions that run one after the other.
#[derive(Default)]
pub(super) struct Lent {
    free: Mutex<Vec<Vec<Line>>>,
}

impl Lent {
    /// Lends `values` values for the time of `work`; what is in them is left from before.
    pub(super) fn with<T>(&self, values: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
        let taken = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut lines = taken.unwrap_or_default();
        let needed = values.div_ceil(16);
        if lines.len() < needed {
            lines.resize(needed, Line([0.0; 16]));
        }
        // SAFETY: a line is 16 values without gaps.
        let slice = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), needed * 16) };
        let result = work(&mut slice[..values]);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(lines);
        result
    }
}

/// A place that several workers write to, each to values of its own.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: whoever makes one says why no two workers write to, or read what another writes to, the same value at a time.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Returns a place for workers to share.
    pub(super) fn new(values: &mut [f32]) -> Self {
        Shared(values.as_mut_ptr())
    }

    /// Returns the place.
    pub(super) fn get(self) -> *mut f32 {
        self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rayon::prelude::*;

    /// As many workers as there are.
    pub(in crate::kernels) struct Many;

    impl Workers for Many {
        fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
            (0..tasks).into_par_iter().for_each(work);
        }
    }

    /// Values between -1 and 1 that look random.
    pub(in crate::kernels) fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }
}
