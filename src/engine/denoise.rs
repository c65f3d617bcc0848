//! The denoising loop: images enter the lane pool while it has room, and leave it when they are done.

use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};

use super::attempts::{Attempts, Spoilt};
use super::decode::{Decoded, Denoised};
use super::limits::{Network, Size};
use super::member::Member;
use super::networks::Unet;
use super::pool::{Departure, LanePool};
use super::start::Starter;
use super::{Counters, Outcome, Pace};
use crate::error::Error;
use crate::job::ImageTask;
use crate::plan::Plan;

/// What the loop works with.
pub(super) struct Denoiser<'s, 'a> {
    pub(super) starter: &'s mut Starter<'a>,
    pub(super) unet: &'s mut dyn Unet,
    /// Lanes asked for.
    pub(super) lanes: usize,
    pub(super) counters: &'s Counters,
    /// Told of images before their first evaluation; where it says no, nothing more is made.
    pub(super) begin: &'s dyn Fn(&[ImageTask]) -> bool,
    pub(super) attempts: Attempts<'a>,
    /// Latents go to the decoder …
    pub(super) to_decoder: Sender<Denoised>,
    /// … which says of each whether a picture came of it.
    pub(super) decoded: Receiver<Decoded>,
    pub(super) outcomes: &'s Sender<Outcome>,
}

impl<'a> Denoiser<'_, 'a> {
    /// Denoises the images of `plan`, and once more those that come out as no numbers, until all are known to be done or
    /// `pace` stops it.
    pub(super) fn denoise_all(&mut self, plan: &'a Plan, pace: &dyn Fn() -> Pace) {
        let mut buckets = plan.buckets.iter();
        let mut goes_on = buckets.all(|bucket| self.denoise((bucket.width, bucket.height), &bucket.tasks, pace));
        while goes_on && let Some(size) = self.size_to_repeat() {
            goes_on = self.denoise(size, &[], pace);
        }
    }

    /// Denoises `waiting`, images of one size, and those of that size that are to be made once more; returns whether the run
    /// goes on.
    fn denoise(&mut self, size: Size, mut waiting: &'a [ImageTask], pace: &dyn Fn() -> Pace) -> bool {
        let limit = self.counters.limits.of(Network::Unet, size, self.lanes);
        let mut pool = LanePool::within(limit, self.unet.timestep_input());
        loop {
            let (pace, before) = (pace(), waiting);
            while let Ok(decoded) = self.decoded.try_recv() {
                self.note(decoded);
            }
            while pace == Pace::Go && pool.has_room() {
                match self.start(size, &mut waiting) {
                    Some(Ok(member)) => pool.admit(member),
                    Some(Err((task, error))) => self.fail(task, error),
                    None => break,
                }
            }
            let entered = &before[..before.len() - waiting.len()];
            if !entered.is_empty() && !(self.begin)(entered) {
                return false;
            }
            if pace == Pace::Halt || pool.is_empty() {
                return pace == Pace::Go;
            }
            let step = pool.step(self.unet);
            self.counters.count(&step);
            self.counters.limits.learn(Network::Unet, size, pool.limit(), step.too_many);
            if !step.departures.into_iter().all(|departure| self.see_off(departure)) {
                return false;
            }
        }
    }

    /// Starts an image that is to be made once more, or else the next one; `None` if there is none.
    fn start(&mut self, size: Size, waiting: &mut &'a [ImageTask]) -> Option<Result<Member, (ImageTask, Error)>> {
        if let Some(task) = self.attempts.take(size) {
            return Some(self.starter.start_alone(task));
        }
        self.attempts.begin(waiting.first()?);
        Some(self.starter.start(waiting))
    }

    /// Passes an image on that has left the pool; returns whether anybody still waits for images.
    fn see_off(&mut self, departure: Departure) -> bool {
        match departure {
            Departure::Denoised(task, latents) => return self.to_decoder.send((task, latents)).is_ok(),
            Departure::NotANumber(task) => self.spoilt(task, Spoilt::Latents),
            Departure::Failed(task, error) => self.fail(task, error),
        }
        true
    }

    fn note(&mut self, decoded: Decoded) {
        match decoded {
            Decoded::Settled(task) => self.attempts.settle(&task),
            Decoded::NotANumber(task) => self.spoilt(task, Spoilt::Picture),
        }
    }

    fn spoilt(&mut self, task: ImageTask, what: Spoilt) {
        match self.attempts.spoilt(&task, what) {
            Some(error) => self.fail(task, error),
            None => {
                tracing::debug!("{}: not a number, made once more", task.key());
                self.counters.repeated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn fail(&mut self, task: ImageTask, error: Error) {
        self.attempts.settle(&task);
        // Whoever no longer listens will not take the next latents either, which ends the loop.
        let _ = self.outcomes.send(Outcome::Failed(task, error));
    }

    /// Waits for the decoder until an image is to be made once more, and returns its size; `None` once all are settled.
    fn size_to_repeat(&mut self) -> Option<Size> {
        while self.attempts.size_to_repeat().is_none() && self.attempts.any_under_way() {
            let decoded = self.decoded.recv().ok()?;
            self.note(decoded);
        }
        self.attempts.size_to_repeat()
    }
}
