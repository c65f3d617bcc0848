//! The decoding thread: latents → pixels, while the UNet works on the next images.

use crossbeam_channel::{Receiver, Sender};
use ndarray::{Array3, Array4, Axis, s};

use super::calls::{Calls, OUT_OF_MEMORY, call_all};
use super::limits::{Limits, Network};
use super::networks::VaeDecoder;
use super::{Generated, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::pixels::to_rgb8;
use crate::recipe::LatentSpace;

/// Finished latents on their way to the decoder.
pub(super) type Denoised = (ImageTask, Array3<f32>);

/// The decoding thread.
pub(super) struct Decoder<'a> {
    pub(super) vae: &'a mut dyn VaeDecoder,
    pub(super) space: &'a LatentSpace,
    /// Pictures per call, as far as memory allows.
    pub(super) batch: usize,
    pub(super) limits: &'a Limits,
    pub(super) outcomes: Sender<Outcome>,
}

impl Decoder<'_> {
    /// Decodes what comes in, several pictures of equal size a call, until the channel closes or nobody listens.
    pub(super) fn decode_all(&mut self, denoised: &Receiver<Denoised>) {
        let mut held: Option<Denoised> = None;
        while let Some(first) = held.take().or_else(|| denoised.recv().ok()) {
            let size = (first.0.job.width, first.0.job.height);
            let mut limit = self.limits.of(Network::VaeDecoder, size, self.batch);
            let (group, next) = gather(first, limit.now(), denoised);
            held = next;
            let mut calls = DecoderCalls { decoder: self, is_heard: true };
            let (_, too_many) = call_all(&mut calls, group, &mut limit);
            if !calls.is_heard {
                return;
            }
            self.limits.learn(Network::VaeDecoder, size, limit, too_many);
        }
    }

    fn decode(&mut self, group: &[Denoised]) -> Result<Array4<f32>> {
        let (channels, height, width) = group[0].1.dim();
        let mut latents = Array4::zeros((group.len(), channels, height, width));
        for (lane, (_, one)) in group.iter().enumerate() {
            latents.slice_mut(s![lane, .., .., ..]).assign(&self.space.denormalized(one.view()));
        }
        self.vae.decode(latents.view())
    }
}

/// The calls for one group of pictures.
struct DecoderCalls<'c, 'a> {
    decoder: &'c mut Decoder<'a>,
    /// Whether anybody takes the pictures.
    is_heard: bool,
}

impl Calls for DecoderCalls<'_, '_> {
    type Entry = Denoised;

    fn call(&mut self, entries: &[Denoised]) -> Result<()> {
        let decoded = self.decoder.decode(entries)?;
        for ((task, _), decoded) in entries.iter().zip(decoded.axis_iter(Axis(0))) {
            self.is_heard &= self.decoder.outcomes.send(picture(task.clone(), decoded)).is_ok();
        }
        Ok(())
    }

    fn give_up(&mut self, (task, _): Denoised, error: Error) {
        self.is_heard &= self.decoder.outcomes.send(Outcome::Failed(task, of_row(error))).is_ok();
    }

    fn is_wanted(&self, _: &Denoised) -> bool {
        self.is_heard
    }
}

/// Returns the error of a call that failed with one picture as that picture's.
fn of_row(error: Error) -> Error {
    if error.code() == OUT_OF_MEMORY {
        return error.with_kind(ErrorKind::Row).hint("make it smaller, or try `--vae-tiling on`");
    }
    Error::new(ErrorKind::Row, "vae_failed", format!("the VAE decoder failed: {error}")).source(error)
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
