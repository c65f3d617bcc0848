//! The frequencies back into the output: tiles of 4 × 4 into their places, cut where the plane ends.
#![expect(unsafe_code, reason = "vector operations; the bounds are checked before")]

use super::conv3x3::ConvShape;
use super::simd::Simd;
use super::winograd::{self, STEP};

/// Transforms the `LANES` tiles from number `tile` on, of output channel `channel`: those of frequency f are at `m[f * stride ..]`.
///
/// # Safety
/// The processor has the instructions of `S`; `m` may be read so; `y` is the whole output, and nobody else writes to these tiles.
#[inline(always)]
pub(super) unsafe fn transform<S: Simd>(
    shape: &ConvShape,
    (channel, tile): (usize, usize),
    bias: f32,
    m: *const f32,
    stride: usize,
    y: *mut f32,
) {
    let mut values = [0.0_f32; STEP * STEP * 16];
    // SAFETY: `values` holds 16 vectors of any kind.
    unsafe { winograd::output::<S>(m, stride, bias, values.as_mut_ptr()) };
    // SAFETY: all places are in `values`: lines of four vectors, which become lines of `LANES` quads.
    unsafe {
        for line in 0..STEP {
            let line = values[line * STEP * S::LANES..].as_mut_ptr();
            let mut quads = [S::zero(); STEP];
            for (i, quad) in quads.iter_mut().enumerate() {
                *quad = S::load(line.add(i * S::LANES));
            }
            for (i, quad) in S::transpose_quads(quads).into_iter().enumerate() {
                S::store(line.add(i * S::LANES), quad);
            }
        }
    }
    let (down, across) = shape.tiles();
    let (mut image, mut row, mut column) = (tile / (down * across), tile / across % down, tile % across);
    for lane in 0..S::LANES.min((shape.images * down * across).saturating_sub(tile)) {
        let (top, left) = (row * STEP, column * STEP);
        let (lines, count) = (STEP.min(shape.height - top), STEP.min(shape.width - left));
        let start = (image * shape.outputs + channel) * shape.area() + top * shape.width + left;
        // Vector i of a line's four holds, in its quad q, tile 4 q + i.
        let quad = lane % STEP * S::LANES + lane / STEP * STEP;
        // SAFETY: `lines` and `count` keep within the plane of this image and channel; quads are in `values`.
        unsafe {
            let (from, to) = (values.as_ptr().add(quad), y.add(start));
            if lines == STEP && count == STEP {
                for line in 0..STEP {
                    let from = from.add(line * STEP * S::LANES).cast::<[f32; STEP]>();
                    to.add(line * shape.width).cast::<[f32; STEP]>().write_unaligned(from.read_unaligned());
                }
            } else {
                for line in 0..lines {
                    let from = from.add(line * STEP * S::LANES);
                    (0..count).for_each(|i| *to.add(line * shape.width + i) = *from.add(i));
                }
            }
        }
        column += 1;
        if column == across {
            (column, row) = (0, row + 1);
            if row == down {
                (row, image) = (0, image + 1);
            }
        }
    }
}
