//! `torch.randn` on a CPU.

use ndarray::Array3;

use super::Noise;
use super::mt19937::Mt19937;

/// torch's CPU generator and `torch.randn` in f32.
///
/// ATen fills tensors of 16 elements and more with blocks of 16 (`normal_fill`, f32), smaller ones element by element in
/// f64 with the second number of each pair kept for later. Both are here. The f32 functions are those of ATen's AVX2
/// build (`avx_mathfun.h`, torch 2.15), which is what nearly every x86 machine runs, fused operation by fused operation,
/// so blocks are equal bit for bit to torch on such machines; torch on other processors differs by a few ulp.
pub(super) struct TorchCpu {
    seed: u64,
    engine: Mt19937,
    /// The second half of the last scalar Box-Muller pair (ATen: `next_double_normal_sample`).
    next_normal: Option<f64>,
}

/// Length of ATen's blocks: 8 pairs of uniforms become 8 cosines, then 8 sines.
const BLOCK: usize = 16;

impl TorchCpu {
    pub(super) fn new(seed: u64) -> Self {
        // Truncation is ATen's: only the low 32 bits of a seed count.
        TorchCpu { seed, engine: Mt19937::new(seed as u32), next_normal: None }
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
    fn seed(&self) -> u64 {
        self.seed
    }

    fn with_seed(&self, seed: u64) -> Box<dyn Noise> {
        Box::new(TorchCpu::new(seed))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

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
