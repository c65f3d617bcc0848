//! `--lanes auto`: on a processor from the size of pictures, on a GPU by measuring, once an output folder.

use super::probing::{cells_of, unet_entry_of};
use super::remembered::Remembered;
use crate::engine::{Measured, TextEncoder, VaeDecoder, find_lanes, time_unet};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::onnx::{Device, Networks};

/// Lanes where nobody measures: TensorRT builds an engine, in minutes, for every number of lanes.
const UNMEASURED: usize = 16;

/// Returns the lanes that a run starts from before it has measured any.
pub(super) fn unmeasured_lanes(device: Device) -> usize {
    if device == Device::Cpu { MOST_ON_CPU } else { UNMEASURED }
}

/// Lanes of a call on a CPU, at most: more gain nothing.
const MOST_ON_CPU: usize = 16;

/// Pixels that the lanes of a call on a CPU make up together: two pictures of 512×512, eight of 256×256. Larger calls cost memory;
/// smaller ones read all weights for less (Stable Diffusion 1.5 at 256×256: 8 lanes took three quarters of the time of 2).
pub(super) const PIXELS_ON_CPU: u64 = 2 * 512 * 512;

/// Bytes of a model that every worker may have to itself.
const SMALL_MODEL: u64 = 64 << 20;
/// Images for which one more worker pays: some full calls each.
const IMAGES_A_WORKER: usize = 4 * MOST_ON_CPU;
/// Workers that share a processor, at most: each has memory for its own calls.
const MOST_WORKERS: usize = 8;

/// Returns how many workers share the `threads` of a processor, for a model of `bytes` and so many `images`. The operations of a small
/// model are over before a second thread has begun to help, and two calls side by side keep two cores busy all the time (200 rows of the
/// model that ships, two cores: about four fifths of the time). A large model would only take its memory twice.
pub(super) fn workers_on_cpu(threads: usize, bytes: u64, images: usize) -> usize {
    let most = if bytes <= SMALL_MODEL { MOST_WORKERS } else { 1 };
    threads.min(most).min(images / IMAGES_A_WORKER).max(1)
}

/// Returns the lanes that pay for pictures of `size` pixels: those that an earlier run found, else found by trying.
///
/// # Errors
/// Not even the fewest lanes work.
pub(super) fn measured_lanes(
    networks: &mut Networks,
    spec: &ModelSpec,
    size: (u32, u32),
    remembered: &Remembered<'_>,
) -> Result<usize> {
    if let Some(lanes) = remembered.lanes(size) {
        return Ok(lanes);
    }
    let cells = cells_of(spec, size);
    // What the others take for themselves is not there for the UNet.
    for (encoder, text) in networks.text_encoders.iter_mut().zip(&spec.texts) {
        encoder.encode(ndarray::Array2::zeros((1, text.model_max_length)).view(), 0)?;
    }
    networks.vae_decoder.decode(ndarray::Array4::zeros((1, spec.recipe.latents.channels, cells.0, cells.1)).view())?;
    let entry = unet_entry_of(spec, cells);
    let measured = find_lanes(&mut |lanes| time_unet(&mut networks.unet, entry, lanes))?;
    let lanes = measured.last().map_or(UNMEASURED, |last| last.lanes);
    tracing::info!("{} lanes a call for pictures of {}x{}: {}", lanes, size.0, size.1, told(&measured));
    remembered.note_lanes(size, lanes);
    Ok(lanes)
}

fn told(measured: &[Measured]) -> String {
    let tell = |one: &Measured| format!("{} lanes {:.1}/s", one.lanes, one.rate());
    measured.iter().map(tell).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Settings;

    #[test]
    fn small_pictures_get_more_lanes_on_a_processor() {
        let (lanes, pixels) = (unmeasured_lanes(Device::Cpu), Some(PIXELS_ON_CPU));
        let settings = Settings { lanes, pixels, vae_batch: 1 };
        let sizes = [(64, 64), (256, 256), (512, 512), (1024, 1024)];
        assert_eq!(sizes.map(|size| settings.lanes_of(size)), [16, 8, 2, 2]);
        assert_eq!(unmeasured_lanes(Device::TensorRt(0)), UNMEASURED);
    }

    #[test]
    fn a_small_model_with_many_images_gets_several_workers() {
        let many = 1_000_000;
        assert_eq!([1, 2, 6, 64].map(|threads| workers_on_cpu(threads, SMALL_MODEL, many)), [1, 2, 6, 8]);
        assert_eq!([0, 127, 128, 200].map(|images| workers_on_cpu(8, SMALL_MODEL, images)), [1, 1, 2, 3]);
        assert_eq!(workers_on_cpu(8, SMALL_MODEL + 1, many), 1);
    }
}
