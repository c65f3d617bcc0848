//! `torch.randn` on a CUDA device, computed on the CPU.
//!
//! cuRAND's Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): element i of a draw is made
//! by thread i alone, from the block of random bits that (seed, draw number, i) names. That holds for draws of fewer
//! elements than the device has threads (over 50,000 on every data-centre card, and latents of 1024x1024 pixels are
//! 65,536 on cards with 270,336): larger draws are made by fewer threads there, in an order that depends on the card.
//! Computed in f64 and rounded, as A1111's `rng_philox.py` does; the device computes in f32 and differs by about 1e-6.

use ndarray::Array3;

use super::Noise;

pub(super) struct TorchCuda {
    seed: u64,
    /// How many draws there were: torch moves the offset of its generator by one block (four numbers) for each.
    draws: u32,
}

impl TorchCuda {
    pub(super) fn new(seed: u64) -> Self {
        TorchCuda { seed, draws: 0 }
    }
}

impl Noise for TorchCuda {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn with_seed(&self, seed: u64) -> Box<dyn Noise> {
        Box::new(TorchCuda::new(seed))
    }

    fn draw(&mut self, shape: (usize, usize, usize)) -> Array3<f32> {
        let count = shape.0 * shape.1 * shape.2;
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let element = |i: usize| {
            let bits = philox([self.draws, 0, i as u32, (i as u64 >> 32) as u32], key);
            normal(bits[0], bits[1])
        };
        let data = (0..count).map(element).collect();
        self.draws = self.draws.wrapping_add(1);
        Array3::from_shape_vec(shape, data).expect("as many numbers as the shape has")
    }
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let first = u64::from(counter[0]) * 0xd251_1f53;
        let second = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// The first number of cuRAND's Box-Muller pair, the sine.
fn normal(x: u32, y: u32) -> f32 {
    // cuRAND's f32 constants, 2^-32 and 2^-32 2 pi.
    let (inv, inv_2pi) = (f64::from(2.328_306_4e-10_f32), f64::from(2.328_306_4e-10_f32 * 6.283_185_5_f32));
    let u = f64::from(x) * inv + inv / 2.0;
    let v = f64::from(y) * inv_2pi + inv_2pi / 2.0;
    ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_published_one() {
        // Known answers of Random123 (kat_vectors, philox4x32 10).
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    #[expect(clippy::excessive_precision, reason = "as they are published")]
    fn numbers_are_those_that_torch_draws_on_a_gpu() {
        // torch.manual_seed(0); torch.randn((3, 4), device="cuda"), as documented by A1111's rng_philox.py.
        let published = [
            -0.924_662_59,
            -0.425_344_15,
            -2.643_845_7,
            0.145_183_88,
            -0.120_866_47,
            -0.579_725_64,
            -0.622_851_22,
            -0.328_387_09,
            -1.074_542_31,
            -0.363_144_07,
            -1.671_050_67,
            2.265_504_97,
        ];
        let drawn = TorchCuda::new(0).draw((1, 3, 4));
        assert!(drawn.iter().zip(published).all(|(drawn, published)| (drawn - published).abs() < 1e-6), "{drawn}");
    }

    #[test]
    fn every_draw_is_another_and_normal() {
        let mut noise = TorchCuda::new(7);
        let (first, second) = (noise.draw((4, 64, 64)), noise.draw((4, 64, 64)));
        let count = first.len() as f64;
        let mean = |values: &Array3<f32>| values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        for draw in [&first, &second] {
            assert!(mean(draw).abs() < 0.03 && (mean(&draw.mapv(|x| x * x)) - 1.0).abs() < 0.05);
        }
        assert!(mean(&(&first * &second)).abs() < 0.03, "draws are independent");
    }
}
