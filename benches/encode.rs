//! Encoding and writing alone: pictures of 512x512 in every format, as a run writes them, whole and synced.
//!
//! `cargo bench --bench encode -- PIXELS FOLDER` reads RGB bytes of such pictures from the file PIXELS, writes into FOLDER, and
//! prints a JSON object a format: seconds to encode all, seconds to encode and write all, bytes. `benches/encoding.py` calls
//! it beside Pillow. Encoding takes as many threads as `RAYON_NUM_THREADS` says.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to say")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use image::RgbImage;
use nightshift::output::picture::encode;
use nightshift::output::{Durable, ImageFormat, Parameters, WholeFile};
use rayon::prelude::*;

const SIDE: u32 = 512;
const FORMATS: [(&str, ImageFormat); 4] = [
    ("png", ImageFormat::Png),
    ("jpeg 95", ImageFormat::Jpeg { quality: 95 }),
    ("webp 90", ImageFormat::Webp { quality: 90 }),
    ("webp lossless", ImageFormat::Webp { quality: 100 }),
];

/// What a picture says of itself.
fn parameters() -> Parameters {
    let text = serde_json::json!({
        "prompt": "a photo of an astronaut riding a horse on mars", "negative_prompt": "", "seed": 1, "scheduler": "euler",
        "sampler": "Euler", "num_inference_steps": 20, "guidance_scale": 7.5, "guidance_rescale": 0.0, "eta": 0.0,
        "width": SIDE, "height": SIDE, "noise": "torch-cpu", "model": "sd15", "model_hash": "0123456789abcdef",
        "version": env!("CARGO_PKG_VERSION")
    });
    serde_json::from_value(text).unwrap()
}

fn pictures(path: &Path) -> Vec<RgbImage> {
    let bytes = std::fs::read(path).unwrap();
    let one = (SIDE * SIDE * 3) as usize;
    bytes.chunks_exact(one).map(|pixels| RgbImage::from_raw(SIDE, SIDE, pixels.to_vec()).unwrap()).collect()
}

/// Encodes all pictures, on all threads.
fn encode_all(pictures: &[RgbImage], format: ImageFormat) -> Vec<Vec<u8>> {
    let parameters = parameters();
    pictures.par_iter().map(|picture| encode(picture, &parameters, format).unwrap()).collect()
}

/// Writes them as a run does.
fn write_all(encoded: &[Vec<u8>], folder: &Path, extension: &str) {
    let path = |i: usize| folder.join(format!("{i:04}.{extension}"));
    let files: Vec<_> = encoded.iter().enumerate().map(|(i, bytes)| WholeFile { path: path(i), bytes }).collect();
    Durable::default().commit(&files).unwrap();
}

fn main() {
    let paths: Vec<PathBuf> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(PathBuf::from).collect();
    // `cargo test` runs benchmarks without arguments: nothing is timed in tests.
    let [pixels, folder] = &paths[..] else { return };
    let pictures = pictures(pixels);
    encode_all(&pictures, ImageFormat::Png);
    for (name, format) in FORMATS {
        let began = Instant::now();
        let encoded = encode_all(&pictures, format);
        let encoding = began.elapsed().as_secs_f64();
        write_all(&encoded, &folder.join(format.extension()), format.extension());
        let both = began.elapsed().as_secs_f64();
        let bytes: usize = encoded.iter().map(Vec::len).sum();
        println!("{}", serde_json::json!({ "format": name, "encode": encoding, "both": both, "bytes": bytes }));
    }
}
