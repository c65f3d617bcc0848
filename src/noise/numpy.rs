//! `numpy.random.RandomState(seed).randn`, the legacy generator, cast to f32.

use ndarray::Array3;

use super::Noise;
use super::mt19937::Mt19937;

pub(super) struct RandomState {
    seed: u64,
    engine: Mt19937,
    /// The second number of the last pair (numpy: `legacy_gauss`).
    gauss: Option<f64>,
}

impl RandomState {
    /// Seeds with the low 32 bits of `seed`; numpy refuses larger seeds.
    pub(super) fn new(seed: u64) -> Self {
        RandomState { seed, engine: Mt19937::new(seed as u32), gauss: None }
    }

    /// A number of [0, 1) with 53 bits.
    fn uniform(&mut self) -> f64 {
        let (high, low) = (self.engine.next_u32() >> 5, self.engine.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// Marsaglia's polar method.
    fn normal(&mut self) -> f64 {
        if let Some(kept) = self.gauss.take() {
            return kept;
        }
        loop {
            let (x1, x2) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let r2 = x1 * x1 + x2 * x2;
            if r2 < 1.0 && r2 != 0.0 {
                let f = (-2.0 * r2.ln() / r2).sqrt();
                self.gauss = Some(f * x1);
                return f * x2;
            }
        }
    }
}

impl Noise for RandomState {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn with_seed(&self, seed: u64) -> Box<dyn Noise> {
        Box::new(RandomState::new(seed))
    }

    fn draw(&mut self, shape: (usize, usize, usize)) -> Array3<f32> {
        Array3::from_shape_simple_fn(shape, || self.normal() as f32)
    }
}
