//! Pictures as files, in the format that was asked for; every one carries its own parameters.
//!
//! Two forms of them are in each: as AUTOMATIC1111 writes them, where other tools look for them (PNG: a text called
//! `parameters`; JPEG and WebP: the EXIF tag UserComment), and our JSON, where nothing else is looked for (PNG: a text called
//! `nightshift`; JPEG: APP9 segments; WebP: a chunk `nsft`), so that a picture can be made again from itself.

use clap::ValueEnum;
use image::RgbImage;

use super::parameters::Parameters;
use super::{checksum, jpeg, png, webp};
use crate::error::Result;

/// Quality of JPEG files where nobody says it: hard to tell from the original.
const JPEG_QUALITY: u8 = 95;
/// Quality of WebP files where nobody says it.
const WEBP_QUALITY: u8 = 90;
/// The quality at which WebP files are lossless.
const LOSSLESS: u8 = 100;

/// Kinds of picture files, by their names on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ImageKind {
    /// Lossless.
    #[default]
    Png,
    /// Small, with losses.
    Jpeg,
    /// Smaller, with losses; lossless at quality 100.
    Webp,
}

/// How pictures are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// Lossless.
    #[default]
    Png,
    /// With all of the colours' resolution (4:4:4).
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
    /// Lossless at quality 100.
    Webp {
        /// 1 to 100.
        quality: u8,
    },
}

impl ImageFormat {
    /// Returns the format of files of `kind`; PNG has no quality.
    pub fn new(kind: ImageKind, quality: Option<u8>) -> Self {
        let quality = |default: u8| quality.unwrap_or(default).clamp(1, 100);
        match kind {
            ImageKind::Png => ImageFormat::Png,
            ImageKind::Jpeg => ImageFormat::Jpeg { quality: quality(JPEG_QUALITY) },
            ImageKind::Webp => ImageFormat::Webp { quality: quality(WEBP_QUALITY) },
        }
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ImageFormat::Png => "png",
            ImageFormat::Jpeg { .. } => "jpeg",
            ImageFormat::Webp { .. } => "webp",
        }
    }

    /// Returns its quality, where it has one.
    pub fn quality(self) -> Option<u8> {
        match self {
            ImageFormat::Png => None,
            ImageFormat::Jpeg { quality } | ImageFormat::Webp { quality } => Some(quality),
        }
    }

    /// Returns how names of its files end, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            ImageFormat::Png => "png",
            ImageFormat::Jpeg { .. } => "jpg",
            ImageFormat::Webp { .. } => "webp",
        }
    }

    /// Returns how many bytes a pixel of a photograph takes, about.
    pub fn bytes_per_pixel(self) -> f64 {
        match self {
            ImageFormat::Png => 1.6,
            ImageFormat::Webp { quality: LOSSLESS } => 1.2,
            ImageFormat::Jpeg { .. } => 0.6,
            ImageFormat::Webp { .. } => 0.3,
        }
    }
}

/// Returns `image` as a file that carries `parameters`. The same input gives the same bytes.
///
/// # Errors
/// Kind `Unexpected`: the image has no pixels, or more than the format takes.
pub fn encode(image: &RgbImage, parameters: &Parameters, format: ImageFormat) -> Result<Vec<u8>> {
    match format {
        ImageFormat::Png => png::encode(image, parameters),
        ImageFormat::Jpeg { quality } => jpeg::encode(image, parameters, quality),
        ImageFormat::Webp { quality: LOSSLESS } => webp::encode(image, parameters, None),
        ImageFormat::Webp { quality } => webp::encode(image, parameters, Some(quality)),
    }
}

/// Returns the parameters that [`encode`] put into a file, of whichever format; `None` if it carries none of ours, or is
/// damaged where they stand.
pub fn read_parameters(bytes: &[u8]) -> Option<Parameters> {
    match bytes {
        [0xff, 0xd8, ..] => serde_json::from_slice(&jpeg::our_json(bytes)?).ok(),
        [b'R', b'I', b'F', b'F', ..] => serde_json::from_slice(&webp::our_json(bytes)?).ok(),
        _ => png::read_parameters(bytes).ok().flatten(),
    }
}

/// Returns whether a file is, to the bit, one that [`encode`] made, by the checksums in it: those of PNG's chunks, and in other
/// formats one of ours. Decoders are more forgiving.
pub fn is_whole(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xd8, ..] | [b'R', b'I', b'F', b'F', ..] => checksum::is_right(bytes),
        _ => png::is_whole(bytes),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::parameters::tests::parameters;
    use super::*;

    const ALL: [ImageFormat; 5] = [
        ImageFormat::Png,
        ImageFormat::Jpeg { quality: 95 },
        ImageFormat::Jpeg { quality: 40 },
        ImageFormat::Webp { quality: 90 },
        ImageFormat::Webp { quality: 100 },
    ];

    /// Slopes, edges and some texture, as pictures have them.
    fn picture() -> RgbImage {
        RgbImage::from_fn(120, 88, |x, y| {
            let disc = u8::from((x as i32 - 60).pow(2) + (y as i32 - 40).pow(2) < 700) * 90;
            let grain = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) >> 7 & 7;
            image::Rgb([(x * 2) as u8, 40 + disc + grain as u8, (y * 2) as u8])
        })
    }

    fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
        assert_eq!(a.dimensions(), b.dimensions());
        let squares: f64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        20.0 * 255.0_f64.log10() - 10.0 * (squares / a.as_raw().len() as f64).log10()
    }

    fn decoded(bytes: &[u8]) -> RgbImage {
        image::load_from_memory(bytes).unwrap().into_rgb8()
    }

    fn prompts() -> Vec<String> {
        let plain = [
            "",
            "a red heart",
            "naïve café",
            "雪の上の赤い狐\n二行目 🦊, \"quoted\": yes",
            "a: b\nSteps: 1",
            "\u{1}\\",
        ];
        let long = ["a fox, ", "狐🦊"].map(|word| word.repeat(10_000 / word.len() + 1));
        plain.map(String::from).into_iter().chain(long).chain(["x\n".repeat(70_000)]).collect()
    }

    #[test]
    fn every_format_carries_the_parameters_of_its_picture() {
        for (prompt, format) in prompts().iter().flat_map(|prompt| ALL.map(|format| (prompt, format))) {
            let text = Parameters { prompt: prompt.clone(), negative_prompt: prompt.clone(), ..parameters() };
            let bytes = encode(&picture(), &text, format).unwrap();
            assert_eq!(read_parameters(&bytes), Some(text), "{format:?}");
            assert_eq!(decoded(&bytes).dimensions(), picture().dimensions(), "{format:?}");
        }
    }

    #[test]
    fn lossless_formats_keep_every_bit_and_the_others_what_is_seen() {
        for (format, least) in ALL.into_iter().zip([f64::INFINITY, 38.0, 28.0, 34.0, f64::INFINITY]) {
            let bytes = encode(&picture(), &parameters(), format).unwrap();
            let found = psnr(&decoded(&bytes), &picture());
            assert!(found >= least, "{format:?}: {found:.1} dB");
        }
    }

    #[test]
    fn the_same_picture_gives_the_same_bytes() {
        for format in ALL {
            let encoded = || encode(&picture(), &parameters(), format).unwrap();
            assert_eq!(encoded(), encoded(), "{format:?}");
            let other = Parameters { seed: 2, ..parameters() };
            assert_ne!(encoded(), encode(&picture(), &other, format).unwrap(), "{format:?}");
        }
    }

    #[test]
    fn every_bit_of_a_whole_file_counts() {
        let small = image::imageops::resize(&picture(), 16, 16, image::imageops::FilterType::Nearest);
        for format in ALL {
            let bytes = encode(&small, &parameters(), format).unwrap();
            assert!(is_whole(&bytes), "{format:?}");
            assert!(!is_whole(&bytes[..bytes.len() - 1]) && !is_whole(&[&bytes[..], b"x"].concat()), "{format:?}");
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_whole(&flipped), "{format:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn pictures_without_pixels_are_errors() {
        for format in ALL {
            assert!(encode(&RgbImage::new(0, 5), &parameters(), format).is_err(), "{format:?}");
        }
    }

    #[test]
    fn files_of_others_carry_none_of_ours() {
        for bytes in [&b""[..], b"\xff\xd8", b"RIFF", b"RIFF\x04\0\0\0WEBP", b"\x89PNG\r\n\x1a\n", b"words"] {
            assert_eq!(read_parameters(bytes), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn damaged_files_are_read_or_refused_but_never_panic(
            which in 0..ALL.len(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let small = image::imageops::resize(&picture(), 8, 8, image::imageops::FilterType::Nearest);
            let mut bytes = encode(&small, &parameters(), ALL[which]).unwrap();
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = read_parameters(&bytes);
        }

        #[test]
        fn bytes_of_any_kind_never_panic(which in 0..3, mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let start: &[u8] = [&b"\xff\xd8\xff\xe9"[..], b"RIFF\x40\0\0\0WEBPnsft", b"\x89PNG\r\n\x1a\n"][which as usize];
            bytes.splice(0..0, start.iter().copied());
            let _ = read_parameters(&bytes);
        }
    }
}
