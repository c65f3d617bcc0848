//! The lane pool: every UNet call is filled with whatever images need an evaluation, each at its own step.
//!
//! A lane is one entry of the UNet's batch axis. An image asks for two lanes while classifier-free guidance is on, else
//! for one; they may fall into different calls. Nothing an image computes depends on its neighbours, so its bits are
//! the same for any number of lanes and any order, as far as the network itself is batch-invariant.

use std::collections::VecDeque;

use ndarray::{Array3, Array4, ArrayView3, Axis};

use super::call::Call;
use super::member::Member;
use super::networks::{TimestepInput, Unet};
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;

/// One lane's worth of work: which member, and which of its lanes.
#[derive(Debug, Clone, Copy)]
struct LaneRequest {
    slot: usize,
    lane: usize,
}

/// What lanes must have in common to share a call: the number of tokens, and the timestep where the graph takes only one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CallKey {
    sequence: usize,
    timestep: Option<f64>,
}

/// An image that leaves the pool.
pub enum Departure {
    /// Its final latents `[channels, h, w]`, still multiplied by `scaling_factor`.
    Denoised(ImageTask, Array3<f32>),
    /// The network failed on it alone.
    Failed(ImageTask, Error),
}

/// See the module's text.
pub struct LanePool {
    lanes: usize,
    timestep_input: TimestepInput,
    members: Vec<Option<Member>>,
    queue: VecDeque<LaneRequest>,
}

impl LanePool {
    /// Returns an empty pool of `lanes` lanes, at least one.
    pub fn new(lanes: usize, timestep_input: TimestepInput) -> Self {
        LanePool { lanes: lanes.max(1), timestep_input, members: Vec::new(), queue: VecDeque::new() }
    }

    /// Returns whether the next call would leave a lane empty.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.lanes
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
        self.enqueue(slot, member.lanes.len());
        self.members[slot] = Some(member);
    }

    /// Makes one UNet call of up to `lanes` lanes, and returns the images that are finished after it and the number of
    /// lanes that were used.
    pub fn step(&mut self, unet: &mut dyn Unet) -> (Vec<Departure>, usize) {
        let requests = self.take_requests();
        let mut departures = Vec::new();
        match self.predict(unet, &requests) {
            Ok(outputs) => self.deliver(&requests, outputs, &mut departures),
            Err(_) if requests.len() > 1 => self.step_one_by_one(unet, &requests, &mut departures),
            Err(error) => self.expel(requests[0].slot, error, &mut departures),
        }
        (departures, requests.len())
    }

    fn enqueue(&mut self, slot: usize, lanes: usize) {
        self.queue.extend((0..lanes).map(|lane| LaneRequest { slot, lane }));
    }

    /// Takes the lanes of the next call from the queue, first come first served among those that may share it: the ones
    /// with the key that most of them have.
    fn take_requests(&mut self) -> Vec<LaneRequest> {
        let key = self.commonest_key();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for request in std::mem::take(&mut self.queue) {
            let fits = taken.len() < self.lanes && self.key(request) == key;
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
        found.map_or(CallKey { sequence: 0, timestep: None }, |(key, _)| key)
    }

    fn key(&self, request: LaneRequest) -> CallKey {
        let member = self.member(request.slot);
        let timestep = (self.timestep_input == TimestepInput::Shared).then(|| member.eval().timestep);
        CallKey { sequence: member.lanes[request.lane].embeds.hidden_states.nrows(), timestep }
    }

    fn member(&self, slot: usize) -> &Member {
        self.members[slot].as_ref().expect("a queued lane's member is in its slot")
    }

    fn predict(&self, unet: &mut dyn Unet, requests: &[LaneRequest]) -> Result<Array4<f32>> {
        let mut call = Call::for_lanes_like(self.member(requests[0].slot), requests.len());
        for (lane, request) in requests.iter().enumerate() {
            call.set(lane, self.member(request.slot), request.lane);
        }
        unet.predict(call.inputs())
    }

    fn deliver(&mut self, requests: &[LaneRequest], outputs: Array4<f32>, departures: &mut Vec<Departure>) {
        for (request, output) in requests.iter().zip(outputs.axis_iter(Axis(0))) {
            self.deliver_one(*request, output, departures);
        }
    }

    fn deliver_one(&mut self, request: LaneRequest, output: ArrayView3<'_, f32>, departures: &mut Vec<Departure>) {
        let member = self.members[request.slot].as_mut().expect("a queued lane's member is in its slot");
        if !member.receive(request.lane, output.to_owned()) {
            return;
        }
        let lanes = member.lanes.len();
        if !member.is_done() {
            self.enqueue(request.slot, lanes);
        } else if let Some(member) = self.members[request.slot].take() {
            let latents = member.latents().to_owned();
            departures.push(Departure::Denoised(member.task, latents));
        }
    }

    /// A call failed: repeats its lanes alone, so that only the images that cause it fail.
    fn step_one_by_one(&mut self, unet: &mut dyn Unet, requests: &[LaneRequest], departures: &mut Vec<Departure>) {
        for request in requests {
            if self.members[request.slot].is_none() {
                continue;
            }
            match self.predict(unet, std::slice::from_ref(request)) {
                Ok(outputs) => self.deliver(std::slice::from_ref(request), outputs, departures),
                Err(error) => self.expel(request.slot, error, departures),
            }
        }
    }

    fn expel(&mut self, slot: usize, error: Error, departures: &mut Vec<Departure>) {
        self.queue.retain(|request| request.slot != slot);
        if let Some(member) = self.members[slot].take() {
            let error = Error::new(ErrorKind::Row, "unet_failed", format!("the UNet failed: {error}")).source(error);
            departures.push(Departure::Failed(member.task, error));
        }
    }
}
