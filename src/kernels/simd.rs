//! Vectors of float32: one set of operations, of which every kind of processor computes the same bits.
#![expect(unsafe_code, reason = "vector instructions and unchecked pointers; each function says what it relies on")]

use std::sync::LazyLock;

/// Operations on vectors. Every one rounds each element once, whatever the width, so results do not depend on it.
///
/// # Safety
/// Callers have checked that the processor has the instructions, and that pointers may be read or written for `LANES` values.
pub(super) unsafe trait Simd: Copy {
    /// Values in a vector.
    const LANES: usize;
    /// A vector.
    type V: Copy;
    /// A vector of zeros.
    unsafe fn zero() -> Self::V;
    /// A vector of one value.
    unsafe fn splat(value: f32) -> Self::V;
    /// The values from `from` on.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Asks for the cache line at `from`, wherever that is.
    unsafe fn prefetch(from: *const f32);
    /// Writes `v` from `to` on.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `LANES` / 4 times four values: those from the first of `places` on, from the fifth on, and so forth, counted from `from`.
    unsafe fn load_quads(from: *const f32, places: *const i32) -> Self::V;
    /// The value at each of `LANES` places, counted from `from`, the one after it, and the two after that.
    #[inline(always)]
    unsafe fn gather_four(from: *const f32, places: *const i32) -> [Self::V; 4] {
        unsafe {
            Self::transpose_quads([
                Self::load_quads(from, places),
                Self::load_quads(from, places.add(1)),
                Self::load_quads(from, places.add(2)),
                Self::load_quads(from, places.add(3)),
            ])
        }
    }
    /// Turns `LANES` / 4 squares of 4 × 4 on their diagonals: value i of quad q in vector j becomes value j of quad q in vector i.
    unsafe fn transpose_quads(v: [Self::V; 4]) -> [Self::V; 4];
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of a and b; b where either is no number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of a and b; b where either is no number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// v · 2ⁿ, where the lowest bits of `n` as a float32 hold the whole number n.
    unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V;
}

/// What the processor at hand has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Vectors of 16.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Vectors of 8.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// None that these kernels know.
    Plain,
}

static KIND: LazyLock<Kind> = LazyLock::new(detect);

#[cfg(target_arch = "x86_64")]
fn detect() -> Kind {
    if is_x86_feature_detected!("avx512f") {
        Kind::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Kind::Avx2
    } else {
        Kind::Plain
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Kind {
    Kind::Plain
}

/// Returns the kind of the processor at hand.
pub(super) fn kind() -> Kind {
    *KIND
}

/// Returns whether the processor has vectors for these kernels: AVX2 with FMA, or AVX-512. Without, they would be slower than
/// ONNX Runtime's.
pub fn is_available() -> bool {
    kind() != Kind::Plain
}

/// Without vector instructions: what the others are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

unsafe impl Simd for Plain {
    const LANES: usize = 4;
    type V = [f32; 4];

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_quads(from: *const f32, places: *const i32) -> Self::V {
        unsafe { Self::load(from.offset(*places as isize)) }
    }
    #[inline(always)]
    unsafe fn transpose_quads(v: [Self::V; 4]) -> [Self::V; 4] {
        std::array::from_fn(|i| std::array::from_fn(|j| v[j][i]))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V {
        std::array::from_fn(|i| f32::from_bits(v[i].to_bits().wrapping_add(n[i].to_bits() << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// Vectors of 8.
    #[derive(Debug, Clone, Copy)]
    pub(in crate::kernels) struct Avx2;

    /// Vectors of 16.
    #[derive(Debug, Clone, Copy)]
    pub(in crate::kernels) struct Avx512;

    unsafe impl Simd for Avx2 {
        const LANES: usize = 8;
        type V = __m256;

        #[inline(always)]
        unsafe fn zero() -> Self::V {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_quads(from: *const f32, places: *const i32) -> Self::V {
            unsafe {
                let first = _mm_loadu_ps(from.offset(*places as isize));
                let second = _mm_loadu_ps(from.offset(*places.add(4) as isize));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(first), second)
            }
        }
        #[inline(always)]
        unsafe fn transpose_quads(v: [Self::V; 4]) -> [Self::V; 4] {
            unsafe {
                let pairs = |low, high| (_mm256_castps_pd(low), _mm256_castps_pd(high));
                let (a, c) = pairs(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
                let (b, d) = pairs(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
                [
                    _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpacklo_pd(c, d)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn prefetch(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V {
            unsafe {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), power))
            }
        }
    }

    unsafe impl Simd for Avx512 {
        const LANES: usize = 16;
        type V = __m512;

        #[inline(always)]
        unsafe fn zero() -> Self::V {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_quads(from: *const f32, places: *const i32) -> Self::V {
            unsafe {
                let first = _mm512_castps128_ps512(_mm_loadu_ps(from.offset(*places as isize)));
                let two = _mm512_insertf32x4::<1>(first, _mm_loadu_ps(from.offset(*places.add(4) as isize)));
                let three = _mm512_insertf32x4::<2>(two, _mm_loadu_ps(from.offset(*places.add(8) as isize)));
                _mm512_insertf32x4::<3>(three, _mm_loadu_ps(from.offset(*places.add(12) as isize)))
            }
        }
        #[inline(always)]
        unsafe fn transpose_quads(v: [Self::V; 4]) -> [Self::V; 4] {
            unsafe {
                let pairs = |low, high| (_mm512_castps_pd(low), _mm512_castps_pd(high));
                let (a, c) = pairs(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
                let (b, d) = pairs(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
                [
                    _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
                    _mm512_castpd_ps(_mm512_unpacklo_pd(c, d)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn prefetch(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V {
            unsafe {
                let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), power))
            }
        }
    }
}
