//! The products of matrices in the middle: for one frequency, filters [outputs × inputs] times tiles [inputs × tiles].
#![expect(unsafe_code, reason = "vector operations; pointers as said of each function")]

use super::simd::Simd;

/// Input channels of a block: the stride between the filters of two output channels.
pub(super) const DEPTH: usize = 64;
/// Values of a cache line.
const LINE: usize = 16;
/// Vectors of tiles in the widest panel.
pub(super) const VECTORS: usize = 3;

/// Adds the products of `depth` input channels to `ROWS` × `VECS` vectors of `m`. Each sum is taken in the order of the channels,
/// one fused multiplication a term, so it is the same bits in whatever block or panel it falls.
///
/// # Safety
/// The processor has the instructions of `S`. `u` has `ROWS` rows of [`DEPTH`] values; `v` has `depth` rows of `VECS` vectors; `m`
/// has `ROWS` rows of `VECS` vectors, which are read unless `first`. What is at `ahead` is only asked for.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECS: usize>(
    u: *const f32,
    v: *const f32,
    m: *mut f32,
    depth: usize,
    (first, ahead): (bool, *const f32),
) {
    unsafe {
        let width = VECS * S::LANES;
        let mut sums = [[S::zero(); VECS]; ROWS];
        if !first {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vec, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(m.add(row * width + vec * S::LANES));
                }
            }
        }
        for channel in 0..depth {
            S::prefetch(ahead.wrapping_add(channel * LINE));
            let mut tiles = [S::zero(); VECS];
            for (vec, tile) in tiles.iter_mut().enumerate() {
                *tile = S::load(v.add(channel * width + vec * S::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let filter = S::splat(*u.add(row * DEPTH + channel));
                for (sum, tile) in sums.iter_mut().zip(tiles) {
                    *sum = S::fma(filter, tile, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vec, sum) in sums.into_iter().enumerate() {
                S::store(m.add(row * width + vec * S::LANES), sum);
            }
        }
    }
}

/// What the next call of [`panel`] will read: filters and tiles, which are fetched meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// Its `u`.
    pub u: *const f32,
    /// Its `v`.
    pub v: *const f32,
}

/// As [`tile`], for `rows` output channels, a multiple of `ROWS`, and a panel of `vectors` vectors.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
pub(super) unsafe fn panel<S: Simd, const ROWS: usize>(
    u: *const f32,
    v: *const f32,
    m: *mut f32,
    (rows, depth, vectors): (usize, usize, usize),
    first: bool,
    next: Ahead,
) {
    let tiles = vectors * S::LANES * depth;
    for row in (0..rows).step_by(ROWS) {
        // Each call has `depth` lines fetched: first all of the tiles, then the filters.
        let fetched = row / ROWS * depth * LINE;
        let ahead = if fetched < tiles { next.v.wrapping_add(fetched) } else { next.u.wrapping_add(fetched - tiles) };
        // SAFETY: passed on.
        unsafe {
            let (u, m, how) = (u.add(row * DEPTH), m.add(row * vectors * S::LANES), (first, ahead));
            match vectors {
                1 => tile::<S, ROWS, 1>(u, v, m, depth, how),
                2 => tile::<S, ROWS, 2>(u, v, m, depth, how),
                _ => tile::<S, ROWS, VECTORS>(u, v, m, depth, how),
            }
        }
    }
}
