//! Brownian motion that is the same wherever it is looked at: the `BrownianInterval` of torchsde 0.2.6 as diffusers'
//! `BrownianTreeNoiseSampler` makes it (`halfway_tree`, `tol` 1e-6; Kidger et al. 2021, arXiv 2105.13493, section 4).
//!
//! An interval's increment is split between its halves with noise of a seed that only the tree's seed and the place of the
//! interval decide (the bridge of Lévy), so the noise of one step does not depend on the other steps.

use ndarray::{Array3, Zip};

use super::seed_sequence;
use crate::noise::Noise;

/// Words of the pool from which the seeds come.
const POOL: usize = 24;

/// A path over [start, end], known by its seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brownian {
    start: f64,
    end: f64,
}

/// An interval of the tree.
#[derive(Clone, Copy)]
struct Node {
    start: f64,
    end: f64,
    spawn_key: u32,
    depth: u32,
}

/// What is looked for, and what was found of it.
struct Query<'a> {
    from: f64,
    to: f64,
    seed: u64,
    noise: &'a dyn Noise,
    found: Option<Array3<f32>>,
}

impl Brownian {
    /// A path from `start` to the later `end`.
    pub(super) fn new(start: f64, end: f64) -> Self {
        Brownian { start, end }
    }

    /// Returns the increment between two times of the path with this `seed`, `shape` `[channels, height, width]`; `noise`
    /// says of which kind its numbers are.
    ///
    /// Times are rounded to millionths, as there, and held inside the path.
    pub(super) fn increment(
        &self,
        (from, to): (f64, f64),
        shape: (usize, usize, usize),
        seed: u64,
        noise: &dyn Noise,
    ) -> Array3<f32> {
        let root = Node { start: rounded(self.start), end: rounded(self.end), spawn_key: 0, depth: 0 };
        let inside = |time: f64| rounded(time.clamp(root.start, root.end));
        let (from, to) = (inside(from), inside(to));
        if from >= to {
            return Array3::zeros(shape);
        }
        let first = seed_sequence::state(seed, &[], POOL);
        let whole = noise.with_seed(first.into()).draw(shape) * (self.end - self.start).sqrt() as f32;
        let mut query = Query { from, to, seed, noise, found: None };
        query.visit(root, whole);
        query.found.unwrap_or_else(|| Array3::zeros(shape))
    }
}

impl Query<'_> {
    /// Adds what lies inside the query of `node`, whose increment is `increment`, from left to right.
    fn visit(&mut self, node: Node, increment: Array3<f32>) {
        if self.from <= node.start && node.end <= self.to {
            self.found = Some(match self.found.take() {
                Some(found) => found + &increment,
                None => increment,
            });
            return;
        }
        let middle = rounded(0.5 * (node.end + node.start));
        let noise = self.noise.with_seed(seed_sequence::state(self.seed, &[node.spawn_key, node.depth], POOL).into());
        let left_increment = left_half(node, middle, &increment, noise);
        let child = |start, end, bit| Node { start, end, spawn_key: 2 * node.spawn_key + bit, depth: node.depth + 1 };
        let right = (self.to > middle).then(|| &increment - &left_increment);
        if self.from < middle {
            self.visit(child(node.start, middle, 0), left_increment);
        }
        if let Some(increment) = right {
            self.visit(child(middle, node.end, 1), increment);
        }
    }
}

/// Returns the increment of the left half of `node`: its share of the whole and noise.
fn left_half(node: Node, middle: f64, increment: &Array3<f32>, mut noise: Box<dyn Noise>) -> Array3<f32> {
    let (left, right, reciprocal) = (middle - node.start, node.end - middle, 1.0 / (node.end - node.start));
    let deviation = (left * right * reciprocal).sqrt() as f32;
    let (left, reciprocal) = (left as f32, reciprocal as f32);
    Zip::from(increment)
        .and(&noise.draw(increment.dim()))
        .map_collect(|whole, fresh| left * whole * reciprocal + deviation * fresh)
}

/// Returns `time` rounded to six decimals, as Python rounds: the exact binary number, halves to even.
fn rounded(time: f64) -> f64 {
    format!("{time:.6}").parse().expect("what was written as a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::NoiseKind;

    const SHAPE: (usize, usize, usize) = (2, 3, 3);

    #[test]
    fn increments_add_up_and_have_the_variance_of_their_length() {
        let path = Brownian::new(0.03, 14.6);
        let noise = NoiseKind::TorchCpu.source(0);
        let between = |from, to| path.increment((from, to), SHAPE, 7, &*noise);
        let sum = between(0.1, 2.0) + between(2.0, 9.5);
        let off = (sum - between(0.1, 9.5)).iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(off < 1e-5, "{off}");
        assert_eq!(between(3.0, 3.0), Array3::<f32>::zeros(SHAPE));
        let mut power = 0.0;
        for seed in 0..50 {
            power += path.increment((1.0, 5.0), SHAPE, seed, &*noise).iter().map(|x| x * x).sum::<f32>();
        }
        assert!((power / (50.0 * 18.0) - 4.0).abs() < 0.5, "{power}");
    }

    #[test]
    fn increments_are_those_of_torchsde() {
        // BrownianInterval(t0=0.029167, t1=14.6146, size=(1, 2, 3, 3), entropy=seed, tol=1e-6, pool_size=24,
        // halfway_tree=True) of torchsde 0.2.6 with torch 2.15: elements 0, 7 and 17.
        let path = Brownian::new(0.029_167, 14.6146);
        let noise = NoiseKind::TorchCpu.source(0);
        for (seed, times, expected) in [
            (77, (9.25, 14.6146), [0.949_074, -0.118_501_425, -0.803_191_4]),
            (77, (0.5, 9.25), [-2.390_603_5, -2.226_706_5, -0.205_794_1]),
            (77, (0.029_167, 0.123_456), [0.116_686_165, -0.024_536_73, -0.160_328_72]),
            (77, (0.200_000_4, 0.200_001_6), [0.001_821_881_3, 0.000_860_705_8, -0.000_685_715_23]),
            ((1 << 40) + 5, (9.25, 14.6146), [4.254_895_7, -0.465_867_2, 1.262_39]),
            ((1 << 40) + 5, (0.200_000_4, 0.200_001_6), [0.002_714_540_3, -0.000_636_992_4, 0.002_097_374_3]),
        ] {
            let increment = path.increment(times, SHAPE, seed, &*noise);
            let found = [0, 7, 17].map(|i| increment.as_slice().expect("in order")[i]);
            let off = found.iter().zip(expected).map(|(a, b): (&f32, f32)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 2e-6, "{seed} {times:?}: {found:?} is not {expected:?}");
        }
    }

    #[test]
    fn times_are_rounded_as_python_rounds() {
        assert_eq!((rounded(14.614_641_189_575_195), rounded(0.000_000_5), rounded(1.0)), (14.614_641, 0.0, 1.0));
    }
}
