//! Our reading and resampling of pictures against Pillow's and diffusers', bit for bit.
//!
//! `tests/golden/make_pixel_goldens.py` made the data, and says how.

use std::fs;
use std::path::Path;

use image::RgbImage;
use nightshift::pixels::{Filter, masked, nearest, picture_size, preprocess_image, preprocess_mask, read_rgb, resize};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    modes: Vec<Mode>,
    jpegs: Vec<Jpeg>,
    resized: Vec<Resized>,
    /// The pixels of `noise.png` at 4 × 6.
    small: String,
    tensors: Vec<Tensors>,
}

#[derive(Deserialize)]
struct Mode {
    name: String,
    size: (u32, u32),
    pixels: String,
}

#[derive(Deserialize)]
struct Jpeg {
    name: String,
    size: (u32, u32),
    crc: u32,
}

#[derive(Deserialize)]
struct Resized {
    size: (u32, u32),
    crc: u32,
}

#[derive(Deserialize)]
struct Tensors {
    size: (u32, u32),
    image: u32,
    mask: u32,
    masked: u32,
    /// Width, height, CRC.
    nearest: Vec<(usize, usize, u32)>,
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pixels").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn goldens() -> Goldens {
    serde_json::from_slice(&golden("cases.json")).expect("valid JSON")
}

fn picture(name: &str) -> RgbImage {
    read_rgb(&golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn hex(image: &RgbImage) -> String {
    image.as_raw().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn crc<'a>(values: impl IntoIterator<Item = &'a f32>) -> u32 {
    let bytes: Vec<u8> = values.into_iter().flat_map(|value| value.to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}

#[test]
fn every_kind_of_png_is_read_as_pillow_reads_it() {
    let modes = goldens().modes;
    assert!(modes.len() > 20);
    for mode in modes {
        let ours = picture(&format!("modes/{}.png", mode.name));
        assert_eq!(ours.dimensions(), mode.size, "{}", mode.name);
        assert_eq!(hex(&ours), mode.pixels, "{}", mode.name);
    }
}

#[test]
fn every_kind_of_jpeg_is_read_as_pillow_reads_it() {
    let jpegs = goldens().jpegs;
    assert!(jpegs.len() > 20);
    for Jpeg { name, size, crc } in jpegs {
        let bytes = golden(&format!("jpegs/{name}.jpg"));
        let ours = picture(&format!("jpegs/{name}.jpg"));
        assert_eq!(ours.dimensions(), size, "{name}");
        assert_eq!(picture_size(&bytes).expect("a picture"), size, "{name}");
        assert_eq!(crc32fast::hash(ours.as_raw()), crc, "{name}");
        // Half a file is an error for Pillow too, never half a picture.
        assert_eq!(read_rgb(&bytes[..bytes.len() / 2]).expect_err("half a file").code(), "bad_image", "{name}");
    }
}

#[test]
fn lanczos_is_pillows() {
    let (noise, goldens) = (picture("noise.png"), goldens());
    assert_eq!(hex(&resize(&noise, 4, 6, Filter::Lanczos)), goldens.small);
    for Resized { size: (width, height), crc } in goldens.resized {
        assert_eq!(crc32fast::hash(resize(&noise, width, height, Filter::Lanczos).as_raw()), crc, "{width} × {height}");
    }
}

#[test]
fn tensors_are_those_of_diffusers() {
    let noise = picture("noise.png");
    for Tensors { size: (width, height), image, mask, masked: hidden, nearest: small } in goldens().tensors {
        let ours = preprocess_image(&noise, width, height);
        let our_mask = preprocess_mask(&noise, width, height);
        assert_eq!(crc(&ours), image, "image {width} × {height}");
        assert_eq!(crc(&our_mask), mask, "mask {width} × {height}");
        assert_eq!(crc(&masked(&ours, our_mask.view())), hidden, "masked image {width} × {height}");
        for (columns, rows, expected) in small {
            assert_eq!(crc(&nearest(our_mask.view(), rows, columns)), expected, "mask at {columns} × {rows}");
        }
    }
}
