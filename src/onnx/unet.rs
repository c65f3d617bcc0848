//! The UNet as a trait object for the engine.

use ndarray::{Array4, ArrayView3, ArrayView4};

use super::device::Device;
use super::lanes::{Batch, fill, least_entries};
use super::runtime::Runtime;
use super::session::{GraphSession, Inputs, SessionOptions};
use super::tensor::{float_input, timestep_input};
use crate::engine::{TimestepInput, Unet};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ModelSpec, TimestepShape, UnetGraph};

/// A UNet graph.
#[derive(Debug)]
pub struct OnnxUnet {
    graph: GraphSession,
    bound: UnetGraph,
    batch: Batch,
    told_rounding: bool,
}

impl OnnxUnet {
    /// Loads the UNet of `spec`.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph or use the device.
    pub fn load(runtime: &Runtime, spec: &ModelSpec, options: &SessionOptions) -> Result<Self> {
        let bound = spec.unet.clone();
        let graph = GraphSession::load(runtime, ("UNet", &bound.file), &bound.out_sample, options, true)?;
        let least = match options.device {
            Device::Cpu => least_entries(options.thread_count(), spec.attention_heads.unwrap_or(1)),
            _ => 1,
        };
        let batch = Batch { fixed: bound.sample.fixed(0), least };
        Ok(OnnxUnet { graph, bound, batch, told_rounding: false })
    }

    /// Returns the timesteps of one call: one a lane, or the one that all lanes share.
    fn call_timesteps(&self, timesteps: &[f64], size: usize) -> Result<Vec<f64>> {
        let (first, last) = match timesteps {
            [first, .., last] => (*first, *last),
            [only] => (*only, *only),
            [] => (0.0, 0.0),
        };
        if self.bound.timestep_shape == TimestepShape::PerLane {
            let mut timesteps = timesteps.to_vec();
            timesteps.resize(size, last);
            return Ok(timesteps);
        }
        if timesteps.iter().any(|timestep| *timestep != first) {
            let message = format!("lanes at different timesteps {timesteps:?} in a call of a UNet that takes one");
            return Err(Error::new(ErrorKind::Unexpected, "mixed_timesteps", message));
        }
        Ok(vec![first])
    }

    fn tell_rounding(&mut self, timesteps: &[f64]) {
        let fractional = || timesteps.iter().find(|timestep| timestep.fract() != 0.0);
        if self.told_rounding || !self.bound.timestep.dtype.is_int() {
            return;
        }
        if let Some(timestep) = fractional() {
            self.told_rounding = true;
            tracing::warn!("the UNet takes whole timesteps only: {timestep} and others like it are rounded");
        }
    }
}

impl Unet for OnnxUnet {
    fn timestep_input(&self) -> TimestepInput {
        match self.bound.timestep_shape {
            TimestepShape::PerLane => TimestepInput::PerLane,
            TimestepShape::Scalar | TimestepShape::One => TimestepInput::Shared,
        }
    }

    fn predict(
        &mut self,
        sample: ArrayView4<'_, f32>,
        timesteps: &[f64],
        encoder_hidden_states: ArrayView3<'_, f32>,
    ) -> Result<Array4<f32>> {
        self.tell_rounding(timesteps);
        let lanes = sample.dim().0;
        if timesteps.len() != lanes || encoder_hidden_states.dim().0 != lanes {
            let (times, states) = (timesteps.len(), encoder_hidden_states.dim().0);
            let message = format!("{lanes} samples with {times} timesteps and embeddings for {states}");
            return Err(Error::new(ErrorKind::Unexpected, "lanes_differ", message));
        }
        self.batch.run(lanes, |range, size| {
            let times = self.call_timesteps(&timesteps[range.clone()], size)?;
            let sample = fill(sample.view(), &range, size);
            let states = fill(encoder_hidden_states.view(), &range, size);
            let UnetGraph { sample: x, timestep: t, encoder_hidden_states: s, timestep_shape, .. } = &self.bound;
            self.graph.check(x, sample.shape())?;
            self.graph.check(s, states.shape())?;
            let dims: &[usize] = if *timestep_shape == TimestepShape::Scalar { &[] } else { &[times.len()] };
            let inputs = || -> ort::Result<Inputs<'_>> {
                Ok(vec![
                    (x.name.as_str().into(), float_input(sample.view(), x.dtype)?),
                    (t.name.as_str().into(), timestep_input(&times, dims, t.dtype)?),
                    (s.name.as_str().into(), float_input(states.view(), s.dtype)?),
                ])
            };
            let output = self.graph.run(inputs())?;
            self.graph.check_output(&output, sample.shape())?;
            Ok(output)
        })
    }
}
