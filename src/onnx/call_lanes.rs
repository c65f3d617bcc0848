//! The tensors of one call of a UNet, in the shapes and types that its graph takes.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, Array4, ArrayD, ArrayView2, ArrayView3, ArrayView4, ArrayViewD, Axis, CowArray, Ix2, Ix4};
use ort::session::SessionInputValue;

use super::guidance_embedding::guidance_embedding;
use super::lanes::fill;
use super::patches;
use super::session::{GraphSession, Inputs};
use super::tensor::{as_given, float_input, number_input, timestep_input, zeros_input};
use crate::engine::UnetInputs;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{GuidanceInput, PositionIds, TensorInfo, TimestepShape, UnetGraph};

/// Width of `timestep_cond` where the graph does not say it: that of all published models.
const EMBEDDING_WIDTH: usize = 256;

/// The tensors of one call, filled up to the number of lanes that it has.
pub(super) struct CallLanes<'a> {
    pub(super) sample: CowArray<'a, f32, Ix4>,
    packed: Option<ndarray::Array3<f32>>,
    timesteps: Vec<f64>,
    states: CowArray<'a, f32, ndarray::Ix3>,
    pooled: Option<CowArray<'a, f32, Ix2>>,
    time_ids: Option<CowArray<'a, f32, Ix2>>,
    guidance: Option<ArrayD<f32>>,
}

impl<'a> CallLanes<'a> {
    pub(super) fn new(bound: &UnetGraph, inputs: &UnetInputs<'a>, range: &Range<usize>, size: usize) -> Result<Self> {
        let sample: ArrayView4<'a, f32> = inputs.sample;
        let states: ArrayView3<'a, f32> = inputs.encoder_hidden_states;
        let rows = |rows: ArrayView2<'a, f32>| fill(rows, range, size);
        let sample = fill(sample, range, size);
        let scales = filled(&inputs.guidance_scales[range.clone()], size);
        Ok(CallLanes {
            packed: bound.packed().then(|| patches::pack(sample.view())),
            sample,
            timesteps: call_timesteps(bound, &inputs.timesteps[range.clone()], size)?,
            states: fill(states, range, size),
            pooled: inputs.pooled.filter(|_| bound.pooled.is_some()).map(rows),
            time_ids: inputs.time_ids.filter(|_| bound.time_ids.is_some()).map(rows),
            guidance: bound.guidance.as_ref().map(|input| match input {
                GuidanceInput::Embedding(tensor) => {
                    guidance_embedding(&scales, tensor.fixed(1).unwrap_or(EMBEDDING_WIDTH)).into_dyn()
                }
                GuidanceInput::Scale(_) => Array1::from_iter(scales.iter().map(|scale| *scale as f32)).into_dyn(),
            }),
        })
    }

    /// Fails if a tensor has another shape than the graph takes, or one is missing.
    pub(super) fn check(&self, graph: &GraphSession, bound: &UnetGraph) -> Result<()> {
        let sample = self.packed.as_ref().map_or(self.sample.shape(), |packed| packed.shape());
        graph.check(&bound.sample, sample)?;
        graph.check(&bound.encoder_hidden_states, self.states.shape())?;
        for (tensor, given) in [(&bound.pooled, &self.pooled), (&bound.time_ids, &self.time_ids)] {
            if let Some(tensor) = tensor {
                graph.check(tensor, given.as_ref().map_or(&[], |given| given.shape()))?;
            }
        }
        Ok(())
    }

    /// Returns the velocity of flow matching that leads to these `denoised` latents: `(sample − denoised) / sigma`, in what the
    /// network got of both.
    pub(super) fn velocity(&self, denoised: Array4<f32>, bound: &UnetGraph) -> Array4<f32> {
        let mut velocity = denoised;
        for (lane, mut values) in velocity.outer_iter_mut().enumerate() {
            let sigma = as_given(self.timesteps[lane.min(self.timesteps.len() - 1)] as f32, bound.timestep.dtype);
            values.zip_mut_with(&self.sample.index_axis(Axis(0), lane), |value, sample| {
                *value = (as_given(*sample, bound.sample.dtype) - *value) / sigma;
            });
        }
        velocity
    }

    /// Image channels come in and do not come out.
    pub(super) fn output_shape(&self, bound: &UnetGraph) -> Vec<usize> {
        let mut shape = self.packed.as_ref().map_or(self.sample.shape(), |packed| packed.shape()).to_vec();
        if let Some(channels) = bound.out_sample.fixed(1).filter(|_| !bound.packed()) {
            shape[1] = channels;
        }
        shape
    }

    pub(super) fn inputs<'s>(&'s self, bound: &'s UnetGraph) -> ort::Result<Inputs<'s>> {
        let mut all =
            vec![named(&bound.sample, float_input(self.sample(), bound.sample.dtype)?), self.timestep(bound)?];
        all.extend(self.conditions(bound)?);
        Ok(all)
    }

    /// Samples as the graph takes them.
    pub(super) fn sample(&self) -> ArrayViewD<'_, f32> {
        self.packed.as_ref().map_or(self.sample.view().into_dyn(), |packed| packed.view().into_dyn())
    }

    pub(super) fn timestep<'s>(&self, bound: &'s UnetGraph) -> ort::Result<(Cow<'s, str>, SessionInputValue<'s>)> {
        let dims: &[usize] = if bound.timestep_shape == TimestepShape::Scalar { &[] } else { &[self.timesteps.len()] };
        Ok(named(&bound.timestep, timestep_input(&self.timesteps, dims, bound.timestep.dtype)?))
    }

    /// Inputs that are the same at every step.
    pub(super) fn conditions<'s>(&'s self, bound: &'s UnetGraph) -> ort::Result<Inputs<'s>> {
        let states = float_input(self.states.view(), bound.encoder_hidden_states.dtype)?;
        let mut all = vec![named(&bound.encoder_hidden_states, states)];
        for (tensor, rows) in [(&bound.pooled, &self.pooled), (&bound.time_ids, &self.time_ids)] {
            if let (Some(tensor), Some(rows)) = (tensor, rows) {
                all.push(named(tensor, float_input(rows.view(), tensor.dtype)?));
            }
        }
        if let (Some(tensor), Some(guidance)) = (bound.guidance.as_ref().map(GuidanceInput::tensor), &self.guidance) {
            all.push(named(tensor, float_input(guidance.view(), tensor.dtype)?));
        }
        if let Some(control) = &bound.control {
            all.push(named(control, zeros_input(&self.control_shape(control), control.dtype)?));
        }
        if let Some(positions) = &bound.positions {
            all.extend(self.positions(positions)?);
        }
        Ok(all)
    }

    /// Zeros for every block that a ControlNet of the exporter's has, and every patch of 2×2 cells.
    fn control_shape(&self, control: &TensorInfo) -> [usize; 4] {
        let (lanes, _, height, width) = self.sample.dim();
        let fixed = |axis| control.fixed(axis).unwrap_or(1);
        [fixed(0), lanes, (height / 2) * (width / 2), fixed(3)]
    }

    /// The positions of texts, all zero, and of patches; with a batch before them where the graph takes one.
    fn positions<'s>(&'s self, ids: &'s PositionIds) -> ort::Result<[(Cow<'s, str>, SessionInputValue<'s>); 2]> {
        let (lanes, _, height, width) = self.sample.dim();
        let texts = ndarray::Array2::zeros((self.states.dim().1, 3));
        let input = |tensor: &'s TensorInfo, rows: ndarray::Array2<f64>| -> ort::Result<_> {
            let (count, axes) = rows.dim();
            let rows = match tensor.rank() {
                Some(3) => rows.broadcast((lanes, count, axes)).expect("a batch of the same").to_owned().into_dyn(),
                _ => rows.into_dyn(),
            };
            Ok(named(tensor, number_input(rows, tensor.dtype)?))
        };
        Ok([input(&ids.txt_ids, texts)?, input(&ids.img_ids, patches::positions(height, width))?])
    }
}

pub(super) fn named<'v>(tensor: &'v TensorInfo, value: SessionInputValue<'v>) -> (Cow<'v, str>, SessionInputValue<'v>) {
    (tensor.name.as_str().into(), value)
}

fn filled(values: &[f64], size: usize) -> Vec<f64> {
    let mut all = values.to_vec();
    all.resize(size, values.last().copied().unwrap_or_default());
    all
}

/// Returns the timesteps of one call: one a lane, or the one that all lanes share. Flux's transformer takes thousandths, and so
/// do denoisers that are told sigma.
fn call_timesteps(bound: &UnetGraph, timesteps: &[f64], size: usize) -> Result<Vec<f64>> {
    let scaled = |timestep: &f64| {
        if bound.packed() || bound.denoises { f64::from(*timestep as f32 / 1000.0) } else { *timestep }
    };
    let timesteps: Vec<f64> = timesteps.iter().map(scaled).collect();
    if bound.timestep_shape == TimestepShape::PerLane {
        return Ok(filled(&timesteps, size));
    }
    let first = timesteps.first().copied().unwrap_or_default();
    if timesteps.iter().any(|timestep| *timestep != first) {
        let message = format!("lanes at different timesteps {timesteps:?} in a call of a UNet that takes one");
        return Err(Error::new(ErrorKind::Unexpected, "mixed_timesteps", message));
    }
    Ok(vec![first])
}
