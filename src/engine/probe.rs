//! Whether the entries of a network's batch keep apart. Some exports are right for the first entry only, or give all
//! entries the first one's answer: two different entries, together and each alone, show it.

use std::time::Instant;

use ndarray::{Array, Array2, Array3, Array4, ArrayView3, Axis, Dimension, ShapeBuilder, Slice, Zip};

use super::networks::{TimestepInput, Unet, UnetInputs, VaeDecoder};
use crate::error::Result;

/// Shapes of one entry of a UNet's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnetEntry {
    /// Channels, height and width.
    pub sample: (usize, usize, usize),
    /// Sequence and width.
    pub encoder_hidden_states: (usize, usize),
    /// Width of the pooled text embeddings, for models that take them.
    pub pooled: Option<usize>,
    /// Number of sizes and crops, for models that take them.
    pub time_ids: Option<usize>,
}

/// Calls `unet` with two different entries, together and alone, and returns why they must not share a call: they differ by
/// more than `tolerance` of the largest value. `None` if they may.
///
/// # Errors
/// The graph fails to run.
pub fn probe_unet(unet: &mut dyn Unet, entry: UnetEntry, tolerance: f32) -> Result<Option<String>> {
    let (channels, height, width) = entry.sample;
    let (sequence, states_width) = entry.encoder_hidden_states;
    let sample: Array4<f32> = wave((2, channels, height, width), 0.37);
    let states: Array3<f32> = wave((2, sequence, states_width), 0.73);
    let pooled: Option<Array2<f32>> = entry.pooled.map(|width| wave((2, width), 0.53));
    let side = 8.0 * height as f32;
    let time_ids = entry.time_ids.map(|ids| Array2::from_shape_fn((2, ids), |(row, _)| side * (1 + row) as f32));
    let timesteps = if unet.timestep_input() == TimestepInput::PerLane { [999.0, 1.0] } else { [500.0, 500.0] };
    let mut call = |lanes: std::ops::Range<usize>| {
        let rows = Slice::from(lanes.clone());
        unet.predict(UnetInputs {
            sample: sample.slice_axis(Axis(0), rows),
            timesteps: &timesteps[lanes.clone()],
            encoder_hidden_states: states.slice_axis(Axis(0), rows),
            pooled: pooled.as_ref().map(|pooled| pooled.slice_axis(Axis(0), rows)),
            time_ids: time_ids.as_ref().map(|ids| ids.slice_axis(Axis(0), rows)),
            guidance_scales: &[1.0, 7.0][lanes],
        })
    };
    let (first, second, together) = (call(0..1)?, call(1..2)?, call(0..2)?);
    Ok(mixed([&first, &second], &together, tolerance))
}

/// Returns the seconds that a call of `unet` with so many lanes takes: the better of two, after one that does not count.
///
/// # Errors
/// The graph fails to run, or memory does not suffice.
pub fn time_unet(unet: &mut dyn Unet, entry: UnetEntry, lanes: usize) -> Result<f64> {
    let (channels, height, width) = entry.sample;
    let (sequence, states_width) = entry.encoder_hidden_states;
    let sample: Array4<f32> = wave((lanes, channels, height, width), 0.37);
    let states: Array3<f32> = wave((lanes, sequence, states_width), 0.73);
    let pooled: Option<Array2<f32>> = entry.pooled.map(|width| wave((lanes, width), 0.53));
    let time_ids = entry.time_ids.map(|ids| Array2::from_elem((lanes, ids), 8.0 * height as f32));
    let inputs = UnetInputs {
        sample: sample.view(),
        timesteps: &vec![500.0; lanes],
        encoder_hidden_states: states.view(),
        pooled: pooled.as_ref().map(|pooled| pooled.view()),
        time_ids: time_ids.as_ref().map(|ids| ids.view()),
        guidance_scales: &vec![7.0; lanes],
    };
    unet.predict(inputs)?;
    let mut seconds = || -> Result<f64> {
        let started = Instant::now();
        unet.predict_again(inputs)?;
        Ok(started.elapsed().as_secs_f64())
    };
    Ok(seconds()?.min(seconds()?))
}

/// Does with `vae` and latents of `channels`, height and width what [`probe_unet`] does with a UNet.
///
/// # Errors
/// The graph fails to run.
pub fn probe_vae(
    vae: &mut dyn VaeDecoder,
    (channels, height, width): (usize, usize, usize),
    tolerance: f32,
) -> Result<Option<String>> {
    let latents: Array4<f32> = wave((2, channels, height, width), 0.37);
    let mut call = |lanes: std::ops::Range<usize>| vae.decode(latents.slice_axis(Axis(0), Slice::from(lanes)));
    let (first, second, together) = (call(0..1)?, call(1..2)?, call(0..2)?);
    Ok(mixed([&first, &second], &together, tolerance))
}

/// Values within ±1 that repeat neither along rows nor from entry to entry.
fn wave<D: Dimension, S: ShapeBuilder<Dim = D>>(shape: S, frequency: f32) -> Array<f32, D> {
    let mut i = 0.0;
    Array::from_shape_simple_fn(shape, || {
        i += 1.0;
        (i * frequency + (i * 0.011).sin()).sin()
    })
}

fn mixed(alone: [&Array4<f32>; 2], together: &Array4<f32>, tolerance: f32) -> Option<String> {
    let entry = |array: &Array4<f32>, row| array.index_axis(Axis(0), row).to_owned();
    if entry(alone[0], 0) != entry(alone[1], 0) && entry(together, 0) == entry(together, 1) {
        return Some("its second entry repeats the first".into());
    }
    (0..2).find_map(|row| {
        let expected = alone[row].index_axis(Axis(0), 0);
        match difference(expected, together.index_axis(Axis(0), row)) {
            Some(difference) if difference <= tolerance => None,
            Some(difference) => Some(format!("its entry {} changes by {:.1}% in company", row + 1, 100.0 * difference)),
            None => Some("what it gives for a probe is not a number".into()),
        }
    })
}

/// Returns the largest difference relative to the largest value; `None` where no value is a number. A value that is a number
/// alone and none in company makes it infinite.
fn difference(alone: ArrayView3<'_, f32>, together: ArrayView3<'_, f32>) -> Option<f32> {
    let (mut largest, mut worst, mut numbers) = (0.0_f32, 0.0_f32, false);
    Zip::from(alone).and(together).for_each(|alone, together| {
        if alone.is_finite() {
            numbers = true;
            largest = largest.max(alone.abs());
            worst = worst.max(if together.is_finite() { (alone - together).abs() } else { f32::INFINITY });
        }
    });
    numbers.then(|| if worst == 0.0 { 0.0 } else { worst / largest })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a double gives for entry `row` when `alone` is what it should.
    type Fault = fn(row: usize, all: &Array4<f32>) -> Array3<f32>;

    struct Double {
        timestep_input: TimestepInput,
        fault: Fault,
    }

    impl Double {
        fn apply(&self, right: Array4<f32>) -> Array4<f32> {
            let mut output = right.clone();
            for (row, mut entry) in output.outer_iter_mut().enumerate() {
                entry.assign(&(self.fault)(row, &right));
            }
            output
        }
    }

    impl Unet for Double {
        fn timestep_input(&self) -> TimestepInput {
            self.timestep_input
        }

        fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
            let mut output = inputs.sample.to_owned();
            for (row, mut entry) in output.outer_iter_mut().enumerate() {
                let text = inputs.encoder_hidden_states.index_axis(Axis(0), row).sum();
                entry.mapv_inplace(|x| x + text + inputs.timesteps[row] as f32 / 1000.0);
            }
            Ok(self.apply(output))
        }

        fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
            self.predict(inputs)
        }

        fn wants_fixed_lanes(&self) -> bool {
            false
        }
    }

    impl VaeDecoder for Double {
        fn decode(&mut self, latents: ndarray::ArrayView4<'_, f32>) -> Result<Array4<f32>> {
            Ok(self.apply(latents.to_owned()))
        }
    }

    fn own(row: usize, all: &Array4<f32>) -> Array3<f32> {
        all.index_axis(Axis(0), row).to_owned()
    }

    fn found(fault: Fault) -> [Option<String>; 3] {
        let entry = UnetEntry { sample: (4, 8, 8), encoder_hidden_states: (7, 3), pooled: Some(5), time_ids: Some(6) };
        let unet = |timestep_input| probe_unet(&mut Double { timestep_input, fault }, entry, 1e-3).expect("a double");
        let mut vae = Double { timestep_input: TimestepInput::Shared, fault };
        let vae = probe_vae(&mut vae, (4, 8, 8), 1e-3).expect("a double");
        [unet(TimestepInput::PerLane), unet(TimestepInput::Shared), vae]
    }

    fn all_say(fault: Fault, what: &str) {
        for found in found(fault) {
            assert!(found.as_ref().is_some_and(|why| why.contains(what)), "{found:?}");
        }
    }

    #[test]
    fn entries_that_keep_apart_may_share_a_call() {
        assert_eq!(found(own), [None, None, None]);
        assert_eq!(found(|row, all| own(row, all) * (1.0 + 1e-5 * all.dim().0 as f32)), [None, None, None], "rounding");
    }

    #[test]
    fn a_network_that_is_right_for_the_first_entry_only_is_found_out() {
        all_say(|row, all| own(row, all) * if row == 0 { 1.0 } else { 0.5 }, "entry 2");
        all_say(|row, all| own(row, all) + all.mapv(f32::abs).sum() / 1e3, "in company");
    }

    #[test]
    fn a_network_that_repeats_the_first_entry_is_found_out() {
        all_say(|_, all| own(0, all), "repeats the first");
    }

    #[test]
    fn what_is_not_a_number_is_not_trusted() {
        all_say(|row, all| own(row, all) * f32::NAN, "not a number");
        all_say(|row, all| own(row, all) * if all.dim().0 > 1 { f32::NAN } else { 1.0 }, "in company");
    }
}
