//! The lane pool: every UNet call is filled with whatever images need an evaluation, each at its own step.
//!
//! A lane is one entry of the UNet's batch axis. An image asks for two lanes while classifier-free guidance is on, else
//! for one, evaluation by evaluation; they may fall into different calls. Nothing an image computes depends on its neighbours, so its bits are
//! the same for any number of lanes and any order, as far as the network itself is batch-invariant.

use std::collections::VecDeque;
use std::ops::Range;

use ndarray::{Array3, Array4, ArrayView3, Axis};

use super::call::{Call, Conditions};
use super::calls::{Calls, call_all};
use super::limit::CallLimit;
use super::member::{Depth, Member};
use super::networks::{TimestepInput, Unet};
use crate::error::{Error, ErrorKind, OUT_OF_MEMORY, Result};
use crate::job::ImageTask;

/// One lane's worth of work: which member, and which of its lanes.
#[derive(Debug, Clone, Copy)]
struct LaneRequest {
    slot: usize,
    lane: usize,
}

/// What lanes must have in common to share a call: the number of tokens, how much of the network they take, and the timestep
/// where the graph takes only one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CallKey {
    sequence: usize,
    depth: Depth,
    timestep: Option<f64>,
}

/// An image that leaves the pool.
pub enum Departure {
    /// Its final latents `[channels, h, w]`, still multiplied by `scaling_factor`.
    Denoised(ImageTask, Array3<f32>),
    /// A prediction or the final latents hold values that are not finite.
    NotANumber(ImageTask),
    /// The network failed on it alone.
    Failed(ImageTask, Error),
}

/// What one step of the pool did.
pub struct Step {
    /// The images that are finished after it.
    pub departures: Vec<Departure>,
    /// UNet calls.
    pub calls: u64,
    /// Lanes used in them.
    pub used: usize,
    /// Lanes that there were in them.
    pub offered: usize,
    /// Lanes that were too many for the memory at hand, if any were: the limit is lower from now on.
    pub too_many: Option<usize>,
}

/// What a call gave: predictions, and what is kept of the inner blocks, both one a lane.
struct Predicted {
    output: Array4<f32>,
    features: Option<Array4<f32>>,
}

/// See the module's text.
pub struct LanePool {
    limit: CallLimit,
    /// The tensors of the last call, as far as another may need them again.
    last: Option<(Vec<Conditions>, Call)>,
    timestep_input: TimestepInput,
    members: Vec<Option<Member>>,
    queue: VecDeque<LaneRequest>,
}

impl LanePool {
    /// Returns an empty pool of `lanes` lanes, at least one.
    pub fn new(lanes: usize, timestep_input: TimestepInput) -> Self {
        LanePool::within(CallLimit::new(lanes), timestep_input)
    }

    /// Returns an empty pool whose calls are as large as `limit` allows.
    pub fn within(limit: CallLimit, timestep_input: TimestepInput) -> Self {
        LanePool { limit, timestep_input, members: Vec::new(), queue: VecDeque::new(), last: None }
    }

    /// Returns how large calls may be, as far as the pool has found out.
    pub fn limit(&self) -> CallLimit {
        self.limit
    }

    /// Returns whether the next call would leave a lane empty.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.limit.now()
    }

    /// Returns whether no image is in the pool.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes an image in. One with nothing to evaluate leaves with the next step.
    pub fn admit(&mut self, member: Member) {
        let slot = self.members.iter().position(Option::is_none).unwrap_or(self.members.len());
        if slot == self.members.len() {
            self.members.push(None);
        }
        self.enqueue(slot, member.lanes_now());
        self.members[slot] = Some(member);
    }

    /// Advances as many lanes as a UNet call may have: in one call, or in several where that one fails.
    ///
    /// # Errors
    /// Kind `GpuLost`: the device is gone; the pool is of no more use.
    pub fn step(&mut self, unet: &mut dyn Unet) -> Result<Step> {
        let requests = self.take_requests();
        let (used, mut limit) = (requests.len(), self.limit);
        let mut calls = PoolCalls { pool: self, unet, departures: Vec::new() };
        let (made, too_many) = call_all(&mut calls, requests, &mut limit)?;
        let departures = calls.departures;
        self.limit = limit;
        Ok(Step { departures, calls: made, used, offered: limit.now().max(used), too_many })
    }

    fn enqueue(&mut self, slot: usize, lanes: Range<usize>) {
        self.queue.extend(lanes.map(|lane| LaneRequest { slot, lane }));
    }

    /// Takes the lanes of the next call from the queue, first come first served among those that may share it: the ones
    /// with the key that most of them have.
    fn take_requests(&mut self) -> Vec<LaneRequest> {
        let key = self.commonest_key();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for request in std::mem::take(&mut self.queue) {
            let fits = taken.len() < self.limit.now() && self.key(request) == key;
            if fits { taken.push(request) } else { left.push_back(request) }
        }
        self.queue = left;
        taken
    }

    fn commonest_key(&self) -> CallKey {
        let mut counts: Vec<(CallKey, usize)> = Vec::new();
        for key in self.queue.iter().map(|request| self.key(*request)) {
            match counts.iter_mut().find(|(other, _)| *other == key) {
                Some((_, count)) => *count += 1,
                None => counts.push((key, 1)),
            }
        }
        let most = counts.iter().map(|(_, count)| *count).max();
        let found = counts.into_iter().find(|(_, count)| Some(*count) == most);
        found.map_or(CallKey { sequence: 0, depth: Depth::Plain, timestep: None }, |(key, _)| key)
    }

    fn key(&self, request: LaneRequest) -> CallKey {
        let member = self.member(request.slot);
        let timestep = (self.timestep_input == TimestepInput::Shared).then(|| member.eval().timestep);
        let sequence = member.lanes[request.lane].embeds.hidden_states.nrows();
        CallKey { sequence, depth: member.depth(), timestep }
    }

    fn member(&self, slot: usize) -> &Member {
        self.members[slot].as_ref().expect("a queued lane's member is in its slot")
    }

    /// Makes one call of `size` lanes, all of one depth; the last request fills up.
    fn predict(&mut self, unet: &mut dyn Unet, requests: &[LaneRequest], size: usize) -> Result<Predicted> {
        let first = requests.first().expect("a call has a lane");
        match self.member(first.slot).depth() {
            Depth::Plain => Ok(Predicted { output: self.predict_plain(unet, requests, size)?, features: None }),
            depth => self.predict_cached(unet, requests, size, depth),
        }
    }

    /// Makes one call of which something is kept, or that takes what was.
    fn predict_cached(
        &mut self,
        unet: &mut dyn Unet,
        requests: &[LaneRequest],
        size: usize,
        depth: Depth,
    ) -> Result<Predicted> {
        // The device has other inputs after this.
        self.last = None;
        let lanes = filled_up(requests, size);
        let call = self.put_together(&lanes);
        if depth == Depth::Deep {
            let (output, features) = unet.predict_deep(call.inputs())?;
            return Ok(Predicted { output, features: Some(features) });
        }
        let kept = |request: &LaneRequest| self.member(request.slot).features(request.lane);
        let kept: Vec<_> = lanes.iter().filter_map(kept).collect();
        let features = ndarray::stack(Axis(0), &kept).expect("lanes of one size keep features of one size");
        Ok(Predicted { output: unet.predict_shallow(call.inputs(), features.view())?, features: None })
    }

    /// Makes one call of the whole network. While the same lanes come again, only what changes from step to step is put
    /// together anew.
    fn predict_plain(&mut self, unet: &mut dyn Unet, requests: &[LaneRequest], size: usize) -> Result<Array4<f32>> {
        let lanes = filled_up(requests, size);
        let of = |request: &LaneRequest| Conditions::of(self.member(request.slot), request.lane);
        let conditions: Vec<_> = lanes.iter().map(of).collect();
        let last = self.last.take();
        let last = last.filter(|(last, call)| *last == conditions && call.fits(self.member(lanes[0].slot)));
        let is_again = last.is_some();
        let call = match last {
            Some((_, mut call)) => {
                self.put_samples(&mut call, &lanes);
                call
            }
            None => self.put_together(&lanes),
        };
        let output = if is_again { unet.predict_again(call.inputs()) } else { unet.predict(call.inputs()) };
        // After a failure nobody knows what the device still has.
        self.last = output.is_ok().then_some((conditions, call));
        output
    }

    /// Returns the tensors of a call with these lanes.
    fn put_together(&self, lanes: &[LaneRequest]) -> Call {
        let mut call = Call::for_lanes_like(self.member(lanes[0].slot), lanes.len());
        for (at, request) in lanes.iter().enumerate() {
            call.set_conditions(at, self.member(request.slot), request.lane);
        }
        self.put_samples(&mut call, lanes);
        call
    }

    /// Puts what changes from step to step into the tensors of a call with these lanes.
    fn put_samples(&self, call: &mut Call, lanes: &[LaneRequest]) {
        for (at, request) in lanes.iter().enumerate() {
            call.set(at, self.member(request.slot), request.lane);
        }
    }

    fn deliver(&mut self, requests: &[LaneRequest], predicted: &Predicted, departures: &mut Vec<Departure>) {
        for (at, (request, output)) in requests.iter().zip(predicted.output.axis_iter(Axis(0))).enumerate() {
            if let (Some(features), Some(member)) = (&predicted.features, &mut self.members[request.slot]) {
                member.keep(request.lane, features.index_axis(Axis(0), at).to_owned());
            }
            self.deliver_one(*request, output, departures);
        }
    }

    fn deliver_one(&mut self, request: LaneRequest, output: ArrayView3<'_, f32>, departures: &mut Vec<Departure>) {
        // An image that has just left may have had another lane in the same call.
        let Some(member) = self.members[request.slot].as_mut() else { return };
        // Nothing that is not a number ever becomes one again, but some samplers clip it.
        if !is_finite(output) {
            departures.extend(self.remove(request.slot).map(|member| Departure::NotANumber(member.task)));
        } else if member.receive(request.lane, output.to_owned()) {
            self.go_on(request.slot, departures);
        }
    }

    /// An image has all of its predictions: it queues for the next ones, or leaves.
    fn go_on(&mut self, slot: usize, departures: &mut Vec<Departure>) {
        let member = self.member(slot);
        let lanes = member.lanes_now();
        if !member.is_done() {
            self.enqueue(slot, lanes);
        } else if let Some(member) = self.members[slot].take() {
            let latents = member.latents().to_owned();
            departures.push(match is_finite(latents.view()) {
                true => Departure::Denoised(member.task, latents),
                false => Departure::NotANumber(member.task),
            });
        }
    }

    /// Takes an image out, and its lanes from the queue.
    fn remove(&mut self, slot: usize) -> Option<Member> {
        self.queue.retain(|request| request.slot != slot);
        self.members[slot].take()
    }
}

/// Returns `size` lanes: those asked for, and the last of them again and again.
fn filled_up(requests: &[LaneRequest], size: usize) -> Vec<LaneRequest> {
    let last_one = requests.last().expect("a call has a lane");
    (0..size).map(|lane| *requests.get(lane).unwrap_or(last_one)).collect()
}

fn is_finite(values: ArrayView3<'_, f32>) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// Returns the error of a call that failed with one lane as its image's.
fn of_row(error: Error) -> Error {
    if error.code() == OUT_OF_MEMORY {
        return error.with_kind(ErrorKind::Row).hint("make it smaller, or on a device with more memory");
    }
    Error::new(ErrorKind::Row, "unet_failed", format!("the UNet failed: {error}")).source(error)
}

/// The calls of one step.
struct PoolCalls<'p> {
    pool: &'p mut LanePool,
    unet: &'p mut dyn Unet,
    departures: Vec<Departure>,
}

impl Calls for PoolCalls<'_> {
    type Entry = LaneRequest;

    fn is_fixed(&self) -> bool {
        self.unet.wants_fixed_lanes()
    }

    fn call(&mut self, entries: &[LaneRequest], size: usize) -> Result<()> {
        let outputs = self.pool.predict(self.unet, entries, size)?;
        self.pool.deliver(entries, &outputs, &mut self.departures);
        Ok(())
    }

    fn give_up(&mut self, entry: LaneRequest, error: Error) {
        let member = self.pool.remove(entry.slot);
        self.departures.extend(member.map(|member| Departure::Failed(member.task, of_row(error))));
    }

    fn is_wanted(&self, entry: &LaneRequest) -> bool {
        self.pool.members[entry.slot].is_some()
    }
}
