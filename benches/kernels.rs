//! The rates of our own kernels on one thread, in the shapes of Stable Diffusion 1.5 (two lanes of its UNet, and its VAE), and of the
//! model that ships (sixteen lanes).
//!
//! A convolution's rate counts the multiplications and additions of its definition, of which the kernel needs a quarter; the
//! rate of ONNX Runtime's convolution, which multiplies them out, is what to compare with.

use std::time::Instant;

use nightshift::kernels::{Attention, AttentionShape, Conv3x3, ConvShape, Serial, is_available};

/// Runs of each shape; the best counts.
const RUNS: usize = 7;

fn main() {
    if !is_available() {
        println!("this processor has neither AVX2 with FMA nor AVX-512: ONNX Runtime's kernels are used");
        return;
    }
    println!("3x3 convolutions                    ms   GFLOP/s of the definition");
    for (images, inputs, outputs, edge) in [
        (2, 320, 320, 64),
        (2, 640, 640, 32),
        (2, 1280, 1280, 16),
        (2, 1280, 1280, 8),
        (2, 1280, 1280, 4),
        (1, 512, 512, 128),
        (1, 256, 256, 256),
        (1, 128, 128, 512),
        (16, 48, 48, 16),
        (16, 96, 96, 8),
    ] {
        convolution(ConvShape { images, inputs, outputs, height: edge, width: edge });
    }
    println!("attention                           ms   GFLOP/s");
    for (heads, rows, columns, depth) in
        [(16, 4096, 4096, 40), (16, 1024, 1024, 80), (16, 4096, 77, 40), (1, 4096, 4096, 512), (64, 64, 64, 24)]
    {
        attention(heads, AttentionShape { rows, columns, depth, width: depth });
    }
}

fn convolution(shape: ConvShape) {
    let ConvShape { images, inputs, outputs, height, width } = shape;
    let (x, filters) = (wave(images * inputs * height * width), wave(outputs * inputs * 9));
    let mut y = vec![0.0; images * outputs * height * width];
    let kernel = Conv3x3::default();
    let best = best(|| kernel.run(shape, (&x, &filters, None), &mut y, &Serial));
    let flop = 2.0 * 9.0 * (images * inputs * outputs * height * width) as f64;
    let name = format!("{images} x {inputs} -> {outputs}, {height} x {width}");
    println!("{name:<32} {:7.1} {:9.0}", best * 1e3, flop / best / 1e9);
}

fn attention(heads: usize, shape: AttentionShape) {
    let AttentionShape { rows, columns, depth, width } = shape;
    let (q, k, v) = (wave(heads * rows * depth), wave(heads * depth * columns), wave(heads * columns * width));
    let mut output = vec![0.0; heads * rows * width];
    let numbers: Vec<[usize; 3]> = (0..heads).map(|head| [head; 3]).collect();
    let kernel = Attention::default();
    let best = best(|| kernel.run(shape, &numbers, [&q, &k, &v], 0.1, &mut output, &Serial));
    let flop = 2.0 * (heads * rows * columns * (depth + width)) as f64;
    let name = format!("{heads} heads, {rows} x {columns}, {depth}");
    println!("{name:<32} {:7.1} {:9.0}", best * 1e3, flop / best / 1e9);
}

/// Returns the seconds of the fastest of several runs.
fn best(mut work: impl FnMut()) -> f64 {
    let once = |_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    (0..RUNS).map(once).fold(f64::MAX, f64::min)
}

/// Values within ±1.
fn wave(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37).sin()).collect()
}
