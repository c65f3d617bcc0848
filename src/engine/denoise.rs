//! The denoising loop: images enter the lane pool while it has room, and leave it when they are done.

use super::limits::Network;
use super::networks::Unet;
use super::pool::{Departure, LanePool};
use super::start::Starter;
use super::{Counters, Pace};
use crate::plan::Bucket;

/// What the loop works with.
pub(super) struct Denoiser<'s, 'a> {
    pub(super) starter: &'s mut Starter<'a>,
    pub(super) unet: &'s mut dyn Unet,
    /// Lanes asked for.
    pub(super) lanes: usize,
    pub(super) counters: &'s Counters,
}

impl<'a> Denoiser<'_, 'a> {
    /// Denoises the images of one size; returns whether the run goes on.
    pub(super) fn denoise(
        &mut self,
        bucket: &'a Bucket,
        pace: &dyn Fn() -> Pace,
        emit: &dyn Fn(Departure) -> bool,
    ) -> bool {
        let (size, limits) = ((bucket.width, bucket.height), &self.counters.limits);
        let limit = limits.of(Network::Unet, size, self.lanes);
        let mut pool = LanePool::within(limit, self.unet.timestep_input());
        let mut waiting = bucket.tasks.as_slice();
        loop {
            let pace = pace();
            while pace == Pace::Go && pool.has_room() && !waiting.is_empty() {
                match self.starter.start(&mut waiting) {
                    Ok(member) => pool.admit(member),
                    Err((task, error)) => {
                        emit(Departure::Failed(task, error));
                    }
                }
            }
            if pace == Pace::Halt || pool.is_empty() {
                return pace == Pace::Go;
            }
            let step = pool.step(self.unet);
            self.counters.count(&step);
            limits.learn(Network::Unet, size, pool.limit(), step.too_many);
            if !step.departures.into_iter().all(emit) {
                return false;
            }
        }
    }
}
