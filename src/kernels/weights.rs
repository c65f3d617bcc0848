//! Filters into the frequencies: a block of 64 output by 64 input channels at a time, just before it is used, so that memory
//! holds filters as they are and not four times as large.
#![expect(unsafe_code, reason = "vector operations; the bounds are checked before")]

use super::conv3x3::GAP;
use super::product::DEPTH;
use super::simd::Simd;
use super::winograd::{self, FREQUENCIES, TAPS};

/// Values of one filter.
pub(super) const FILTER: usize = TAPS * TAPS;
/// Output channels of a block.
pub(super) const OUTPUTS: usize = 64;

/// Values between two frequencies of a block.
pub(super) const STRIDE: usize = OUTPUTS * DEPTH + GAP;
/// Values of a transformed block.
pub(super) const BLOCK: usize = FREQUENCIES * STRIDE;

/// Which filters a block holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// Its first output channel.
    pub output: usize,
    /// Its output channels, at most [`OUTPUTS`].
    pub outputs: usize,
    /// Its first input channel.
    pub input: usize,
    /// Its input channels, at most [`DEPTH`].
    pub inputs: usize,
}

/// Transforms `block` of `filters` [outputs, `channels`, 3, 3] into `to` [frequencies, [`OUTPUTS`], [`DEPTH`]], [`STRIDE`] values
/// a frequency; or, for `AS_THEY_ARE`, into [taps, [`OUTPUTS`], [`DEPTH`]].
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn transform<S: Simd, const AS_THEY_ARE: bool>(
    filters: &[f32],
    channels: usize,
    block: Block,
    to: &mut [f32],
) {
    assert!(to.len() >= BLOCK, "the buffer holds a block");
    for k in 0..block.outputs {
        let start = ((block.output + k) * channels + block.input) * FILTER;
        let row = &filters[start..start + block.inputs * FILTER];
        // The next row is far away in memory.
        let next = row.as_ptr().wrapping_add(channels * FILTER);
        for i in (0..row.len()).step_by(16) {
            // SAFETY: fetching reads nothing.
            unsafe { S::prefetch(next.wrapping_add(i)) };
        }
        for channel in (0..block.inputs).step_by(S::LANES) {
            let mut rest = [0.0; 16 * FILTER];
            let mut from = row[channel * FILTER..].as_ptr();
            if channel + S::LANES > block.inputs {
                rest[..(block.inputs - channel) * FILTER].copy_from_slice(&row[channel * FILTER..]);
                from = rest.as_ptr();
            }
            // SAFETY: `LANES` filters are at `from`; the last vector of a row ends at `DEPTH` at most, a multiple of `LANES`, and
            // the farthest is within the assertion above.
            unsafe {
                let to = to[k * DEPTH + channel..].as_mut_ptr();
                let taps = load::<S>(from);
                if AS_THEY_ARE {
                    for (tap, values) in taps.into_iter().enumerate() {
                        S::store(to.add(tap * STRIDE), values);
                    }
                } else {
                    winograd::weights::<S>(taps, to, STRIDE);
                }
            }
        }
    }
}

/// Returns `LANES` filters that stand one after the other from `from` on: each tap's values.
///
/// # Safety
/// The processor has the instructions of `S`; the filters may be read.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> [S::V; FILTER] {
    const PLACES: [i32; 16] = [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99, 108, 117, 126, 135];
    // SAFETY: the last four values of a filter are its fifth to ninth but for one.
    unsafe {
        let [a, b, c, d] = S::gather_four(from, PLACES.as_ptr());
        let [e, f, g, h] = S::gather_four(from.add(4), PLACES.as_ptr());
        let [_, _, _, i] = S::gather_four(from.add(FILTER - 4), PLACES.as_ptr());
        [a, b, c, d, e, f, g, h, i]
    }
}
