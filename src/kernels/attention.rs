//! Attention without the matrix of all scores: softmax over a few columns at a time (Dao et al. 2022, "FlashAttention", algorithm
//! 1; Milakov and Gimelshein 2018 for the running maximum).
#![expect(unsafe_code, reason = "vector operations; workers write to rows of their own; each says what it relies on")]

use std::fmt;

use super::exponential::exponential;
use super::product::{self, Ahead, DEPTH, VECTORS};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Kind, Plain, Simd, kind};
use super::workers::{Lent, Shared, Workers};

/// Rows of a task.
const ROWS: usize = 128;
/// Columns that are looked at together: whole blocks of [`DEPTH`], and whole panels of every kind of vector.
const COLUMNS: usize = 3 * DEPTH;
/// Partial sums of a row, whatever the vectors' width.
const SUMS: usize = 16;

/// The shapes of one attention: for each of several heads, queries [rows, depth], keys [depth, columns] and values
/// [columns, width] make an output [rows, width].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Queries.
    pub rows: usize,
    /// Keys and values.
    pub columns: usize,
    /// Length of a query and a key.
    pub depth: usize,
    /// Length of a value.
    pub width: usize,
}

/// Attention: softmax(Q K) V. The result of a row is the same bits for any number of workers, whatever else is in the batch, on
/// every kind of processor.
#[derive(Default)]
pub struct Attention {
    scratch: Lent,
}

impl fmt::Debug for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attention").finish_non_exhaustive()
    }
}

/// What one call works on.
struct Call<'c> {
    shape: AttentionShape,
    /// Which queries, keys and values each head takes.
    heads: &'c [[usize; 3]],
    queries: &'c [f32],
    keys: &'c [f32],
    values: &'c [f32],
    scale: f32,
    output: Shared,
}

impl Attention {
    /// Writes to `output` [heads, rows, width] the attention of every head: `heads` says which of the `queries`, `keys` and
    /// `values` it takes, by number. Scores are multiplied by `scale`.
    ///
    /// # Panics
    /// A slice has not the length that `shape` and `heads` say.
    pub fn run(
        &self,
        shape: AttentionShape,
        heads: &[[usize; 3]],
        [queries, keys, values]: [&[f32]; 3],
        scale: f32,
        output: &mut [f32],
        workers: &dyn Workers,
    ) {
        let sizes = [shape.rows * shape.depth, shape.depth * shape.columns, shape.columns * shape.width];
        for (part, values) in [queries, keys, values].into_iter().enumerate() {
            assert!(heads.iter().all(|head| (head[part] + 1) * sizes[part] <= values.len()), "the inputs' lengths");
        }
        assert_eq!(output.len(), heads.len() * shape.rows * shape.width, "the output's length");
        let call = Call { shape, heads, queries, keys, values, scale, output: Shared::new(output) };
        match kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => self.run_as::<Avx512>(&call, workers, block_avx512),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => self.run_as::<Avx2>(&call, workers, block_avx2),
            Kind::Plain => self.run_as::<Plain>(&call, workers, block_plain),
        }
    }

    fn run_as<S: Simd>(
        &self,
        call: &Call<'_>,
        workers: &dyn Workers,
        block: unsafe fn(&Call<'_>, [usize; 2], &mut [f32]),
    ) {
        let runs = call.shape.rows.div_ceil(ROWS);
        workers.run(call.heads.len() * runs, &|task| {
            self.scratch.with(Scratch::len::<S>(&call.shape), |scratch| {
                // SAFETY: the processor was asked for its kind; these rows of this head are one worker's.
                unsafe { block(call, [task / runs, task % runs * ROWS], scratch) }
            });
        });
    }
}

/// Memory of one task.
struct Scratch<'s> {
    /// Queries, [blocks of depth, rows, [`DEPTH`]].
    queries: &'s mut [f32],
    /// Keys of the columns at hand, in panels of [depth, vectors].
    keys: &'s mut [f32],
    /// Values of the columns at hand, in panels of [[`COLUMNS`], vectors].
    values: &'s mut [f32],
    /// Scores, in panels of [rows, vectors].
    scores: &'s mut [f32],
    /// Their exponentials, [blocks of columns, rows, [`DEPTH`]].
    weights: &'s mut [f32],
    /// The output before it is divided, in panels of [rows, vectors].
    output: &'s mut [f32],
    /// Largest score of each row.
    largest: &'s mut [f32],
    /// Partial sums of each row's weights, [rows, [`SUMS`]].
    sums: &'s mut [f32],
}

impl<'s> Scratch<'s> {
    fn sizes<S: Simd>(shape: &AttentionShape) -> [usize; 8] {
        let width = shape.width.next_multiple_of(S::LANES);
        let depth = shape.depth.next_multiple_of(DEPTH);
        let blocks = ROWS * COLUMNS;
        [ROWS * depth, shape.depth * COLUMNS, COLUMNS * width, blocks, blocks, ROWS * width, ROWS, ROWS * SUMS]
    }

    fn len<S: Simd>(shape: &AttentionShape) -> usize {
        Scratch::sizes::<S>(shape).into_iter().sum()
    }

    fn new<S: Simd>(shape: &AttentionShape, mut memory: &'s mut [f32]) -> Self {
        let mut parts = Scratch::sizes::<S>(shape).map(|size| {
            let (part, rest) = std::mem::take(&mut memory).split_at_mut(size);
            memory = rest;
            part
        });
        let [queries, keys, values, scores, weights, output, largest, sums] = parts.each_mut().map(std::mem::take);
        Scratch { queries, keys, values, scores, weights, output, largest, sums }
    }
}

/// Panels that `values` values of a line make: where each begins, and how many vectors it has.
fn panels<S: Simd>(values: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = values.div_ceil(S::LANES);
    (0..vectors).step_by(VECTORS).map(move |first| (first * S::LANES, VECTORS.min(vectors - first)))
}

/// Copies columns `columns` of `lines` lines, `stride` values apart, into panels, with zeros after the last column.
fn pack<S: Simd>(
    from: &[f32],
    stride: usize,
    lines: usize,
    columns: std::ops::Range<usize>,
    height: usize,
    to: &mut [f32],
) {
    for (start, vectors) in panels::<S>(columns.len()) {
        let width = vectors * S::LANES;
        let taken = width.min(columns.len() - start);
        let panel = &mut to[start * height..][..height * width];
        for (line, to) in panel.chunks_exact_mut(width).take(lines).enumerate() {
            to[..taken].copy_from_slice(&from[line * stride + columns.start + start..][..taken]);
            to[taken..].fill(0.0);
        }
    }
}

/// # Safety
/// The processor has the instructions of `S`; nobody else writes to these rows of this head of the output.
#[inline(always)]
unsafe fn block<S: Simd, const TILE: usize>(call: &Call<'_>, [head, first]: [usize; 2], memory: &mut [f32]) {
    let shape = &call.shape;
    let rows = ROWS.min(shape.rows - first);
    let scratch = &mut Scratch::new::<S>(shape, memory);
    let [q, k, v] = call.heads[head];
    let queries = &call.queries[(q * shape.rows + first) * shape.depth..][..rows * shape.depth];
    let keys = &call.keys[k * shape.depth * shape.columns..][..shape.depth * shape.columns];
    let values = &call.values[v * shape.columns * shape.width..][..shape.columns * shape.width];
    for (row, query) in queries.chunks_exact(shape.depth.max(1)).enumerate() {
        for (number, part) in query.chunks(DEPTH).enumerate() {
            scratch.queries[(number * ROWS + row) * DEPTH..][..part.len()].copy_from_slice(part);
        }
    }
    scratch.largest.fill(f32::NEG_INFINITY);
    scratch.sums.fill(0.0);
    scratch.output.fill(0.0);
    // Rows beyond the last are computed too, of whatever is there, and never looked at.
    let padded = rows.next_multiple_of(TILE);
    for start in (0..shape.columns).step_by(COLUMNS) {
        let columns = start..(start + COLUMNS).min(shape.columns);
        pack::<S>(keys, shape.columns, shape.depth, columns.clone(), shape.depth, scratch.keys);
        pack::<S>(&values[start * shape.width..], shape.width, columns.len(), 0..shape.width, COLUMNS, scratch.values);
        // SAFETY: passed on; the scratch is as large as `Scratch::sizes` says.
        unsafe {
            score::<S, TILE>(shape, padded, columns.len(), scratch);
            for row in 0..rows {
                weigh::<S>(shape, (row, columns.len()), call.scale, scratch);
            }
            sum_up::<S, TILE>(shape, padded, columns.len(), scratch);
        }
    }
    for row in 0..rows {
        let sum: f32 = scratch.sums[row * SUMS..][..SUMS].iter().sum();
        let start = ((head * shape.rows) + first + row) * shape.width;
        // SAFETY: these rows of the output are this worker's.
        let to = unsafe { std::slice::from_raw_parts_mut(call.output.get().add(start), shape.width) };
        for (start, vectors) in panels::<S>(shape.width) {
            let width = vectors * S::LANES;
            let from = &scratch.output[start * ROWS + row * width..][..width];
            to[start..].iter_mut().zip(from).for_each(|(to, from)| *to = from / sum);
        }
    }
}

/// Multiplies queries and keys.
///
/// # Safety
/// The processor has the instructions of `S`; `scratch` is for `shape`.
#[inline(always)]
unsafe fn score<S: Simd, const TILE: usize>(
    shape: &AttentionShape,
    rows: usize,
    columns: usize,
    scratch: &mut Scratch<'_>,
) {
    for (start, vectors) in panels::<S>(columns) {
        for from in (0..shape.depth).step_by(DEPTH) {
            let depth = DEPTH.min(shape.depth - from);
            let u = scratch.queries[from * ROWS..][..ROWS * DEPTH].as_ptr();
            let v =
                scratch.keys[start * shape.depth + from * vectors * S::LANES..][..depth * vectors * S::LANES].as_ptr();
            let m = scratch.scores[start * ROWS..][..ROWS * vectors * S::LANES].as_mut_ptr();
            // SAFETY: the slices are as long as the sizes say.
            unsafe { product::panel::<S, TILE>(u, v, m, (rows, depth, vectors), from == 0, Ahead { u, v }) };
        }
    }
}

/// Turns the scores of one row into weights, and what was summed up for it so far to the new largest score.
///
/// # Safety
/// As for [`score`].
#[inline(always)]
unsafe fn weigh<S: Simd>(
    shape: &AttentionShape,
    (row, columns): (usize, usize),
    scale: f32,
    scratch: &mut Scratch<'_>,
) {
    // SAFETY: panels lie in the scratch as in `score`; weights go to places of this row.
    unsafe {
        let scale = S::splat(scale);
        let mut all = [S::splat(f32::NEG_INFINITY); VECTORS];
        for (start, vectors) in panels::<S>(columns) {
            let line = scratch.scores[start * ROWS + row * vectors * S::LANES..].as_mut_ptr();
            for (vector, all) in all.iter_mut().enumerate().take(vectors) {
                let place = start + vector * S::LANES;
                if place + S::LANES > columns {
                    (columns - place..S::LANES).for_each(|i| *line.add(vector * S::LANES + i) = f32::NEG_INFINITY);
                }
                *all = S::max(*all, S::mul(scale, S::load(line.add(vector * S::LANES))));
            }
        }
        let mut lanes = [f32::NEG_INFINITY; SUMS];
        S::store(lanes.as_mut_ptr(), S::max(S::max(all[0], all[1]), all[2]));
        let before = scratch.largest[row];
        let largest = lanes[..S::LANES].iter().copied().fold(before, f32::max);
        scratch.largest[row] = largest;
        let sums = scratch.sums[row * SUMS..].as_mut_ptr();
        if largest > before && before > f32::NEG_INFINITY {
            let mut lanes = [0.0_f32; SUMS];
            S::store(lanes.as_mut_ptr(), exponential::<S>(S::splat(before - largest)));
            let factor = S::splat(lanes[0]);
            scale_line::<S>(factor, sums, SUMS / S::LANES);
            for (start, vectors) in panels::<S>(shape.width) {
                let line = scratch.output[start * ROWS + row * vectors * S::LANES..].as_mut_ptr();
                scale_line::<S>(factor, line, vectors);
            }
        }
        let minus = S::splat(-largest);
        for (start, vectors) in panels::<S>(columns) {
            let line = scratch.scores[start * ROWS + row * vectors * S::LANES..].as_ptr();
            for vector in 0..vectors {
                let place = start + vector * S::LANES;
                let weights = exponential::<S>(S::fma(scale, S::load(line.add(vector * S::LANES)), minus));
                S::store(scratch.weights[(place / DEPTH * ROWS + row) * DEPTH + place % DEPTH..].as_mut_ptr(), weights);
                let sum = sums.add(place % SUMS);
                S::store(sum, S::add(S::load(sum), weights));
            }
        }
    }
}

/// Multiplies `vectors` vectors by `factor`.
///
/// # Safety
/// The processor has the instructions of `S`; the vectors may be read and written.
#[inline(always)]
unsafe fn scale_line<S: Simd>(factor: S::V, line: *mut f32, vectors: usize) {
    for vector in 0..vectors {
        // SAFETY: passed on.
        unsafe {
            let at = line.add(vector * S::LANES);
            S::store(at, S::mul(factor, S::load(at)));
        }
    }
}

/// Adds the values, weighed.
///
/// # Safety
/// As for [`score`].
#[inline(always)]
unsafe fn sum_up<S: Simd, const TILE: usize>(
    shape: &AttentionShape,
    rows: usize,
    columns: usize,
    scratch: &mut Scratch<'_>,
) {
    for (start, vectors) in panels::<S>(shape.width) {
        let width = vectors * S::LANES;
        for from in (0..columns).step_by(DEPTH) {
            let depth = DEPTH.min(columns - from);
            let u = scratch.weights[from * ROWS..][..ROWS * DEPTH].as_ptr();
            let v = scratch.values[start * COLUMNS + from * width..][..depth * width].as_ptr();
            let m = scratch.output[start * ROWS..][..ROWS * width].as_mut_ptr();
            // SAFETY: the slices are as long as the sizes say.
            unsafe { product::panel::<S, TILE>(u, v, m, (rows, depth, vectors), false, Ahead { u, v }) };
        }
    }
}

/// Makes the function for one kind of processor; only there is anything compiled with its instructions.
macro_rules! for_kind {
    ($simd:ty, $tile:literal, $block:ident $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $block(call: &Call<'_>, place: [usize; 2], memory: &mut [f32]) {
            // SAFETY: passed on.
            unsafe { block::<$simd, $tile>(call, place, memory) }
        }
    };
}

for_kind!(Plain, 4, block_plain);
#[cfg(target_arch = "x86_64")]
for_kind!(Avx2, 4, block_avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
for_kind!(Avx512, 8, block_avx512, "avx512f");

#[cfg(test)]
mod tests {
    use super::super::workers::Serial;
    use super::super::workers::tests::{Many, values};
    use super::*;
    use proptest::prelude::*;

    const HEADS: [[usize; 3]; 3] = [[0, 1, 0], [1, 0, 1], [1, 1, 0]];

    fn operands(shape: &AttentionShape) -> [Vec<f32>; 3] {
        [
            values(2 * shape.rows * shape.depth, 1),
            values(2 * shape.depth * shape.columns, 2),
            values(2 * shape.columns * shape.width, 3),
        ]
    }

    fn run(shape: AttentionShape, heads: &[[usize; 3]], [q, k, v]: &[Vec<f32>; 3], workers: &dyn Workers) -> Vec<f32> {
        let mut output = vec![f32::NAN; heads.len() * shape.rows * shape.width];
        Attention::default().run(shape, heads, [q, k, v], 3.0, &mut output, workers);
        output
    }

    /// The definition, in float64.
    fn defined(shape: &AttentionShape, [q, k, v]: &[Vec<f32>; 3]) -> Vec<f64> {
        let mut output = Vec::new();
        for [head_q, head_k, head_v] in HEADS {
            for row in 0..shape.rows {
                let score = |column: usize| -> f64 {
                    let term = |i: usize| {
                        let query = q[(head_q * shape.rows + row) * shape.depth + i];
                        f64::from(query) * f64::from(k[(head_k * shape.depth + i) * shape.columns + column])
                    };
                    3.0 * (0..shape.depth).map(term).sum::<f64>()
                };
                let scores: Vec<f64> = (0..shape.columns).map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                output.extend((0..shape.width).map(|i| {
                    let value = |column: usize| f64::from(v[(head_v * shape.columns + column) * shape.width + i]);
                    weights.iter().enumerate().map(|(column, weight)| weight * value(column)).sum::<f64>() / sum
                }));
            }
        }
        output
    }

    fn is_right(shape: AttentionShape) {
        let operands = operands(&shape);
        let made = run(shape, &HEADS, &operands, &Many);
        for (place, (made, defined)) in made.iter().zip(defined(&shape, &operands)).enumerate() {
            assert!((f64::from(*made) - defined).abs() < 2e-5, "{shape:?}: {made} for {defined} at {place}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_is_attention(rows in 1..200_usize, columns in 1..420_usize, depth in 1..140_usize, width in 1..140_usize) {
            is_right(AttentionShape { rows, columns, depth, width });
        }
    }

    #[test]
    fn neither_the_batch_nor_the_workers_change_a_bit() {
        let shape = AttentionShape { rows: 150, columns: 333, depth: 40, width: 40 };
        let operands = operands(&shape);
        let together = run(shape, &HEADS, &operands, &Many);
        let alone: Vec<f32> = HEADS.iter().flat_map(|head| run(shape, &[*head], &operands, &Serial)).collect();
        assert_eq!(together, alone);
    }

    #[test]
    fn every_kind_of_vector_gives_the_same_bits() {
        let shape = AttentionShape { rows: 150, columns: 333, depth: 80, width: 40 };
        let [q, k, v] = operands(&shape);
        let made = |kind: fn(&Attention, &Call<'_>)| {
            let mut output = vec![f32::NAN; HEADS.len() * shape.rows * shape.width];
            let (heads, output_place) = (&HEADS, Shared::new(&mut output));
            let call = Call { shape, heads, queries: &q, keys: &k, values: &v, scale: 3.0, output: output_place };
            kind(&Attention::default(), &call);
            output
        };
        let plain = made(|attention, call| attention.run_as::<Plain>(call, &Serial, block_plain));
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert_eq!(plain, made(|attention, call| attention.run_as::<Avx2>(call, &Serial, block_avx2)));
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            assert_eq!(plain, made(|attention, call| attention.run_as::<Avx512>(call, &Serial, block_avx512)));
        }
    }
}
