//! The decoding thread: latents → pixels, while the UNet works on the next images.

use crossbeam_channel::{Receiver, Sender};
use ndarray::{Array3, Array4, Axis, s};

use super::networks::VaeDecoder;
use super::{Generated, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::pixels::to_rgb8;
use crate::recipe::LatentSpace;

/// Finished latents on their way to the decoder.
pub(super) type Denoised = (ImageTask, Array3<f32>);

/// Decodes what comes in, up to `batch` pictures of equal size a call, until the channel closes or nobody listens.
pub(super) fn decode_all(
    vae: &mut dyn VaeDecoder,
    space: &LatentSpace,
    batch: usize,
    denoised: &Receiver<Denoised>,
    outcomes: &Sender<Outcome>,
) {
    let mut held: Option<Denoised> = None;
    while let Some(first) = held.take().or_else(|| denoised.recv().ok()) {
        let (group, next) = gather(first, batch, denoised);
        held = next;
        for outcome in decode_group(vae, space, group) {
            if outcomes.send(outcome).is_err() {
                return;
            }
        }
    }
}

/// Collects what is already waiting and has the size of `first`; the first of another size is handed back.
fn gather(first: Denoised, batch: usize, denoised: &Receiver<Denoised>) -> (Vec<Denoised>, Option<Denoised>) {
    let mut group = vec![first];
    while group.len() < batch {
        match denoised.try_recv() {
            Ok(next) if next.1.dim() == group[0].1.dim() => group.push(next),
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

fn decode_group(vae: &mut dyn VaeDecoder, space: &LatentSpace, group: Vec<Denoised>) -> Vec<Outcome> {
    match decode(vae, space, &group) {
        Ok(decoded) => {
            group.into_iter().zip(decoded.axis_iter(Axis(0))).map(|((task, _), d)| picture(task, d)).collect()
        }
        Err(error) if group.len() == 1 => {
            let error =
                Error::new(ErrorKind::Row, "vae_failed", format!("the VAE decoder failed: {error}")).source(error);
            group.into_iter().map(|(task, _)| Outcome::Failed(task, error.again())).collect()
        }
        Err(_) => group.into_iter().flat_map(|one| decode_group(vae, space, vec![one])).collect(),
    }
}

fn decode(vae: &mut dyn VaeDecoder, space: &LatentSpace, group: &[Denoised]) -> Result<Array4<f32>> {
    let (channels, height, width) = group[0].1.dim();
    let mut latents = Array4::zeros((group.len(), channels, height, width));
    for (lane, (_, one)) in group.iter().enumerate() {
        latents.slice_mut(s![lane, .., .., ..]).assign(&space.denormalized(one.view()));
    }
    vae.decode(latents.view())
}

fn picture(task: ImageTask, decoded: ndarray::ArrayView3<'_, f32>) -> Outcome {
    match to_rgb8(decoded) {
        Some(image) => Outcome::Done(Generated { task, image }),
        None => {
            let error =
                Error::new(ErrorKind::Row, "not_a_number", "the decoded picture has values that are not numbers");
            Outcome::Failed(task, error.hint("an fp16 VAE overflows on some models: use an fp32 VAE decoder"))
        }
    }
}
