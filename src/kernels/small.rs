//! Planes so small that the way into the frequencies costs more than it saves: nine products, of a tap's filters and the planes
//! as that tap sees them, summed up.
#![expect(
    unsafe_code,
    reason = "vector operations; workers write to channels of their own; each says what it relies on"
)]

use super::conv3x3::{Call, ConvShape, Panels};
use super::product::{self, Ahead, DEPTH};
use super::simd::Simd;
use super::weights::{self, Block, FILTER, OUTPUTS};
use super::winograd::TAPS;

/// Returns whether planes of `shape` are that small: of fewer than four tiles. It is the plane that counts, not the batch, so
/// that the batch does not change a bit.
pub(super) fn is_small(shape: &ConvShape) -> bool {
    let (down, across) = shape.tiles();
    down * across < 4
}

/// Returns how many vectors the places of all planes of a channel make.
pub(super) fn vectors<S: Simd>(shape: &ConvShape) -> usize {
    (shape.images * shape.area()).div_ceil(S::LANES)
}

/// Returns how many values the shifted planes have.
pub(super) fn planes_len<S: Simd>(shape: &ConvShape) -> usize {
    FILTER * shape.inputs * vectors::<S>(shape) * S::LANES
}

/// Returns how much memory a task needs.
pub(super) fn scratch_len<S: Simd>(shape: &ConvShape) -> usize {
    weights::BLOCK + OUTPUTS * vectors::<S>(shape) * S::LANES
}

/// Writes `channel` of all planes nine times into `to`, as the taps see it: for each panel [taps, inputs, vectors].
///
/// # Safety
/// `to` has [`planes_len`] values, and nobody else writes to those of this channel.
pub(super) unsafe fn shift<S: Simd>(shape: &ConvShape, x: &[f32], channel: usize, to: *mut f32) {
    let (height, width, places) = (shape.height, shape.width, shape.images * shape.area());
    let panels = Panels { vectors: vectors::<S>(shape), lanes: S::LANES };
    for panel in 0..panels.count() {
        let (first, across) = (panels.first_vector(panel) * S::LANES, panels.vectors(panel) * S::LANES);
        for tap in 0..FILTER {
            let start = FILTER * shape.inputs * first + (tap * shape.inputs + channel) * across;
            for at in 0..across {
                let place = first + at;
                let (image, row, column) = (place / shape.area(), place / width % height, place % width);
                let (row, column) = (row + tap / TAPS, column + tap % TAPS);
                let inside = place < places && (1..=height).contains(&row) && (1..=width).contains(&column);
                let value = if inside {
                    x[(image * shape.inputs + channel) * shape.area() + (row - 1) * width + column - 1]
                } else {
                    0.0
                };
                // SAFETY: the place is in this channel's part of the panel.
                unsafe { *to.add(start + at) = value };
            }
        }
    }
}

/// Multiplies a block of output channels with all shifted planes.
///
/// # Safety
/// The processor has the instructions of `S`; `planes` come from [`shift`]; nobody else writes to these channels of the output.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const ROWS: usize>(
    call: &Call<'_>,
    planes: &[f32],
    block: usize,
    scratch: &mut [f32],
) {
    let shape = &call.shape;
    let panels = Panels { vectors: vectors::<S>(shape), lanes: S::LANES };
    let output = block * OUTPUTS;
    let outputs = OUTPUTS.min(shape.outputs - output);
    let (filters, sums) = scratch.split_at_mut(weights::BLOCK);
    for input in (0..shape.inputs).step_by(DEPTH) {
        let inputs = DEPTH.min(shape.inputs - input);
        // SAFETY: passed on.
        unsafe {
            let block = Block { output, outputs, input, inputs };
            weights::transform::<S, true>(call.filters, shape.inputs, block, filters);
        }
        for panel in 0..panels.count() {
            let (first, width) = (panels.first_vector(panel) * S::LANES, panels.vectors(panel) * S::LANES);
            let sums = &mut sums[first * OUTPUTS..][..width * OUTPUTS];
            for tap in 0..FILTER {
                let u = filters[tap * weights::STRIDE..][..OUTPUTS * DEPTH].as_ptr();
                let start = FILTER * shape.inputs * first + (tap * shape.inputs + input) * width;
                let v = planes[start..][..inputs * width].as_ptr();
                let sizes = (outputs.next_multiple_of(ROWS), inputs, panels.vectors(panel));
                let ahead = Ahead { u: u.wrapping_add(weights::STRIDE), v: v.wrapping_add(shape.inputs * width) };
                // SAFETY: the slices are as long as the sizes say; rows beyond `outputs` are within `OUTPUTS`, and unused.
                unsafe { product::panel::<S, ROWS>(u, v, sums.as_mut_ptr(), sizes, input + tap == 0, ahead) };
            }
        }
    }
    for panel in 0..panels.count() {
        let (first, width) = (panels.first_vector(panel) * S::LANES, panels.vectors(panel) * S::LANES);
        for channel in 0..outputs {
            let bias = call.bias.map_or(0.0, |bias| bias[output + channel]);
            let line = &sums[first * OUTPUTS + channel * width..][..width];
            for (place, sum) in (first..shape.images * shape.area()).zip(line) {
                let (image, at) = (place / shape.area(), place % shape.area());
                let to = (image * shape.outputs + output + channel) * shape.area() + at;
                // SAFETY: this channel of the output is this worker's.
                unsafe { *call.y.get().add(to) = sum + bias };
            }
        }
    }
}
