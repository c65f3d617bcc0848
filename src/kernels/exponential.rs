//! The exponential function of vectors.
#![expect(unsafe_code, reason = "vector operations")]

use super::simd::Simd;

/// Below, the result is as good as none.
const LEAST: f32 = -87.0;
/// Above, it is as good as infinite.
const MOST: f32 = 88.0;
/// 1.5 · 2²³: added to a small number, it leaves the nearest whole number in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first with few enough bits that its products with whole numbers are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Returns eˣ within 2 units in the last place; for x below -87, a value below 1.7e-38, and for x above 88, e⁸⁸. Cephes' `expf`
/// (Moshier 1992): x = n ln 2 + r, and a polynomial in r.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn exponential<S: Simd>(x: S::V) -> S::V {
    const TERMS: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    unsafe {
        let x = S::min(S::max(x, S::splat(LEAST)), S::splat(MOST));
        let rounded = S::fma(x, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
        let n = S::sub(rounded, S::splat(ROUND));
        let r = S::fma(n, S::splat(-LN_2_LOW), S::fma(n, S::splat(-LN_2_HIGH), x));
        let mut sum = S::splat(TERMS[0]);
        for term in &TERMS[1..] {
            sum = S::fma(sum, r, S::splat(*term));
        }
        let power = S::add(S::fma(sum, S::mul(r, r), r), S::splat(1.0));
        S::scale_by_power(power, rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Plain;
    use super::*;

    #[test]
    fn it_is_the_exponential() {
        for step in -87_000..88_000 {
            let x = step as f32 / 1000.0;
            // SAFETY: `Plain` needs no instructions.
            let made = unsafe { exponential::<Plain>(Plain::splat(x)) }[0];
            let defined = f64::from(x).exp();
            assert!((f64::from(made) - defined).abs() <= 2.4e-7 * defined, "{made} for e^{x} = {defined}");
        }
        // SAFETY: as above.
        let least = unsafe { exponential::<Plain>(Plain::splat(f32::NEG_INFINITY)) }[0];
        assert!((0.0..1.7e-38).contains(&least), "{least}");
    }
}
