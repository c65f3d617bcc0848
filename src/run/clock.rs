//! How long the networks take, each alone and all together: what is left of the time is ours.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use image::RgbImage;
use ndarray::{Array4, ArrayView2, ArrayView4};

use crate::engine::{Encoded, Scorer, TextEncoder, TimestepInput, Unet, UnetInputs, VaeDecoder};
use crate::error::Result;

/// Time spent in networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkTimes {
    /// In text encoders.
    pub text_encoder: Duration,
    /// In the UNet.
    pub unet: Duration,
    /// In the VAE's decoder.
    pub vae_decoder: Duration,
    /// In the scorer.
    pub scorer: Duration,
    /// In any of them: they work side by side.
    pub any: Duration,
}

/// Measures [`NetworkTimes`].
#[derive(Debug, Default)]
pub struct Clock {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    times: NetworkTimes,
    at_work: u32,
    since: Option<Instant>,
}

impl Clock {
    /// Returns what was measured so far.
    pub fn times(&self) -> NetworkTimes {
        self.state().times
    }

    fn measure<T>(&self, time: fn(&mut NetworkTimes) -> &mut Duration, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        {
            let mut state = self.state();
            state.at_work += 1;
            state.since.get_or_insert(started);
        }
        let result = work();
        let mut state = self.state();
        *time(&mut state.times) += started.elapsed();
        state.at_work -= 1;
        if state.at_work == 0 {
            let since = state.since.take();
            state.times.any += since.map_or(Duration::ZERO, |since| since.elapsed());
        }
        result
    }

    /// The state is whole at every step, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A network whose calls are measured.
pub(super) struct Timed<'a, N: ?Sized> {
    pub(super) network: &'a mut N,
    pub(super) clock: &'a Clock,
}

impl<N: TextEncoder + ?Sized> TextEncoder for Timed<'_, N> {
    fn encode(&mut self, input_ids: ArrayView2<'_, i64>, clip_skip: u32) -> Result<Encoded> {
        self.clock.measure(|times| &mut times.text_encoder, || self.network.encode(input_ids, clip_skip))
    }

    fn rest(&mut self) {
        self.network.rest();
    }
}

impl<N: Unet + ?Sized> Unet for Timed<'_, N> {
    fn timestep_input(&self) -> TimestepInput {
        self.network.timestep_input()
    }

    fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        self.clock.measure(|times| &mut times.unet, || self.network.predict(inputs))
    }

    fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        self.clock.measure(|times| &mut times.unet, || self.network.predict_again(inputs))
    }

    fn predict_deep(&mut self, inputs: UnetInputs<'_>) -> Result<(Array4<f32>, Array4<f32>)> {
        self.clock.measure(|times| &mut times.unet, || self.network.predict_deep(inputs))
    }

    fn predict_shallow(&mut self, inputs: UnetInputs<'_>, features: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        self.clock.measure(|times| &mut times.unet, || self.network.predict_shallow(inputs, features))
    }

    fn wants_fixed_lanes(&self) -> bool {
        self.network.wants_fixed_lanes()
    }
}

impl<N: VaeDecoder + ?Sized> VaeDecoder for Timed<'_, N> {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        self.clock.measure(|times| &mut times.vae_decoder, || self.network.decode(latents))
    }
}

impl<N: Scorer + ?Sized> Scorer for Timed<'_, N> {
    fn cosine(&mut self, image: &RgbImage, text: &str) -> Result<f64> {
        self.clock.measure(|times| &mut times.scorer, || self.network.cosine(image, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_side_by_side_counts_once() {
        let clock = Clock::default();
        let pause = Duration::from_millis(50);
        std::thread::scope(|scope| {
            scope.spawn(|| clock.measure(|times| &mut times.unet, || std::thread::sleep(pause)));
            scope.spawn(|| clock.measure(|times| &mut times.vae_decoder, || std::thread::sleep(pause)));
        });
        clock.measure(|times| &mut times.text_encoder, || ());
        let times = clock.times();
        assert!(times.unet >= pause && times.vae_decoder >= pause && times.any >= pause);
        assert!(times.any <= times.unet + times.vae_decoder + times.text_encoder);
    }
}
