//! The decoding thread: latents → pixels, while the UNet works on the next images.

use crossbeam_channel::{Receiver, Sender};
use image::RgbImage;
use ndarray::{Array3, Array4, ArrayView3, Axis, s};

use super::calls::{Calls, call_all};
use super::gate::{Gate, Judged};
use super::limits::{Limits, Network};
use super::networks::VaeDecoder;
use super::{Generated, Outcome};
use crate::error::{Error, ErrorKind, OUT_OF_MEMORY, Result};
use crate::job::ImageTask;
use crate::pixels::to_rgb8;
use crate::recipe::LatentSpace;

/// Finished latents on their way to the decoder.
pub(super) type Denoised = (ImageTask, Array3<f32>);

/// What the decoder is told.
pub(super) enum ToDecoder {
    /// Latents to make a picture of.
    Latents(Denoised),
    /// No other picture can be made of an image that has one which is not good enough.
    Failed(ImageTask, Error),
}

/// What became of latents.
pub(super) enum Decoded {
    /// It was said: a picture, or an error.
    Settled(ImageTask),
    /// No decoder gives finite values for them.
    NotANumber(ImageTask),
    /// The picture is not good enough, and others may be tried.
    TooLow(ImageTask),
    /// The device is gone.
    Lost(Error),
}

/// The decoding thread.
pub(super) struct Decoder<'a> {
    pub(super) vae: &'a mut dyn VaeDecoder,
    /// Decodes what the first one overflows on.
    pub(super) fine_vae: Option<&'a mut dyn VaeDecoder>,
    /// Says whether a picture is good enough; without, all are.
    pub(super) gate: Option<Gate<'a>>,
    pub(super) space: &'a LatentSpace,
    /// Pictures per call, as far as memory allows.
    pub(super) batch: usize,
    pub(super) limits: &'a Limits,
    pub(super) outcomes: Sender<Outcome>,
    /// Goes back to the denoiser, which makes once more what is not a number.
    pub(super) decoded: Sender<Decoded>,
}

impl Decoder<'_> {
    /// Decodes what comes in, several pictures of equal size a call, until the channel closes or nobody listens.
    pub(super) fn decode_all(&mut self, denoised: &Receiver<ToDecoder>) {
        let mut held: Option<ToDecoder> = None;
        while let Some(first) = held.take().or_else(|| denoised.recv().ok()) {
            let first = match first {
                ToDecoder::Latents(first) => first,
                ToDecoder::Failed(task, error) => match self.fail(&task, error) {
                    true => continue,
                    false => return,
                },
            };
            let size = (first.0.job.width, first.0.job.height);
            let mut limit = self.limits.of(Network::VaeDecoder, size, self.batch);
            let (group, next) = gather(first, limit.now(), denoised);
            held = next;
            let mut calls = DecoderCalls { decoder: self, is_heard: true };
            let called = call_all(&mut calls, group, &mut limit);
            let is_heard = calls.is_heard;
            let too_many = match called {
                Ok((_, too_many)) => too_many,
                Err(error) => return self.tell(Decoded::Lost(error)),
            };
            if !is_heard {
                return;
            }
            self.limits.learn(Network::VaeDecoder, size, limit, too_many);
        }
    }

    /// Sends the picture that was decoded of latents on; returns whether anybody listens.
    ///
    /// # Errors
    /// Kind `GpuLost`: the device is gone.
    fn deliver(&mut self, (task, latents): &Denoised, decoded: ArrayView3<'_, f32>) -> Result<bool> {
        let Some(image) = to_rgb8(decoded).or_else(|| self.finely(latents)) else {
            self.tell(Decoded::NotANumber(task.clone()));
            return Ok(true);
        };
        let picture = Generated::new(task.clone(), image);
        let judged = match &mut self.gate {
            Some(gate) => gate.judge(picture),
            None => Ok(Judged::Kept(picture)),
        };
        match judged {
            Ok(Judged::Kept(picture)) => Ok(self.settle(task, Outcome::Done(picture))),
            Ok(Judged::Again) => {
                self.tell(Decoded::TooLow(task.clone()));
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::GpuLost => Err(error),
            Err(error) => Ok(self.fail(task, error)),
        }
    }

    /// Sends on that no picture can be made, or the best that there is; returns whether anybody listens.
    fn fail(&mut self, task: &ImageTask, error: Error) -> bool {
        let best = self.gate.as_mut().and_then(|gate| gate.give_up(task.ordinal));
        let outcome = best.map_or_else(|| Outcome::Failed(task.clone(), error), Outcome::Done);
        self.settle(task, outcome)
    }

    fn settle(&self, task: &ImageTask, outcome: Outcome) -> bool {
        self.tell(Decoded::Settled(task.clone()));
        self.outcomes.send(outcome).is_ok()
    }

    /// A denoiser that was stopped does not hear it, and need not.
    fn tell(&self, decoded: Decoded) {
        let _ = self.decoded.send(decoded);
    }

    /// Returns what the finer decoder gives for one picture's latents, if there is one and it gives numbers.
    fn finely(&mut self, latents: &Array3<f32>) -> Option<RgbImage> {
        let vae = self.fine_vae.as_deref_mut()?;
        let latents = self.space.denormalized(latents.view()).insert_axis(Axis(0));
        let decoded = vae.decode(latents.view());
        let decoded = decoded.inspect_err(|error| tracing::warn!("the float32 VAE decoder does not help: {error}"));
        to_rgb8(decoded.ok()?.index_axis(Axis(0), 0))
    }
}

/// Decodes latents of equal size in one call.
fn decode(vae: &mut dyn VaeDecoder, space: &LatentSpace, group: &[Denoised]) -> Result<Array4<f32>> {
    let (channels, height, width) = group[0].1.dim();
    let mut latents = Array4::zeros((group.len(), channels, height, width));
    for (lane, (_, one)) in group.iter().enumerate() {
        latents.slice_mut(s![lane, .., .., ..]).assign(&space.denormalized(one.view()));
    }
    vae.decode(latents.view())
}

/// The calls for one group of pictures.
struct DecoderCalls<'c, 'a> {
    decoder: &'c mut Decoder<'a>,
    /// Whether anybody takes the pictures.
    is_heard: bool,
}

impl Calls for DecoderCalls<'_, '_> {
    type Entry = Denoised;

    fn call(&mut self, entries: &[Denoised], _: usize) -> Result<()> {
        let decoded = decode(self.decoder.vae, self.decoder.space, entries)?;
        for (entry, decoded) in entries.iter().zip(decoded.axis_iter(Axis(0))) {
            self.is_heard &= self.decoder.deliver(entry, decoded)?;
        }
        Ok(())
    }

    fn give_up(&mut self, (task, _): Denoised, error: Error) {
        self.is_heard &= self.decoder.fail(&task, of_row(error));
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

/// Collects what is already waiting and has the size of `first`; the first that has not is handed back.
fn gather(first: Denoised, batch: usize, denoised: &Receiver<ToDecoder>) -> (Vec<Denoised>, Option<ToDecoder>) {
    let mut group = vec![first];
    while group.len() < batch {
        match denoised.try_recv() {
            Ok(ToDecoder::Latents(next)) if next.1.dim() == group[0].1.dim() => group.push(next),
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}
