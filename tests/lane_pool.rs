//! The lane pool over doubles of the network: what it promises whatever the number of lanes.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, Array3, Array4, ArrayView4, Axis, Zip};
use nightshift::engine::{Departure, Lane, LanePool, Member, TextEmbeds, TimestepInput, Unet, UnetInputs};
use nightshift::error::{Error, ErrorKind, Result};
use nightshift::guidance::Guidance;
use nightshift::job::{ImageTask, Job};
use nightshift::noise::NoiseKind;
use nightshift::scheduler::{ScheduleRequest, SchedulerConfig};
use proptest::prelude::*;

const SIZE: (usize, usize, usize) = (2, 3, 3);

/// Answers each lane from that lane alone, and remembers its calls.
struct RowWise {
    timestep_input: TimestepInput,
    calls: Vec<Vec<f64>>,
    /// A call with a lane whose embedding starts with this fails.
    poison: f32,
    /// A call with more lanes runs out of memory, and one with a lane whose embedding starts with `huge`.
    most: usize,
    huge: f32,
    /// Whether calls are to have one number of lanes.
    fixed: bool,
    /// What it is to have kept from the last call.
    kept: Option<(Array3<f32>, Vec<f64>)>,
    /// Calls that relied on that.
    again: usize,
    /// Calls without inner blocks.
    shallow: usize,
}

impl RowWise {
    fn new(timestep_input: TimestepInput) -> Self {
        let (poison, huge) = (f32::NAN, f32::NAN);
        let (calls, most, fixed, kept, again, shallow) = (Vec::new(), usize::MAX, false, None, 0, 0);
        RowWise { timestep_input, calls, poison, most, huge, fixed, kept, again, shallow }
    }
}

impl Unet for RowWise {
    fn timestep_input(&self) -> TimestepInput {
        self.timestep_input
    }

    fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        let UnetInputs { sample, timesteps, encoder_hidden_states: states, .. } = inputs;
        self.calls.push(timesteps.to_vec());
        self.kept = None;
        if states.axis_iter(Axis(0)).any(|state| state[[0, 0]] == self.poison) {
            return Err(Error::new(ErrorKind::Unexpected, "poison", "a poisoned lane"));
        }
        let huge = states.axis_iter(Axis(0)).any(|state| state[[0, 0]] == self.huge);
        if huge || timesteps.len() > self.most {
            return Err(Error::new(ErrorKind::Unexpected, "out_of_memory", "not enough memory"));
        }
        let mut output = sample.to_owned();
        Zip::from(output.outer_iter_mut()).and(states.outer_iter()).and(timesteps).for_each(
            |mut lane, state, &timestep| {
                lane.mapv_inplace(|value| (0.3 * value + state[[0, 0]] + timestep as f32 / 1000.0).tanh());
            },
        );
        self.kept = Some((states.to_owned(), inputs.guidance_scales.to_vec()));
        Ok(output)
    }

    fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        let given = (inputs.encoder_hidden_states.to_owned(), inputs.guidance_scales.to_vec());
        assert_eq!(self.kept.as_ref(), Some(&given), "what is said to be the same is not");
        self.again += 1;
        self.predict(inputs)
    }

    fn predict_deep(&mut self, inputs: UnetInputs<'_>) -> Result<(Array4<f32>, Array4<f32>)> {
        let features = inputs.sample.mapv(|value| 0.7 * value);
        Ok((self.predict(inputs)?, features))
    }

    fn predict_shallow(&mut self, inputs: UnetInputs<'_>, features: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        self.shallow += 1;
        Ok(self.predict(inputs)? * 0.5 + features)
    }

    fn wants_fixed_lanes(&self) -> bool {
        self.fixed
    }
}

/// `kind` is the scheduler, and by how many times their number it is more, how seldom the inner blocks are evaluated.
fn member(ordinal: u64, steps: u32, guided: bool, kind: usize) -> Member {
    let (scheduler, interval) = (SCHEDULERS[kind % SCHEDULERS.len()], 1 + kind / SCHEDULERS.len());
    // Prompts of two lengths cannot share a call.
    let sequence = 1 + (ordinal % 5 == 4) as usize;
    let job = Job {
        row: ordinal,
        line: ordinal + 2,
        seed: Some(ordinal),
        scheduler: scheduler.into(),
        num_inference_steps: steps,
        guidance_scale: 4.0,
        width: 24,
        height: 24,
        num_images_per_prompt: 1,
        ..Job::default()
    };
    let task = ImageTask::new(Arc::new(job), 0, ordinal, 0);
    let config = SchedulerConfig::from_json("{}").expect("an empty config").select(scheduler).expect("a known name");
    let schedule = Arc::new(config.schedule(&ScheduleRequest::steps(steps)).expect("a schedule"));
    let mut noise = NoiseKind::TorchCpu.source(task.seed);
    let latents = noise.draw(SIZE);
    let lane = |value: f32| {
        let embeds = TextEmbeds { hidden_states: Array2::from_elem((sequence, 1), value), pooled: None };
        Lane { embeds: Arc::new(embeds), time_ids: None, image_channels: None }
    };
    let text = lane(ordinal as f32 / 10.0);
    let (guidance, lanes) = match guided {
        true => (Guidance::ClassifierFree { scale: 4.0, rescale: 0.0 }, vec![lane(-0.5), text]),
        false => (Guidance::Off, vec![text]),
    };
    let guided = guided_in(ordinal, steps);
    Member::new(task, schedule.start(latents), noise, guidance, lanes, None).guided_in(guided).cached(interval as u32)
}

/// Every third image is guided in some of its evaluations only.
fn guided_in(ordinal: u64, steps: u32) -> Range<usize> {
    let steps = steps as usize;
    if ordinal % 3 == 2 { 1..steps / 2 + 1 } else { 0..steps }
}

/// Returns how many lanes of `rows` take no inner blocks: all but those of every so-manieth evaluation, and those of an
/// evaluation with a lane that has kept nothing yet.
fn shallow_work(rows: &[Row]) -> usize {
    let of_row = |(ordinal, (steps, guided, kind)): (u64, &Row)| -> usize {
        let (interval, during) = (1 + kind / SCHEDULERS.len(), guided_in(ordinal, *steps));
        let mut has_kept = [false; 2];
        let mut shallow = 0;
        for evaluation in 0..*steps as usize {
            let lanes = if !*guided {
                1..2
            } else if during.contains(&evaluation) {
                0..2
            } else {
                1..2
            };
            if interval > 1 && evaluation % interval != 0 && has_kept[lanes.clone()].iter().all(|kept| *kept) {
                shallow += lanes.len();
            } else {
                has_kept[lanes].fill(true);
            }
        }
        shallow
    };
    (0..).zip(rows).map(of_row).sum()
}

/// Returns how many lanes `rows` take in all.
fn work(rows: &[Row]) -> usize {
    let guided =
        |(ordinal, (steps, guided, _)): (u64, &Row)| if *guided { guided_in(ordinal, *steps).len() } else { 0 };
    let steps: usize = rows.iter().map(|(steps, _, _)| *steps as usize).sum();
    steps + (0..).zip(rows).map(guided).sum::<usize>()
}

type Row = (u32, bool, usize);

const SCHEDULERS: [&str; 4] = ["ddim", "euler", "euler_a", "dpmpp_2m"];

/// Runs `rows` through a pool; returns each image's latents by ordinal, and the lanes used in each call.
fn run(rows: &[Row], lanes: usize, unet: &mut RowWise) -> (Vec<Option<Array3<f32>>>, Vec<usize>) {
    let mut pool = LanePool::new(lanes, unet.timestep_input());
    let (mut waiting, mut used) = ((0..rows.len()).collect::<std::collections::VecDeque<_>>(), Vec::new());
    let mut results = vec![None; rows.len()];
    loop {
        while pool.has_room() {
            let Some(next) = waiting.pop_front() else { break };
            let (steps, guided, kind) = rows[next];
            pool.admit(member(next as u64, steps, guided, kind));
        }
        if pool.is_empty() {
            return (results, used);
        }
        let step = pool.step(unet).expect("no device is lost");
        used.push(step.used);
        for departure in step.departures {
            if let Departure::Denoised(task, latents) = departure {
                results[task.ordinal as usize] = Some(latents);
            }
        }
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((1u32..8, any::<bool>(), 0usize..4), 1..12)
}

fn cached_rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((1u32..8, any::<bool>(), 0usize..12), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_image_is_the_same_for_any_number_of_lanes(rows in rows(), lanes in 2usize..9) {
        let alone = run(&rows, 1, &mut RowWise::new(TimestepInput::PerLane)).0;
        prop_assert!(alone.iter().all(Option::is_some));
        prop_assert_eq!(&run(&rows, lanes, &mut RowWise::new(TimestepInput::PerLane)).0, &alone);
        prop_assert_eq!(&run(&rows, lanes, &mut RowWise::new(TimestepInput::Shared)).0, &alone);
    }

    #[test]
    fn every_call_is_full_until_nothing_is_left_to_admit(rows in rows(), lanes in 1usize..9) {
        let mut unet = RowWise::new(TimestepInput::PerLane);
        let used = run(&rows, lanes, &mut unet).1;
        let work = work(&rows);
        prop_assert_eq!(used.iter().sum::<usize>(), work, "each lane once, none for nothing");
        // Once a call is not full nothing was waiting, so from then on the pool only empties.
        prop_assert!(used.iter().skip_while(|&&used| used == lanes).all(|&used| used <= lanes));
        let longest = rows.iter().map(|(steps, _, _)| *steps as usize).max().unwrap_or(0);
        prop_assert!(used.len() <= work.div_ceil(lanes) + 2 * longest);
    }

    #[test]
    fn where_lanes_are_fixed_every_call_has_them_all(rows in rows(), lanes in 1usize..9) {
        let alone = run(&rows, 1, &mut RowWise::new(TimestepInput::PerLane)).0;
        for timestep_input in [TimestepInput::PerLane, TimestepInput::Shared] {
            let mut unet = RowWise { fixed: true, ..RowWise::new(timestep_input) };
            prop_assert_eq!(&run(&rows, lanes, &mut unet).0, &alone);
            prop_assert!(unet.calls.iter().all(|call| call.len() == lanes), "{:?}", unet.calls);
        }
    }

    #[test]
    fn so_is_one_that_keeps_what_the_inner_blocks_gave(rows in cached_rows(), lanes in 2usize..9) {
        let mut unet = RowWise::new(TimestepInput::PerLane);
        let (alone, used) = run(&rows, 1, &mut unet);
        prop_assert!(alone.iter().all(Option::is_some));
        prop_assert_eq!(used.iter().sum::<usize>(), work(&rows));
        // Alone, each lane is a call: those without inner blocks are known.
        prop_assert_eq!(unet.shallow, shallow_work(&rows));
        for timestep_input in [TimestepInput::PerLane, TimestepInput::Shared] {
            prop_assert_eq!(&run(&rows, lanes, &mut RowWise::new(timestep_input)).0, &alone);
            let mut fixed = RowWise { fixed: true, ..RowWise::new(timestep_input) };
            prop_assert_eq!(&run(&rows, lanes, &mut fixed).0, &alone);
        }
    }

    #[test]
    fn a_shared_timestep_is_the_same_in_the_whole_call(rows in rows(), lanes in 1usize..9) {
        let mut unet = RowWise::new(TimestepInput::Shared);
        run(&rows, lanes, &mut unet);
        for call in unet.calls {
            prop_assert!(call.iter().all(|timestep| *timestep == call[0]), "{call:?}");
        }
    }
}

#[test]
fn a_failing_image_costs_its_neighbours_nothing() {
    let rows: Vec<Row> = (0..6).map(|row| (3 + row % 3, row % 2 == 0, row as usize % 4)).collect();
    let healthy = run(&rows, 4, &mut RowWise::new(TimestepInput::PerLane)).0;
    let mut unet = RowWise { poison: 0.3, ..RowWise::new(TimestepInput::PerLane) };
    let hurt = run(&rows, 4, &mut unet).0;
    for (ordinal, (hurt, healthy)) in hurt.iter().zip(&healthy).enumerate() {
        let expected = (ordinal != 3).then_some(()).and(healthy.as_ref());
        assert_eq!(hurt.as_ref(), expected, "image {ordinal}");
    }
}

#[test]
fn too_many_lanes_are_halved_and_every_image_is_the_same() {
    let rows: Vec<Row> = (0..20).map(|row| (2 + row % 3, row % 2 == 0, row as usize % 4)).collect();
    let four = run(&rows, 4, &mut RowWise::new(TimestepInput::PerLane));
    let mut unet = RowWise { most: 4, ..RowWise::new(TimestepInput::PerLane) };
    let lowered = run(&rows, 16, &mut unet);
    assert_eq!(lowered.0, four.0);
    let sizes: Vec<usize> = unet.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes[..5], [13, 8, 4, 4, 4], "lanes of another length were in the queue");
    assert!(sizes[2..].iter().all(|lanes| *lanes <= 4), "{sizes:?}");
    assert!(sizes.len() <= four.1.len() + 4, "two calls that fail, and a tail: {} and {}", sizes.len(), four.1.len());
}

#[test]
fn fixed_lanes_fall_where_memory_runs_out_and_no_image_is_lost() {
    let rows: Vec<Row> = (0..20).map(|row| (2 + row % 3, row % 2 == 0, row as usize % 4)).collect();
    let healthy = run(&rows, 4, &mut RowWise::new(TimestepInput::PerLane)).0;
    let mut unet = RowWise { fixed: true, most: 4, ..RowWise::new(TimestepInput::PerLane) };
    assert_eq!(run(&rows, 16, &mut unet).0, healthy);
    let sizes: Vec<usize> = unet.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes[..2], [16, 8]);
    assert!(sizes[2..].iter().all(|lanes| *lanes == 4), "{sizes:?}");
}

#[test]
fn while_the_same_lanes_come_again_only_what_changes_is_new() {
    let mut unet = RowWise::new(TimestepInput::PerLane);
    run(&[(7, true, 0), (7, true, 1)], 4, &mut unet);
    assert_eq!((unet.calls.len(), unet.again), (7, 6));
    let mut unet = RowWise { fixed: true, ..RowWise::new(TimestepInput::PerLane) };
    run(&[(7, true, 0)], 4, &mut unet);
    assert_eq!((unet.calls.len(), unet.again), (7, 6), "filled up with the same lanes too");
}

#[test]
fn an_image_too_large_for_the_memory_fails_alone() {
    let rows: Vec<Row> = (0..12).map(|row| (3 + row % 3, row % 2 == 0, row as usize % 4)).collect();
    let healthy = run(&rows, 4, &mut RowWise::new(TimestepInput::PerLane));
    let mut unet = RowWise { huge: 0.3, ..RowWise::new(TimestepInput::PerLane) };
    let hurt = run(&rows, 4, &mut unet);
    for (ordinal, (hurt, healthy)) in hurt.0.iter().zip(&healthy.0).enumerate() {
        assert_eq!(hurt.as_ref(), (ordinal != 3).then_some(()).and(healthy.as_ref()), "image {ordinal}");
    }
    assert!(hurt.1.iter().skip(1).any(|used| *used == 4), "one image does not lower the limit: {:?}", hurt.1);
}

#[test]
fn images_at_different_steps_share_a_call() {
    let mut unet = RowWise::new(TimestepInput::PerLane);
    run(&[(7, false, 0), (3, true, 1), (5, false, 3)], 4, &mut unet);
    assert!(unet.calls[1].iter().any(|timestep| *timestep != unet.calls[1][0]), "{:?}", unet.calls[1]);
}
