//! Our tiled VAE against diffusers', bit for bit. `tests/golden/make_tile_goldens.py` made the data, and says how.

use std::fs;
use std::path::Path;

use ndarray::{Array4, ArrayView4};
use nightshift::engine::{TiledVae, Tiling, VaeDecoder};
use nightshift::error::Result;
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    /// The pixels of the second case.
    first: Vec<f32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sample_size: usize,
    levels: u32,
    height: usize,
    width: usize,
    decoded: u32,
    encoded: u32,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiles.json");
    serde_json::from_slice(&fs::read(path).expect("a golden file")).expect("valid JSON")
}

/// `drawn` of the script.
fn drawn(shape: (usize, usize, usize, usize)) -> Array4<f32> {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let numbers = (0..count).map(|i| (i * 7919 % 257) as f32 / 64.0 - 2.0).collect();
    Array4::from_shape_vec(shape, numbers).expect("as many numbers")
}

fn slope(y: usize, x: usize) -> f32 {
    y as f32 * 0.125 + x as f32 * 0.0625
}

/// `upsample` of the script.
struct Upsample(usize);

impl VaeDecoder for Upsample {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let (batch, channels, height, width) = latents.dim();
        Ok(Array4::from_shape_fn((batch, channels, height * self.0, width * self.0), |(n, c, y, x)| {
            latents[[n, c, y / self.0, x / self.0]] + slope(y, x)
        }))
    }
}

/// `downsample` of the script.
fn downsample(pixels: ArrayView4<'_, f32>, scale: usize) -> Array4<f32> {
    let (batch, channels, height, width) = pixels.dim();
    let shape = (batch, 2 * channels, height.div_ceil(scale), width.div_ceil(scale));
    Array4::from_shape_fn(shape, |(n, c, y, x)| {
        let value = pixels[[n, c % channels, y * scale, x * scale]];
        (if c < channels { value } else { -value }) + slope(y, x)
    })
}

fn crc(values: &Array4<f32>) -> u32 {
    crc32fast::hash(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

#[test]
fn tiles_are_joined_as_diffusers_joins_them() {
    let Goldens { first, cases } = goldens();
    assert!(cases.len() > 30);
    for (i, case) in cases.iter().enumerate() {
        let Case { sample_size, levels, height, width, .. } = *case;
        let tiling = Tiling::of_config(sample_size, levels).expect("valid");
        let scale = tiling.vae_scale_factor;
        let decoded = TiledVae { vae: &mut Upsample(scale), tiling }.decode(drawn((2, 3, height, width)).view());
        let decoded = decoded.expect("no error");
        if i == 1 {
            let differ = decoded.iter().zip(&first).position(|(ours, theirs)| ours != theirs);
            assert_eq!((differ, decoded.len()), (None, first.len()));
        }
        assert_eq!(decoded.dim(), (2, 3, height * scale, width * scale));
        assert_eq!(crc(&decoded), case.decoded, "{sample_size}, {levels}: decoding {height} × {width}");
        let pixels = drawn((1, 3, height * scale, width * scale));
        let encoded = tiling.encode(pixels.view(), &mut |tile| Ok(downsample(tile, scale))).expect("no error");
        assert_eq!(crc(&encoded), case.encoded, "{sample_size}, {levels}: encoding {height} × {width}");
    }
}
