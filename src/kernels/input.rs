//! The input into the frequencies: one channel after the other, its plane with zeros around it, vectors of tiles.
#![expect(unsafe_code, reason = "vector operations; the bounds are checked before")]

use std::ops::Range;

use super::conv3x3::{ConvShape, Panels};
use super::simd::Simd;
use super::winograd::{self, EDGE, STEP};

/// Where each tile of a run of tiles begins in a copy of their planes' lines with zeros around them.
pub(super) struct Patches {
    /// Rows of tiles, counted through all images.
    rows: Range<usize>,
    places: Vec<i32>,
    width: usize,
}

/// Lines that a tile has beyond its step: the next tile below begins with them.
const OVERLAP: usize = EDGE - STEP;

impl Patches {
    /// Returns where the tiles `tiles` begin, filled up to whole vectors of at most 16.
    pub(super) fn new(shape: &ConvShape, tiles: Range<usize>) -> Patches {
        let (_, across) = shape.tiles();
        let rows = tiles.start / across..tiles.end.div_ceil(across);
        let mut patches = Patches { rows, places: Vec::new(), width: across * STEP + OVERLAP };
        let place = |tile: usize| patches.line(shape, tile / across) * patches.width + tile % across * STEP;
        let mut places: Vec<i32> = tiles.map(|tile| place(tile) as i32).collect();
        places.resize(places.len().next_multiple_of(16), 0);
        patches.places = places;
        patches
    }

    /// Returns the first line in the copy of a row of tiles.
    fn line(&self, shape: &ConvShape, row: usize) -> usize {
        let (down, _) = shape.tiles();
        (row - self.rows.start) * STEP + (row / down - self.rows.start / down) * OVERLAP
    }

    /// Returns how many values the copy has.
    pub(super) fn len(&self, shape: &ConvShape) -> usize {
        (self.line(shape, self.rows.end.max(1) - 1) + EDGE) * self.width
    }

    /// Copies the lines of `channel`, with zeros where the plane ends.
    fn copy(&self, shape: &ConvShape, x: &[f32], channel: usize, to: &mut [f32]) {
        let (down, _) = shape.tiles();
        for row in self.rows.clone() {
            let (image, below) = (row / down, row % down);
            let plane = &x[(image * shape.inputs + channel) * shape.area()..][..shape.area()];
            // The first two lines are there already, unless this is the first row of its plane.
            let fresh = if below == 0 || row == self.rows.start { 0 } else { OVERLAP };
            let lines = &mut to[(self.line(shape, row) + fresh) * self.width..][..(EDGE - fresh) * self.width];
            for (line, to) in lines.chunks_exact_mut(self.width).enumerate() {
                let from = (below * STEP + fresh + line).checked_sub(1).filter(|line| *line < shape.height);
                let Some(from) = from else {
                    to.fill(0.0);
                    continue;
                };
                to[0] = 0.0;
                to[1..=shape.width].copy_from_slice(&plane[from * shape.width..][..shape.width]);
                to[shape.width + 1..].fill(0.0);
            }
        }
    }
}

/// Transforms `channel` of the input; `copy` and the planes of `to` are those of `patches` and `panels`.
///
/// # Safety
/// The processor has the instructions of `S`; nobody else writes to the places of this channel in `to`.
#[inline(always)]
pub(super) unsafe fn transform<S: Simd>(
    (shape, panels, patches): (&ConvShape, &Panels, &Patches),
    x: &[f32],
    channel: usize,
    copy: &mut [f32],
    to: *mut f32,
) {
    patches.copy(shape, x, channel, copy);
    let mut tiles = [0.0; EDGE * EDGE * 16];
    for panel in 0..panels.count() {
        let (vectors, width) = (panels.vectors(panel), panels.vectors(panel) * S::LANES);
        for vector in 0..vectors {
            let places = &patches.places[(panels.first_vector(panel) + vector) * S::LANES..][..S::LANES];
            for line in 0..EDGE {
                let from = copy[line * patches.width..].as_ptr();
                // SAFETY: a tile's six lines of six values lie in the copy, for each of the `LANES` places; the vectors go to
                // their places in `tiles`.
                unsafe {
                    let [a, b, c, d] = S::gather_four(from, places.as_ptr());
                    let [_, _, e, f] = S::gather_four(from.add(EDGE - 4), places.as_ptr());
                    for (column, values) in [a, b, c, d, e, f].into_iter().enumerate() {
                        S::store(tiles[(line * EDGE + column) * S::LANES..].as_mut_ptr(), values);
                    }
                }
            }
            // SAFETY: the panel has [frequencies, inputs, width] values, of which this channel's are ours.
            unsafe {
                let to = to.add(panels.start(panel, shape.inputs) + channel * width + vector * S::LANES);
                winograd::input::<S>(tiles.as_ptr(), to, panels.stride(panel, shape.inputs));
            }
        }
    }
}
