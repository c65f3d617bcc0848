//! Seeded Gaussian noise, the same numbers as other tools draw for the same seed. Pure.
//!
//! An image owns one [`Noise`]: its first draw is the initial latents, later draws are the fresh noise of the samplers
//! that use any. So the noise of an image depends on (seed, draw number) and never on who shares its batch.
//!
//! A new source is a new implementor of [`Noise`] and one more [`NoiseKind`].

use std::fmt;
use std::str::FromStr;

use ndarray::Array3;

use crate::error::{Error, ErrorKind, Result};

/// A stream of standard normal numbers.
pub trait Noise: Send {
    /// Returns the next draw: independent N(0, 1) numbers of `shape` `[channels, height, width]`.
    fn draw(&mut self, shape: (usize, usize, usize)) -> Array3<f32>;
}

/// Which tool's random numbers to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoiseKind {
    /// `torch.randn` with a CPU generator: what diffusers draws for `torch.Generator("cpu").manual_seed(seed)`.
    TorchCpu,
}

impl NoiseKind {
    /// Every kind, for help texts.
    pub const ALL: &'static [NoiseKind] = &[NoiseKind::TorchCpu];

    /// Returns the name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            NoiseKind::TorchCpu => "torch-cpu",
        }
    }

    /// Returns a fresh stream for `seed`.
    pub fn source(self, seed: u64) -> Box<dyn Noise> {
        match self {
            NoiseKind::TorchCpu => Box::new(TorchCpu::new(seed)),
        }
    }
}

impl fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NoiseKind {
    type Err = Error;

    /// Returns the kind called `text`.
    ///
    /// # Errors
    /// `unknown_noise` (usage) when there is none.
    fn from_str(text: &str) -> Result<Self> {
        NoiseKind::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names: Vec<_> = NoiseKind::ALL.iter().map(|kind| format!("`{kind}`")).collect();
            Error::new(ErrorKind::Usage, "unknown_noise", format!("`{text}` is not a source of noise"))
                .hint(format!("use {}", names.join(" or ")))
        })
    }
}

/// torch's CPU generator and `torch.randn` in f32.
///
/// ATen fills tensors of 16 elements and more with blocks of 16 (`normal_fill`, f32), smaller ones element by element in
/// f64 with the second number of each pair kept for later. Both are here. The f32 functions are those of ATen's AVX2
/// build (`avx_mathfun.h`, torch 2.15), which is what nearly every x86 machine runs, fused operation by fused operation,
/// so blocks are equal bit for bit to torch on such machines; torch on other processors differs by a few ulp.
struct TorchCpu {
    engine: Mt19937,
    /// The second half of the last scalar Box-Muller pair (ATen: `next_double_normal_sample`).
    next_normal: Option<f64>,
}

/// Length of ATen's blocks: 8 pairs of uniforms become 8 cosines, then 8 sines.
const BLOCK: usize = 16;

impl TorchCpu {
    fn new(seed: u64) -> Self {
        // Truncation is ATen's: only the low 32 bits of a seed count.
        TorchCpu { engine: Mt19937::new(seed as u32), next_normal: None }
    }

    fn uniform_f32(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// ATen's `normal_distribution<double>`, cast to f32.
    fn scalar(&mut self) -> f32 {
        if let Some(sample) = self.next_normal.take() {
            return sample as f32;
        }
        let u1 = self.uniform_f64();
        let u2 = self.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.next_normal = Some(radius * theta.sin());
        (radius * theta.cos()) as f32
    }

    /// ATen's `normal_fill`: all uniforms first, then block by block; a ragged tail is drawn again as a whole block.
    fn fill(&mut self, data: &mut [f32]) {
        data.fill_with(|| self.uniform_f32());
        let (blocks, tail) = data.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !tail.is_empty() {
            let last = data.last_chunk_mut::<BLOCK>().expect("blocks are for 16 elements and more");
            last.fill_with(|| self.uniform_f32());
            box_muller(last);
        }
    }
}

impl Noise for TorchCpu {
    fn draw(&mut self, shape: (usize, usize, usize)) -> Array3<f32> {
        let mut data = vec![0.0; shape.0 * shape.1 * shape.2];
        if data.len() < BLOCK {
            data.fill_with(|| self.scalar());
        } else {
            self.fill(&mut data);
        }
        Array3::from_shape_vec(shape, data).expect("as many numbers as the shape has")
    }
}

/// Turns 16 uniforms of [0, 1) into 16 normal numbers in place (ATen's `NormalFill16<float>`).
fn box_muller(block: &mut [f32; BLOCK]) {
    for pair in 0..BLOCK / 2 {
        let radius = (-2.0 * cephes_ln(1.0 - block[pair])).sqrt();
        let (sin, cos) = cephes_sin_cos(std::f32::consts::TAU * block[pair + BLOCK / 2]);
        // Adding zero is ATen's `+ mean`: it turns -0 into 0.
        block[pair] = radius * cos + 0.0;
        block[pair + BLOCK / 2] = radius * sin + 0.0;
    }
}

// The two functions below are altered versions, in Rust and for one number, of `log256_ps` and `sincos256_ps` of
// `avx_mathfun.h`, (C) 2012 Giovanni Garberoglio, after `sse_mathfun.h` by Julien Pommier; zlib license.

/// Natural logarithm of a normal positive `x` (`log256_ps`; the compiler of torch fuses products into sums).
#[allow(clippy::excessive_precision)]
fn cephes_ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.0376836292E-2,
        -1.1514610310E-1,
        1.1676998740E-1,
        -1.2420140846E-1,
        1.4249322787E-1,
        -1.6668057665E-1,
        2.0000714765E-1,
        -2.4999993993E-1,
        3.3333331174E-1,
    ];
    let mut exponent = ((x.to_bits() >> 23) as i32 - 0x7f) as f32 + 1.0;
    // The mantissa as a number of [0.5, 1).
    let mut x = f32::from_bits((x.to_bits() & 0x007f_ffff) | 0x3f00_0000);
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        x = (x - 1.0) + x;
    } else {
        x -= 1.0;
    }
    let z = x * x;
    let polynomial = P[1..].iter().fold(P[0], |y, &p| y.mul_add(x, p)) * x;
    let y = polynomial.mul_add(z, exponent * -2.12194440e-4);
    let y = (-z).mul_add(0.5, y);
    exponent.mul_add(0.693359375, x + y)
}

/// Sine and cosine of `x` ≥ 0 (`sincos256_ps`; the compiler of torch fuses products into sums).
#[allow(clippy::excessive_precision)]
fn cephes_sin_cos(x: f32) -> (f32, f32) {
    let octant = ((x * 1.27323954473516) as i32 + 1) & !1;
    let y = octant as f32;
    let x = y.mul_add(-0.78515625, x);
    let x = y.mul_add(-2.4187564849853515625e-4, x);
    let x = y.mul_add(-3.77489497744594108e-8, x);
    let z = x * x;
    let c = 2.443315711809948E-005f32.mul_add(z, -1.388731625493765E-003).mul_add(z, 4.166664568298827E-002);
    let c = (c * z).mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.9515295891E-4f32).mul_add(z, 8.3321608736E-3).mul_add(z, -1.6666654611E-1);
    let s = (s * z).mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    let sin = if octant & 4 == 0 { sin } else { -sin };
    let cos = if (octant - 2) & 4 == 0 { -cos } else { cos };
    (sin, cos)
}

/// The 32-bit Mersenne Twister of Matsumoto and Nishimura (1998), seeded as ATen seeds it.
struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [0; 624];
        state[0] = seed;
        for j in 1..624 {
            let previous: u32 = state[j - 1];
            state[j] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(j as u32);
        }
        Mt19937 { state, next: 624 }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == 624 {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for j in 0..624 {
            let mixed = (self.state[j] & 0x8000_0000) | (self.state[(j + 1) % 624] & 0x7fff_ffff);
            let twist = (mixed >> 1) ^ if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[j] = self.state[(j + 397) % 624] ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_published_one() {
        // The 10,000th number for seed 5489 is given by the C++ standard (rand.predef).
        let mut engine = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| engine.next_u32()).last(), Some(4_123_659_995));
    }

    #[test]
    fn only_the_low_32_bits_of_a_seed_count() {
        let draw = |seed| NoiseKind::TorchCpu.source(seed).draw((4, 4, 4));
        assert_eq!(draw(5), draw((1 << 32) + 5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn names_go_there_and_back() {
        for kind in NoiseKind::ALL {
            assert_eq!(kind.to_string().parse::<NoiseKind>().expect("its own name"), *kind);
        }
        let error = "torch".parse::<NoiseKind>().expect_err("no such kind");
        assert_eq!(error.to_string(), "`torch` is not a source of noise");
        assert_eq!(error.how_to_fix(), Some("use `torch-cpu`"));
    }

    #[test]
    fn the_approximations_are_good_to_single_precision() {
        for i in 1..100_000 {
            let x = i as f32 / 100_000.0;
            assert!((f64::from(cephes_ln(x)) - f64::from(x).ln()).abs() < 1e-6, "ln {x}");
            let theta = x * std::f32::consts::TAU;
            let (sin, cos) = cephes_sin_cos(theta);
            assert!((f64::from(sin) - f64::from(theta).sin()).abs() < 2e-7, "sin {theta}");
            assert!((f64::from(cos) - f64::from(theta).cos()).abs() < 2e-7, "cos {theta}");
        }
    }
}
