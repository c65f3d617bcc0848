//! The denoising loop of one device: images enter the lane pool while it has room, and leave it when they are done.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::attempts::{Attempts, Spoilt};
use super::decode::{Decoded, ToDecoder};
use super::limits::{Network, Size};
use super::member::Member;
use super::networks::Unet;
use super::pool::{Departure, LanePool};
use super::start::Starter;
use super::work::{Next, Work};
use super::{Counters, Outcome, Pace, Settings};
use crate::error::{Error, ErrorKind};
use crate::job::ImageTask;

/// How long to wait for news before looking at the pace again.
const LOOK: Duration = Duration::from_millis(50);

/// What the loop works with.
pub(super) struct Denoiser<'s, 'a> {
    pub(super) starter: &'s mut Starter<'a>,
    pub(super) unet: &'s mut dyn Unet,
    /// How many lanes calls have.
    pub(super) settings: Settings,
    pub(super) counters: &'s Counters,
    /// Told of images before their first evaluation; where it says no, nothing more is made.
    pub(super) begin: &'s dyn Fn(&[ImageTask]) -> bool,
    /// Where images come from.
    pub(super) work: &'s Work<'a>,
    /// Images that were taken, and have not entered the pool.
    pub(super) waiting: VecDeque<&'a ImageTask>,
    /// Images that have.
    pub(super) attempts: Attempts<'a>,
    /// Latents go to the decoder …
    pub(super) to_decoder: Sender<ToDecoder>,
    /// … which says of each whether a picture came of it.
    pub(super) decoded: Receiver<Decoded>,
    pub(super) outcomes: &'s Sender<Outcome>,
}

/// Why the loop ended before all was done.
pub(super) enum Ended {
    /// The pace says so, or nobody waits for images any more.
    Stopped,
    /// The device is gone.
    Lost(Error),
}

type Result<T, E = Ended> = std::result::Result<T, E>;

impl<'a> Denoiser<'_, 'a> {
    /// Denoises what there is to do, and once more what comes out as no numbers, until all is known to be done.
    pub(super) fn denoise_all(&mut self, pace: &dyn Fn() -> Pace) -> Result<()> {
        while let Some(size) = self.next_size(pace)? {
            self.denoise(size, pace)?;
        }
        Ok(())
    }

    /// Denoises images of one size, and those of that size that are to be made once more, until none is left.
    fn denoise(&mut self, size: Size, pace: &dyn Fn() -> Pace) -> Result<()> {
        let limit = self.counters.limits.of(Network::Unet, size, self.settings.lanes_of(size));
        let mut pool = LanePool::within(limit, self.unet.timestep_input());
        loop {
            let (pace, mut entered) = (pace(), Vec::new());
            self.hear()?;
            while pace == Pace::Go && pool.has_room() {
                match self.start(size, &mut entered) {
                    Some(Ok(member)) => pool.admit(member),
                    Some(Err((task, error))) => self.fail(task, error)?,
                    None => break,
                }
            }
            if !entered.is_empty() && !(self.begin)(&entered) {
                return Err(Ended::Stopped);
            }
            if pace == Pace::Halt || pool.is_empty() {
                return if pace == Pace::Go { Ok(()) } else { Err(Ended::Stopped) };
            }
            let step = pool.step(self.unet).map_err(Ended::Lost)?;
            self.counters.count(&step);
            self.counters.limits.learn(Network::Unet, size, pool.limit(), step.too_many);
            step.departures.into_iter().try_for_each(|departure| self.see_off(departure))?;
        }
    }

    /// Returns the size of what is to be made next: of images that wait, else of those to be made once more. While none is
    /// there, waits for the decoder and for the other devices.
    fn next_size(&mut self, pace: &dyn Fn() -> Pace) -> Result<Option<Size>> {
        loop {
            self.hear()?;
            match self.work.next(!self.attempts.any()) {
                Next::Images(size) => return Ok(Some(size)),
                Next::Nothing => return Ok(None),
                Next::Later if self.attempts.size_to_repeat().is_some() => return Ok(self.attempts.size_to_repeat()),
                Next::Later if pace() != Pace::Go => return Err(Ended::Stopped),
                Next::Later if self.attempts.any_under_way() => match self.decoded.recv_timeout(LOOK) {
                    Ok(decoded) => self.note(decoded)?,
                    Err(_) => continue,
                },
                Next::Later => self.work.wait(LOOK),
            }
        }
    }

    /// Starts an image that is to be made once more, or else the next one, which it adds to `entered`; `None` if there is
    /// none.
    fn start(&mut self, size: Size, entered: &mut Vec<ImageTask>) -> Option<Result<Member, (ImageTask, Error)>> {
        if let Some((task, retry)) = self.attempts.take(size) {
            return Some(self.starter.start(task, retry));
        }
        if self.waiting.is_empty() {
            self.waiting.extend(self.work.take(size, !self.attempts.any()));
            self.starter.prepare(self.waiting.make_contiguous());
        }
        let task = self.waiting.pop_front()?;
        self.attempts.begin(task);
        entered.push(task.clone());
        Some(self.starter.start(task, 0))
    }

    /// Passes an image on that has left the pool.
    fn see_off(&mut self, departure: Departure) -> Result<()> {
        match departure {
            Departure::Denoised(task, latents) => self.hand_over(ToDecoder::Latents((task, latents))),
            Departure::NotANumber(task) => self.spoilt(task, Spoilt::Latents),
            Departure::Failed(task, error) => self.fail(task, error),
        }
    }

    fn hand_over(&mut self, image: ToDecoder) -> Result<()> {
        match self.to_decoder.send(image) {
            Ok(()) => Ok(()),
            // The decoder is gone: it has said why, or nobody takes its pictures.
            Err(_) => self.hear().and(Err(Ended::Stopped)),
        }
    }

    /// Takes in what the decoder has said.
    fn hear(&mut self) -> Result<()> {
        while let Ok(decoded) = self.decoded.try_recv() {
            self.note(decoded)?;
        }
        Ok(())
    }

    fn note(&mut self, decoded: Decoded) -> Result<()> {
        match decoded {
            Decoded::Settled(task) => self.settle(&task),
            Decoded::NotANumber(task) => self.spoilt(task, Spoilt::Picture)?,
            Decoded::TooLow(task) => self.retry(&task),
            Decoded::Lost(error) => return Err(Ended::Lost(error)),
        }
        Ok(())
    }

    fn spoilt(&mut self, task: ImageTask, what: Spoilt) -> Result<()> {
        if let Some(error) = self.attempts.spoilt(&task, what) {
            return self.fail(task, error);
        }
        tracing::debug!("{}: not a number, made once more", task.key());
        self.counters.repeated.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn retry(&mut self, task: &ImageTask) {
        tracing::debug!("{}: not good enough, made again with another seed", task.key());
        self.counters.retried.fetch_add(1, Ordering::Relaxed);
        self.attempts.retry(task);
    }

    /// Tells that an image cannot be made, unless that is the device's fault. Where only a better picture than the one that is
    /// there cannot be made, the decoder has that.
    fn fail(&mut self, task: ImageTask, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::GpuLost {
            return Err(Ended::Lost(error));
        }
        if self.attempts.has_picture(&task) {
            return self.hand_over(ToDecoder::Failed(task, error));
        }
        self.settle(&task);
        // Whoever no longer listens will not take the next latents either, which ends the loop.
        let _ = self.outcomes.send(Outcome::Failed(task, error));
        Ok(())
    }

    fn settle(&mut self, task: &ImageTask) {
        if self.attempts.settle(task) {
            self.work.settled();
        }
    }

    /// Gives back what is not settled, once the decoder has said all that it had to say.
    pub(super) fn give_back(mut self) {
        // The decoder ends once nothing can come any more.
        self.to_decoder = bounded(0).0;
        // That the device is lost is known.
        while let Ok(decoded) = self.decoded.recv() {
            let _ = self.note(decoded);
        }
        let mut tasks = self.attempts.unsettled();
        tasks.extend(self.waiting);
        for task in self.work.give_back(&tasks) {
            let _ = self.outcomes.send(Outcome::Failed(task.clone(), kills_devices()));
        }
    }
}

/// The code of an image that devices die of.
pub const KILLS_DEVICES: &str = "kills_devices";

fn kills_devices() -> Error {
    let message = "two devices were lost with this image under way, the second with nothing else";
    Error::new(ErrorKind::Row, KILLS_DEVICES, message)
        .hint("`nvidia-smi` and `dmesg` may say why; `--retry-failed` tries it again")
}
