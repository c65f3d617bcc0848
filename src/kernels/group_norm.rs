//! Group norms, and the SiLU after them, in one go over memory (Wu and He 2018, "Group Normalization").
#![expect(unsafe_code, reason = "vector operations; workers write to groups of their own; each says what it relies on")]

use super::exponential::exponential;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Kind, Plain, Simd, kind};
use super::workers::{Shared, Workers};

/// Partial sums, whatever the vectors' width.
const SUMS: usize = 16;
/// Values that are summed up in float32 before the sums go on in float64.
const RUN: usize = 2048;

/// The shapes of one group norm: input and output [images, channels, area].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNormShape {
    /// Entries of the batch.
    pub images: usize,
    /// Channels.
    pub channels: usize,
    /// Values of a plane.
    pub area: usize,
    /// Groups of channels; a divisor of their number.
    pub groups: usize,
    /// What is added to the variance.
    pub epsilon: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// What one call works on.
struct Call<'c> {
    shape: GroupNormShape,
    x: &'c [f32],
    scale: &'c [f32],
    shift: &'c [f32],
    y: Shared,
}

/// Writes to `y` the values of `x`, each group of channels of each image brought to mean 0 and variance 1, times `scale`
/// plus `shift`, one for each channel. The result is the same bits for any number of workers, whatever else is in the batch, on
/// every kind of processor.
///
/// # Panics
/// A slice has not the length that `shape` says, or the groups do not divide the channels.
pub fn group_norm(
    shape: GroupNormShape,
    (x, scale, shift): (&[f32], &[f32], &[f32]),
    y: &mut [f32],
    workers: &dyn Workers,
) {
    let GroupNormShape { images, channels, area, groups, .. } = shape;
    assert!(groups > 0 && channels.is_multiple_of(groups), "the groups");
    assert_eq!(
        (x.len(), y.len()),
        (images * channels * area, images * channels * area),
        "the lengths of input and output"
    );
    assert_eq!((scale.len(), shift.len()), (channels, channels), "the lengths of scale and shift");
    let call = Call { shape, x, scale, shift, y: Shared::new(y) };
    run_as(&call, workers, kind());
}

fn run_as(call: &Call<'_>, workers: &dyn Workers, kind: Kind) {
    // SAFETY: the processor was asked for its kind; a group is one worker's.
    workers.run(call.shape.images * call.shape.groups, &|task| unsafe {
        match kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => group_avx512(call, task),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => group_avx2(call, task),
            Kind::Plain => group::<Plain>(call, task),
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn group_avx512(call: &Call<'_>, task: usize) {
    // SAFETY: passed on.
    unsafe { group::<Avx512>(call, task) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn group_avx2(call: &Call<'_>, task: usize) {
    // SAFETY: passed on.
    unsafe { group::<Avx2>(call, task) }
}

/// # Safety
/// The processor has the instructions of `S`; nobody else writes to this group of the output.
#[inline(always)]
unsafe fn group<S: Simd>(call: &Call<'_>, task: usize) {
    let GroupNormShape { channels, area, groups, epsilon, silu, .. } = call.shape;
    let of_group = channels / groups;
    let start = task * of_group * area;
    let values = &call.x[start..start + of_group * area];
    // SAFETY: passed on; these planes of the output are this worker's.
    unsafe {
        let count = values.len().max(1) as f64;
        let mean = sum::<S, false>(values, 0.0) / count;
        let variance = sum::<S, true>(values, mean as f32) / count;
        let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
        for (number, plane) in values.chunks_exact(area.max(1)).enumerate() {
            let channel = task % groups * of_group + number;
            let scale = (f64::from(call.scale[channel]) * factor) as f32;
            let shift = (f64::from(call.shift[channel]) - mean * f64::from(scale)) as f32;
            apply::<S>(plane, scale, shift, silu, call.y.get().add(start + number * area));
        }
    }
}

/// Returns the sum of `values`, or of their squared distances from `mean`.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn sum<S: Simd, const SQUARES: bool>(values: &[f32], mean: f32) -> f64 {
    let mut total = 0.0;
    for run in values.chunks(RUN) {
        let mut sums = [0.0_f32; SUMS];
        let whole = run.len() / SUMS * SUMS;
        // SAFETY: passed on; vectors lie within `run` and `sums`.
        unsafe {
            for lane in (0..SUMS).step_by(S::LANES) {
                let (mut sum, mean) = (S::zero(), S::splat(mean));
                for place in (lane..whole).step_by(SUMS) {
                    let value = S::load(run.as_ptr().add(place));
                    if SQUARES {
                        let distance = S::sub(value, mean);
                        sum = S::fma(distance, distance, sum);
                    } else {
                        sum = S::add(sum, value);
                    }
                }
                S::store(sums.as_mut_ptr().add(lane), sum);
            }
        }
        for (sum, value) in sums.iter_mut().zip(&run[whole..]) {
            let distance = value - mean;
            *sum = if SQUARES { distance.mul_add(distance, *sum) } else { *sum + value };
        }
        total += sums.iter().copied().map(f64::from).sum::<f64>();
    }
    total
}

/// Writes `values` times `scale` plus `shift`, with SiLU or without, to `to`.
///
/// # Safety
/// The processor has the instructions of `S`; `to` has as many places as there are `values`.
#[inline(always)]
unsafe fn apply<S: Simd>(values: &[f32], scale: f32, shift: f32, silu: bool, to: *mut f32) {
    for place in (0..values.len()).step_by(S::LANES) {
        let rest = values.len() - place;
        let mut line = [0.0_f32; SUMS];
        // SAFETY: passed on; the last vector, where it is not whole, goes by way of `line`.
        unsafe {
            let mut from = values.as_ptr().add(place);
            if rest < S::LANES {
                line[..rest].copy_from_slice(&values[place..]);
                from = line.as_ptr();
            }
            let mut value = S::fma(S::splat(scale), S::load(from), S::splat(shift));
            if silu {
                let power = exponential::<S>(S::sub(S::zero(), value));
                value = S::div(value, S::add(S::splat(1.0), power));
            }
            if rest < S::LANES {
                S::store(line.as_mut_ptr(), value);
                to.add(place).copy_from_nonoverlapping(line.as_ptr(), rest);
            } else {
                S::store(to.add(place), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::workers::Serial;
    use super::super::workers::tests::{Many, values};
    use super::*;
    use proptest::prelude::*;

    fn made(shape: GroupNormShape, kind: Kind, workers: &dyn Workers) -> Vec<f32> {
        let x = values(shape.images * shape.channels * shape.area, 1);
        let (scale, shift) = (values(shape.channels, 2), values(shape.channels, 3));
        let mut y = vec![f32::NAN; x.len()];
        let call = Call { shape, x: &x, scale: &scale, shift: &shift, y: Shared::new(&mut y) };
        run_as(&call, workers, kind);
        y
    }

    fn defined(shape: &GroupNormShape) -> Vec<f64> {
        let x: Vec<f64> = values(shape.images * shape.channels * shape.area, 1).into_iter().map(f64::from).collect();
        let (scale, shift) = (values(shape.channels, 2), values(shape.channels, 3));
        let size = shape.channels / shape.groups * shape.area;
        let mut y = Vec::new();
        for (number, group) in x.chunks(size).enumerate() {
            let mean = group.iter().sum::<f64>() / size as f64;
            let variance = group.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / size as f64;
            for (place, value) in group.iter().enumerate() {
                let channel = number % shape.groups * (shape.channels / shape.groups) + place / shape.area;
                let normed = (value - mean) / (variance + f64::from(shape.epsilon)).sqrt();
                let value = normed * f64::from(scale[channel]) + f64::from(shift[channel]);
                y.push(if shape.silu { value / (1.0 + (-value).exp()) } else { value });
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_is_the_group_norm(
            images in 1..4_usize, of_group in 1..5_usize, groups in 1..5_usize, area in 1..3000_usize, silu: bool,
        ) {
            let shape = GroupNormShape { images, channels: of_group * groups, area, groups, epsilon: 1e-5, silu };
            let y = made(shape, kind(), &Many);
            for (made, defined) in y.iter().zip(defined(&shape)) {
                prop_assert!((f64::from(*made) - defined).abs() < 2e-6 * (1.0 + defined.abs()), "{} for {}", made, defined);
            }
        }
    }

    #[test]
    fn every_kind_of_vector_and_any_workers_give_the_same_bits() {
        for silu in [false, true] {
            let shape = GroupNormShape { images: 3, channels: 6, area: 5001, groups: 2, epsilon: 1e-5, silu };
            let plain = made(shape, Kind::Plain, &Serial);
            assert_eq!(plain, made(shape, kind(), &Many));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                assert_eq!(plain, made(shape, Kind::Avx2, &Serial));
            }
            let one = made(GroupNormShape { images: 1, ..shape }, kind(), &Serial);
            assert_eq!(plain[..one.len()], one);
        }
    }
}
