//! Seeded Gaussian noise, the same numbers as other tools draw for the same seed. Pure.
//!
//! An image owns one [`Noise`]: its first draw is the initial latents, later draws are the fresh noise of the samplers
//! that use any. So the noise of an image depends on (seed, draw number) and never on who shares its batch.
//!
//! A new source is a file with an implementor of [`Noise`], and one more [`NoiseKind`].

mod mt19937;
mod numpy;
mod torch_cpu;
mod torch_cuda;

use std::fmt;
use std::str::FromStr;

use ndarray::Array3;

use crate::error::{Error, ErrorKind, Result};

/// A stream of standard normal numbers.
pub trait Noise: Send {
    /// Returns the next draw: independent N(0, 1) numbers of `shape` `[channels, height, width]`.
    fn draw(&mut self, shape: (usize, usize, usize)) -> Array3<f32>;

    /// Returns the seed of the stream.
    fn seed(&self) -> u64;

    /// Returns a fresh stream of the same kind with another seed, for what needs noise that does not depend on how much
    /// was drawn before.
    fn with_seed(&self, seed: u64) -> Box<dyn Noise>;
}

/// Which tool's random numbers to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoiseKind {
    /// `torch.randn` with a CPU generator: what diffusers draws for `torch.Generator("cpu").manual_seed(seed)`.
    TorchCpu,
    /// `torch.randn(device="cuda")`: what diffusers draws for `torch.Generator("cuda")`, and A1111 by default.
    TorchCuda,
    /// `numpy.random.RandomState(seed).randn`: what diffusers' ONNX pipelines draw.
    Numpy,
}

impl NoiseKind {
    /// Every kind, for help texts.
    pub const ALL: &'static [NoiseKind] = &[NoiseKind::TorchCpu, NoiseKind::TorchCuda, NoiseKind::Numpy];

    /// Returns the name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            NoiseKind::TorchCpu => "torch-cpu",
            NoiseKind::TorchCuda => "torch-cuda",
            NoiseKind::Numpy => "numpy",
        }
    }

    /// Returns a fresh stream for `seed`.
    pub fn source(self, seed: u64) -> Box<dyn Noise> {
        match self {
            NoiseKind::TorchCpu => Box::new(torch_cpu::TorchCpu::new(seed)),
            NoiseKind::TorchCuda => Box::new(torch_cuda::TorchCuda::new(seed)),
            NoiseKind::Numpy => Box::new(numpy::RandomState::new(seed)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cudas_generator_counts_more_than_32_bits_of_a_seed() {
        for kind in NoiseKind::ALL {
            let draw = |seed| kind.source(seed).draw((4, 4, 4));
            assert_eq!(draw(5) == draw((1 << 32) + 5), *kind != NoiseKind::TorchCuda, "{kind}");
            assert_ne!(draw(5), draw(6), "{kind}");
        }
    }

    #[test]
    fn names_go_there_and_back() {
        for kind in NoiseKind::ALL {
            assert_eq!(kind.to_string().parse::<NoiseKind>().expect("its own name"), *kind);
        }
        let error = "torch".parse::<NoiseKind>().expect_err("no such kind");
        assert_eq!(error.to_string(), "`torch` is not a source of noise");
        assert_eq!(error.how_to_fix(), Some("use `torch-cpu` or `torch-cuda` or `numpy`"));
    }
}
