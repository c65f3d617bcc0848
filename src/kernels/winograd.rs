//! The three transforms of F(4×4, 3×3): Winograd's minimal filtering over the points 0, ±3/4, ±3/2 and infinity.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), equation 9: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. Their
//! points 0, ±1, ±2 lose precision; these keep it: over sums of 320 channels the error was 1.65e-6 of the result's size, where
//! multiplying out in order has 0.99e-6 (and the points of the paper 3.6e-6). The matrices follow from the points by Cook and
//! Toom's construction (Barabasz et al. 2020, "Error analysis and improving the accuracy of Winograd convolution").
//!
//! Vector operations stand in no closure: the compiler may leave a closure out of the function that has the instructions.
#![expect(unsafe_code, reason = "vector operations; pointers as said of each function")]

use super::simd::Simd;

/// Values of a filter, of a transformed tile, and of a tile of the result, along one axis.
pub(super) const TAPS: usize = 3;
/// See [`TAPS`].
pub(super) const EDGE: usize = 6;
/// See [`TAPS`].
pub(super) const STEP: usize = 4;
/// Values of a transformed tile: as many products of matrices stand in for one convolution.
pub(super) const FREQUENCIES: usize = EDGE * EDGE;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;
const SUM: f32 = A2 + B2;
const PRODUCT: f32 = A2 * B2;

/// Bᵀ d, along one axis.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn input_axis<S: Simd>(d: [S::V; EDGE]) -> [S::V; EDGE] {
    unsafe {
        let (sum, product) = (S::splat(-SUM), S::splat(PRODUCT));
        let even_a = S::fma(S::splat(-B2), d[2], d[4]);
        let odd_a = S::mul(S::splat(A), S::fma(S::splat(-B2), d[1], d[3]));
        let even_b = S::fma(S::splat(-A2), d[2], d[4]);
        let odd_b = S::mul(S::splat(B), S::fma(S::splat(-A2), d[1], d[3]));
        [
            S::fma(product, d[0], S::fma(sum, d[2], d[4])),
            S::add(even_a, odd_a),
            S::sub(even_a, odd_a),
            S::add(even_b, odd_b),
            S::sub(even_b, odd_b),
            S::fma(product, d[1], S::fma(sum, d[3], d[5])),
        ]
    }
}

/// G g, along one axis.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn weight_axis<S: Simd>(g: [S::V; TAPS]) -> [S::V; EDGE] {
    const FIRST: f32 = 1.0 / PRODUCT;
    const FACTOR_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
    const FACTOR_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
    unsafe {
        let even_a = S::mul(S::splat(FACTOR_A), S::fma(S::splat(A2), g[2], g[0]));
        let odd_a = S::mul(S::splat(FACTOR_A * A), g[1]);
        let even_b = S::mul(S::splat(FACTOR_B), S::fma(S::splat(B2), g[2], g[0]));
        let odd_b = S::mul(S::splat(FACTOR_B * B), g[1]);
        [
            S::mul(S::splat(FIRST), g[0]),
            S::add(even_a, odd_a),
            S::sub(even_a, odd_a),
            S::add(even_b, odd_b),
            S::sub(even_b, odd_b),
            g[2],
        ]
    }
}

/// Aᵀ m, along one axis.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn output_axis<S: Simd>(m: [S::V; EDGE]) -> [S::V; STEP] {
    unsafe {
        let (sum_a, difference_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum_b, difference_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let third = S::fma(S::splat(A2 * A), difference_a, S::mul(S::splat(B2 * B), difference_b));
        [
            S::add(m[0], S::add(sum_a, sum_b)),
            S::fma(S::splat(A), difference_a, S::mul(S::splat(B), difference_b)),
            S::fma(S::splat(A2), sum_a, S::mul(S::splat(B2), sum_b)),
            S::add(m[5], third),
        ]
    }
}

/// Transforms tiles of the input: value (i, j) of tile t is at `d[(6 i + j) * LANES + t]`; that of the result goes to
/// `to[(6 i + j) * stride + t]`.
///
/// # Safety
/// The processor has the instructions of `S`; all those places may be read and written.
#[inline(always)]
pub(super) unsafe fn input<S: Simd>(d: *const f32, to: *mut f32, stride: usize) {
    unsafe {
        let mut half = [[S::zero(); EDGE]; EDGE];
        for column in 0..EDGE {
            let mut values = [S::zero(); EDGE];
            for (row, value) in values.iter_mut().enumerate() {
                *value = S::load(d.add((row * EDGE + column) * S::LANES));
            }
            for (half, value) in half.iter_mut().zip(input_axis::<S>(values)) {
                half[column] = value;
            }
        }
        for (row, values) in half.into_iter().enumerate() {
            for (column, value) in input_axis::<S>(values).into_iter().enumerate() {
                S::store(to.add((row * EDGE + column) * stride), value);
            }
        }
    }
}

/// Transforms the filters of `LANES` input channels, `taps`; those of frequency f go to `to[f * stride ..]`.
///
/// # Safety
/// The processor has the instructions of `S`; all those places may be read and written.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd>(taps: [S::V; TAPS * TAPS], to: *mut f32, stride: usize) {
    unsafe {
        let mut half = [[S::zero(); TAPS]; EDGE];
        for column in 0..TAPS {
            let values = [taps[column], taps[TAPS + column], taps[2 * TAPS + column]];
            for (half, value) in half.iter_mut().zip(weight_axis::<S>(values)) {
                half[column] = value;
            }
        }
        for (row, values) in half.into_iter().enumerate() {
            for (column, value) in weight_axis::<S>(values).into_iter().enumerate() {
                S::store(to.add((row * EDGE + column) * stride), value);
            }
        }
    }
}

/// Transforms `LANES` tiles back: those of frequency f are at `m[f * stride ..]`; value (i, j) of the result, with `bias` added,
/// goes to `to[(4 i + j) * LANES ..]`.
///
/// # Safety
/// The processor has the instructions of `S`; all those places may be read and written.
#[inline(always)]
pub(super) unsafe fn output<S: Simd>(m: *const f32, stride: usize, bias: f32, to: *mut f32) {
    unsafe {
        let mut half = [[S::zero(); EDGE]; STEP];
        for column in 0..EDGE {
            let mut values = [S::zero(); EDGE];
            for (row, value) in values.iter_mut().enumerate() {
                *value = S::load(m.add((row * EDGE + column) * stride));
            }
            for (half, value) in half.iter_mut().zip(output_axis::<S>(values)) {
                half[column] = value;
            }
        }
        let bias = S::splat(bias);
        for (row, values) in half.into_iter().enumerate() {
            for (column, value) in output_axis::<S>(values).into_iter().enumerate() {
                S::store(to.add((row * STEP + column) * S::LANES), S::add(value, bias));
            }
        }
    }
}
