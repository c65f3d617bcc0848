//! The convolution: blocks that fit into the caches, shared out among workers.
#![expect(unsafe_code, reason = "workers write to places of their own in one buffer; each says why they are its own")]

use std::fmt;
use std::ops::Range;

use super::input::{self, Patches};
use super::output;
use super::product::{self, Ahead, DEPTH, VECTORS};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Kind, Plain, Simd, kind};
use super::small;
use super::weights::{self, Block, FILTER, OUTPUTS};
use super::winograd::{FREQUENCIES, STEP};
use super::workers::{Lent, Shared, Workers};

/// Values of transformed input that are held at a time, 32 MiB of them.
const HELD: usize = 8 << 20;
/// Values between two frequencies: without, those of one tile would be whole pages apart and push each other out of the cache.
pub(super) const GAP: usize = 16;
/// Vectors of tiles that one transformed block of filters is used for.
const RUN: usize = 9;

/// The shapes of one convolution: input [images, inputs, height, width], filters [outputs, inputs, 3, 3], and an output as high and
/// wide as the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Entries of the batch.
    pub images: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Lines.
    pub height: usize,
    /// Values of a line.
    pub width: usize,
}

impl ConvShape {
    /// Values of a plane.
    pub(super) fn area(&self) -> usize {
        self.height * self.width
    }

    /// Tiles of a plane, down and across.
    pub(super) fn tiles(&self) -> (usize, usize) {
        (self.height.div_ceil(STEP), self.width.div_ceil(STEP))
    }
}

/// A run of vectors of tiles, in panels of at most [`VECTORS`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Panels {
    /// Vectors in all.
    pub vectors: usize,
    /// Values of a vector.
    pub lanes: usize,
}

impl Panels {
    /// Returns how many panels there are.
    pub(super) fn count(&self) -> usize {
        self.vectors.div_ceil(VECTORS)
    }

    /// Returns the first vector of `panel`.
    pub(super) fn first_vector(&self, panel: usize) -> usize {
        panel * VECTORS
    }

    /// Returns how many vectors `panel` has.
    pub(super) fn vectors(&self, panel: usize) -> usize {
        VECTORS.min(self.vectors - self.first_vector(panel))
    }

    /// Returns where `panel` begins in a buffer of [frequencies, `rows`, vectors] for each panel.
    pub(super) fn start(&self, panel: usize, rows: usize) -> usize {
        FREQUENCIES * (self.first_vector(panel) * self.lanes * rows + panel * GAP)
    }

    /// Returns how many values such a buffer has.
    pub(super) fn len(&self, rows: usize) -> usize {
        FREQUENCIES * (self.vectors * self.lanes * rows + self.count() * GAP)
    }

    /// Returns how far apart the frequencies of `panel` are in it.
    pub(super) fn stride(&self, panel: usize, rows: usize) -> usize {
        self.vectors(panel) * self.lanes * rows + GAP
    }
}

/// Convolutions with 3×3 filters, stride 1 and one line of zeros around the input. The result of each place is the same bits
/// for any number of workers, whatever else is in the batch, on every kind of processor.
#[derive(Default)]
pub struct Conv3x3 {
    planes: Lent,
    blocks: Lent,
}

impl fmt::Debug for Conv3x3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conv3x3").finish_non_exhaustive()
    }
}

/// What one call works on.
pub(super) struct Call<'c> {
    pub shape: ConvShape,
    pub x: &'c [f32],
    pub filters: &'c [f32],
    pub bias: Option<&'c [f32]>,
    pub y: Shared,
}

/// The functions for one kind of processor.
#[derive(Clone, Copy)]
struct Functions {
    transform: unsafe fn(&Call<'_>, &Panels, &Patches, usize, &mut [f32], *mut f32),
    multiply: unsafe fn(&Call<'_>, &Work<'_>, &mut [f32]),
    multiply_small: unsafe fn(&Call<'_>, &[f32], usize, &mut [f32]),
}

impl Conv3x3 {
    /// Writes to `y` the convolution of `x` with `filters`, plus `bias`, one for each output.
    ///
    /// # Panics
    /// A slice has not the length that `shape` says.
    pub fn run(
        &self,
        shape: ConvShape,
        (x, filters, bias): (&[f32], &[f32], Option<&[f32]>),
        y: &mut [f32],
        workers: &dyn Workers,
    ) {
        assert_eq!(x.len(), shape.images * shape.inputs * shape.area(), "the input's length");
        assert_eq!(filters.len(), shape.outputs * shape.inputs * FILTER, "the filters' length");
        assert_eq!(y.len(), shape.images * shape.outputs * shape.area(), "the output's length");
        assert!(bias.is_none_or(|bias| bias.len() == shape.outputs), "the bias's length");
        let call = Call { shape, x, filters, bias, y: Shared::new(y) };
        match kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => self.run_as::<Avx512>(&call, workers, AVX_512),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => self.run_as::<Avx2>(&call, workers, AVX_2),
            Kind::Plain => self.run_as::<Plain>(&call, workers, PLAIN),
        }
    }

    fn run_as<S: Simd>(&self, call: &Call<'_>, workers: &dyn Workers, functions: Functions) {
        let shape = call.shape;
        if small::is_small(&shape) {
            return self.run_small::<S>(call, workers, functions);
        }
        let (down, across) = shape.tiles();
        let tiles = shape.images * down * across;
        let vectors = tiles.div_ceil(S::LANES);
        let at_once = (HELD / (FREQUENCIES * shape.inputs * S::LANES)).next_multiple_of(RUN).max(RUN).min(vectors);
        for start in (0..vectors).step_by(at_once.max(1)) {
            let count = at_once.min(vectors - start);
            let panels = Panels { vectors: count, lanes: S::LANES };
            let range = start * S::LANES..((start + count) * S::LANES).min(tiles);
            let patches = Patches::new(&shape, range.clone());
            self.planes.with(panels.len(shape.inputs), |planes| {
                // Workers write to the places of one channel each.
                let to = Shared::new(planes);
                workers.run(shape.inputs, &|channel| {
                    self.blocks.with(patches.len(&shape), |copy| {
                        // SAFETY: the processor was asked for its kind; a channel is one worker's.
                        unsafe { (functions.transform)(call, &panels, &patches, channel, copy, to.get()) }
                    });
                });
                let runs = count.div_ceil(RUN);
                let blocks = shape.outputs.div_ceil(OUTPUTS);
                workers.run(runs * blocks, &|task| {
                    let (block, run) = (task / runs, task % runs);
                    let vectors = run * RUN..((run + 1) * RUN).min(count);
                    let size = weights::BLOCK + Panels { vectors: vectors.len(), ..panels }.len(OUTPUTS);
                    self.blocks.with(size, |scratch| {
                        let work = Work { panels, planes, vectors, tile: range.start, block };
                        // SAFETY: the processor was asked for its kind; a block of channels in a run of tiles is one worker's.
                        unsafe { (functions.multiply)(call, &work, scratch) }
                    });
                });
            });
        }
    }
}

impl Conv3x3 {
    fn run_small<S: Simd>(&self, call: &Call<'_>, workers: &dyn Workers, functions: Functions) {
        let shape = &call.shape;
        self.planes.with(small::planes_len::<S>(shape), |planes| {
            let to = Shared::new(planes);
            // SAFETY: a channel is one worker's.
            workers.run(shape.inputs, &|channel| unsafe { small::shift::<S>(shape, call.x, channel, to.get()) });
            workers.run(shape.outputs.div_ceil(OUTPUTS), &|block| {
                self.blocks.with(small::scratch_len::<S>(shape), |scratch| {
                    // SAFETY: the processor was asked for its kind; a block of channels is one worker's.
                    unsafe { (functions.multiply_small)(call, planes, block, scratch) }
                });
            });
        });
    }
}

/// One worker's task: a block of output channels in a run of tiles.
struct Work<'w> {
    panels: Panels,
    planes: &'w [f32],
    vectors: Range<usize>,
    /// Number of the first tile of all panels.
    tile: usize,
    block: usize,
}

/// # Safety
/// As for [`input::transform`].
#[inline(always)]
unsafe fn transform<S: Simd>(
    call: &Call<'_>,
    panels: &Panels,
    patches: &Patches,
    channel: usize,
    copy: &mut [f32],
    to: *mut f32,
) {
    // SAFETY: passed on.
    unsafe { input::transform::<S>((&call.shape, panels, patches), call.x, channel, copy, to) }
}

/// # Safety
/// The processor has the instructions of `S`; nobody else writes to these channels of these tiles of the output.
#[inline(always)]
unsafe fn multiply<S: Simd, const ROWS: usize>(call: &Call<'_>, work: &Work<'_>, scratch: &mut [f32]) {
    let (shape, panels) = (&call.shape, &work.panels);
    let output = work.block * OUTPUTS;
    let outputs = OUTPUTS.min(shape.outputs - output);
    let (filters, sums) = scratch.split_at_mut(weights::BLOCK);
    let numbers = work.vectors.start / VECTORS..work.vectors.end.div_ceil(VECTORS);
    let sums_start = panels.start(numbers.start, OUTPUTS);
    for input in (0..shape.inputs).step_by(DEPTH) {
        let inputs = DEPTH.min(shape.inputs - input);
        // SAFETY: passed on.
        unsafe {
            weights::transform::<S, false>(
                call.filters,
                shape.inputs,
                Block { output, outputs, input, inputs },
                filters,
            );
        }
        for panel in numbers.clone() {
            let (vectors, width) = (panels.vectors(panel), panels.vectors(panel) * S::LANES);
            let tiles = &work.planes[panels.start(panel, shape.inputs)..];
            let sums = &mut sums[panels.start(panel, OUTPUTS) - sums_start..];
            let (tiles_stride, sums_stride) = (panels.stride(panel, shape.inputs), panels.stride(panel, OUTPUTS));
            for frequency in 0..FREQUENCIES {
                let u = &filters[frequency * weights::STRIDE..][..OUTPUTS * DEPTH];
                let v = &tiles[frequency * tiles_stride + input * width..][..inputs * width];
                let m = &mut sums[frequency * sums_stride..][..OUTPUTS * width];
                let sizes = (outputs.next_multiple_of(ROWS), inputs, vectors);
                let ahead =
                    Ahead { u: u.as_ptr().wrapping_add(weights::STRIDE), v: v.as_ptr().wrapping_add(tiles_stride) };
                // SAFETY: the slices are as long as the sizes say; rows beyond `outputs` are within `OUTPUTS`, and unused.
                unsafe { product::panel::<S, ROWS>(u.as_ptr(), v.as_ptr(), m.as_mut_ptr(), sizes, input == 0, ahead) };
            }
        }
    }
    for panel in numbers {
        let width = panels.vectors(panel) * S::LANES;
        let sums = &sums[panels.start(panel, OUTPUTS) - sums_start..];
        let stride = panels.stride(panel, OUTPUTS);
        for channel in 0..outputs {
            let bias = call.bias.map_or(0.0, |bias| bias[output + channel]);
            for vector in 0..panels.vectors(panel) {
                let m = sums[channel * width + vector * S::LANES..].as_ptr();
                let tile = work.tile + (panels.first_vector(panel) + vector) * S::LANES;
                // SAFETY: frequency f of these tiles is `f * stride` values further on in `sums`.
                unsafe { output::transform::<S>(shape, (output + channel, tile), bias, m, stride, call.y.get()) };
            }
        }
    }
}

/// Makes the functions for one kind of processor; only there is anything compiled with its instructions.
macro_rules! for_kind {
    ($functions:ident, $simd:ty, $rows:literal $(, $feature:literal)?) => {
        const $functions: Functions = {
            $(#[target_feature(enable = $feature)])?
            unsafe fn transform_as(c: &Call<'_>, p: &Panels, s: &Patches, n: usize, copy: &mut [f32], to: *mut f32) {
                // SAFETY: passed on.
                unsafe { transform::<$simd>(c, p, s, n, copy, to) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn multiply_as(call: &Call<'_>, work: &Work<'_>, scratch: &mut [f32]) {
                // SAFETY: passed on.
                unsafe { multiply::<$simd, $rows>(call, work, scratch) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn multiply_small_as(call: &Call<'_>, planes: &[f32], block: usize, scratch: &mut [f32]) {
                // SAFETY: passed on.
                unsafe { small::multiply::<$simd, $rows>(call, planes, block, scratch) }
            }
            Functions { transform: transform_as, multiply: multiply_as, multiply_small: multiply_small_as }
        };
    };
}

for_kind!(PLAIN, Plain, 4);
#[cfg(target_arch = "x86_64")]
for_kind!(AVX_2, Avx2, 4, "avx2,fma");
#[cfg(target_arch = "x86_64")]
for_kind!(AVX_512, Avx512, 8, "avx512f");

#[cfg(test)]
mod tests {
    use super::super::workers::Serial;
    use super::super::workers::tests::{Many, values};
    use super::*;
    use proptest::prelude::*;

    fn operands(shape: &ConvShape) -> [Vec<f32>; 3] {
        let filters = values(shape.outputs * shape.inputs * FILTER, 2);
        [values(shape.images * shape.inputs * shape.area(), 1), filters, values(shape.outputs, 3)]
    }

    fn run(shape: ConvShape, [x, filters, bias]: &[Vec<f32>; 3], workers: &dyn Workers) -> Vec<f32> {
        let mut y = vec![f32::NAN; shape.images * shape.outputs * shape.area()];
        Conv3x3::default().run(shape, (x, filters, Some(bias)), &mut y, workers);
        y
    }

    /// The definition, in float64.
    fn defined(shape: &ConvShape, [x, filters, bias]: &[Vec<f32>; 3]) -> Vec<f64> {
        let (height, width) = (shape.height as isize, shape.width as isize);
        let mut y = Vec::new();
        for place in 0..shape.images * shape.outputs * shape.area() {
            let (plane, at) = (place / shape.area(), place % shape.area());
            let (image, k) = (plane / shape.outputs, plane % shape.outputs);
            let (row, column) = ((at / shape.width) as isize, (at % shape.width) as isize);
            let mut sum = f64::from(bias[k]);
            for c in 0..shape.inputs {
                for tap in 0..9 {
                    let (row, column) = (row + tap / 3 - 1, column + tap % 3 - 1);
                    if (0..height).contains(&row) && (0..width).contains(&column) {
                        let from = (image * shape.inputs + c) * shape.area() + (row * width + column) as usize;
                        sum += f64::from(x[from]) * f64::from(filters[(k * shape.inputs + c) * FILTER + tap as usize]);
                    }
                }
            }
            y.push(sum);
        }
        y
    }

    fn is_right(shape: ConvShape) {
        let operands = operands(&shape);
        let y = run(shape, &operands, &Many);
        let size = (shape.inputs as f64).sqrt();
        for (place, (made, defined)) in y.iter().zip(defined(&shape, &operands)).enumerate() {
            let error = (f64::from(*made) - defined).abs();
            assert!(error < 2e-5 * size, "{shape:?}: {made} for {defined} at {place}");
        }
    }

    #[test]
    fn it_is_the_convolution() {
        is_right(ConvShape { images: 1, inputs: 1, outputs: 1, height: 1, width: 1 });
        is_right(ConvShape { images: 2, inputs: 130, outputs: 70, height: 17, width: 13 });
        is_right(ConvShape { images: 3, inputs: 64, outputs: 64, height: 8, width: 8 });
        is_right(ConvShape { images: 1, inputs: 16, outputs: 3, height: 64, width: 70 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_is_the_convolution_of_any_shape(
            images in 1..4_usize, inputs in 1..80_usize, outputs in 1..80_usize, height in 1..20_usize, width in 1..20_usize,
        ) {
            is_right(ConvShape { images, inputs, outputs, height, width });
        }
    }

    #[test]
    fn neither_the_batch_nor_the_workers_nor_what_is_held_at_a_time_change_a_bit() {
        for (height, width) in [(11, 30), (5, 4)] {
            let one = ConvShape { images: 1, inputs: 70, outputs: 66, height, width };
            let many = ConvShape { images: 5, ..one };
            let [x, filters, bias] = operands(&many);
            let together = run(many, &[x.clone(), filters.clone(), bias.clone()], &Many);
            let alone = |x: &[f32]| run(one, &[x.to_vec(), filters.clone(), bias.clone()], &Serial);
            assert_eq!(together, x.chunks(one.inputs * one.area()).flat_map(alone).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_kind_of_vector_gives_the_same_bits() {
        every_kind(ConvShape { images: 2, inputs: 70, outputs: 66, height: 11, width: 30 });
        every_kind(ConvShape { images: 3, inputs: 70, outputs: 66, height: 4, width: 5 });
    }

    fn every_kind(shape: ConvShape) {
        let [x, filters, bias] = operands(&shape);
        let made = |kind: fn(&Conv3x3, &Call<'_>)| {
            let mut y = vec![f32::NAN; shape.images * shape.outputs * shape.area()];
            let call = Call { shape, x: &x, filters: &filters, bias: Some(&bias), y: Shared::new(&mut y) };
            kind(&Conv3x3::default(), &call);
            y
        };
        let plain = made(|conv, call| conv.run_as::<Plain>(call, &Serial, PLAIN));
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert_eq!(plain, made(|conv, call| conv.run_as::<Avx2>(call, &Serial, AVX_2)));
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            assert_eq!(plain, made(|conv, call| conv.run_as::<Avx512>(call, &Serial, AVX_512)));
        }
        assert_eq!(plain, run(shape, &[x, filters, bias], &Many));
    }
}
