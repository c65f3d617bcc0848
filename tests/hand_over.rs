//! Several devices make one plan together, and some of them die: what they had is made by the others, nothing is lost or made
//! twice, and the pictures are the same.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use image::RgbImage;
use ndarray::{Array4, ArrayView2, ArrayView4};
use nightshift::engine::KILLS_DEVICES;
use nightshift::engine::{
    Counters, Embeddings, Encoded, Engine, Images, Outcome, Pace, PromptStyle, Settings, Starter, TextEncoder,
    TextPart, TimestepInput, Unet, UnetInputs, VaeDecoder, Work,
};
use nightshift::error::{Error, ErrorKind, Result};
use nightshift::job::Job;
use nightshift::model::ModelSpec;
use nightshift::noise::NoiseKind;
use nightshift::onnx::{Networks, SessionOptions};
use nightshift::plan::{Plan, plan, tasks};
use nightshift::scheduler::SchedulerConfig;
use support::{fixtures, runtime, star};

/// A network that works so often, and then its device is gone.
struct Mortal<'a, N: ?Sized> {
    network: &'a mut N,
    left: usize,
}

impl<N: ?Sized> Mortal<'_, N> {
    fn live(&mut self) -> Result<&mut N> {
        let lost = || Error::new(ErrorKind::GpuLost, "gpu_lost", "a double has died");
        self.left = self.left.checked_sub(1).ok_or_else(lost)?;
        Ok(self.network)
    }
}

impl TextEncoder for Mortal<'_, dyn TextEncoder> {
    fn encode(&mut self, input_ids: ArrayView2<'_, i64>, clip_skip: u32) -> Result<Encoded> {
        self.live()?.encode(input_ids, clip_skip)
    }
}

impl Unet for Mortal<'_, dyn Unet> {
    fn timestep_input(&self) -> TimestepInput {
        self.network.timestep_input()
    }

    fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        if 8 * inputs.sample.dim().3 == POISONOUS as usize {
            self.left = 0;
        }
        self.live()?.predict(inputs)
    }

    fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        self.live()?.predict_again(inputs)
    }

    fn wants_fixed_lanes(&self) -> bool {
        self.network.wants_fixed_lanes()
    }
}

impl VaeDecoder for Mortal<'_, dyn VaeDecoder> {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        self.live()?.decode(latents)
    }
}

/// Calls of text encoder, UNet and VAE decoder before the device dies.
#[derive(Clone, Copy)]
struct Lifetime(usize, usize, usize);

const IMMORTAL: Lifetime = Lifetime(usize::MAX, usize::MAX, usize::MAX);

const ROWS: u64 = 40;

/// A row that devices die of, which they know by its width.
const POISON: u64 = 7;
const POISONOUS: u32 = 200;

/// Works on `work` with one device; returns whether it lived to the end.
fn device(
    spec: &ModelSpec,
    plan: &Plan,
    work: &Work<'_>,
    life: Lifetime,
    sender: &crossbeam_channel::Sender<Outcome>,
) -> bool {
    let config = SchedulerConfig::from_json(&spec.scheduler_config).expect("a config");
    let mut networks = Networks::load(&runtime(), spec, &SessionOptions::default(), false).expect("networks");
    let tokenizer = spec.texts[0].prompt_tokenizer().expect("a tokenizer");
    let Lifetime(texts, unets, vaes) = life;
    let mut encoder = Mortal { network: &mut networks.text_encoders[0] as &mut dyn TextEncoder, left: texts };
    let parts = vec![TextPart { encoder: &mut encoder, tokenizer: &tokenizer }];
    let read = |_: &Path| -> Result<RgbImage> { unreachable!("no row names a picture") };
    let embeddings = Embeddings::new(parts, &spec.recipe, PromptStyle::default(), plan);
    let images = Images::new(&spec.recipe, None, &read);
    let engine = Engine {
        starter: Starter::new(embeddings, images, &spec.recipe, &config, NoiseKind::TorchCpu),
        unet: &mut Mortal { network: &mut networks.unet as &mut dyn Unet, left: unets },
        vae: &mut Mortal { network: &mut networks.vae_decoder as &mut dyn VaeDecoder, left: vaes },
        fine_vae: None,
        gate: None,
        latents: &spec.recipe.latents,
        settings: Settings { lanes: 4, pixels: None, vae_batch: 2 },
        counters: &Counters::default(),
        begin: &|_| true,
    };
    match engine.work(work, &|| Pace::Go, sender) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::GpuLost);
            false
        }
    }
}

/// What became of the rows.
struct Made {
    pictures: BTreeMap<u64, RgbImage>,
    /// Images that are to blame for devices.
    guilty: Vec<u64>,
    /// Images that are still to do.
    left: usize,
    /// Devices that lived.
    alive: usize,
}

/// Makes all rows with a device a lifetime.
fn make(lives: &[Lifetime]) -> Made {
    make_rows((0..ROWS).map(|row| star(row, 2)), lives)
}

fn make_rows(rows: impl Iterator<Item = Job>, lives: &[Lifetime]) -> Made {
    let spec = ModelSpec::open(fixtures().join("null")).expect("a model");
    let jobs: Vec<_> = rows.map(Arc::new).collect();
    let plan = plan(tasks(&jobs, 0));
    let work = Work::new(&plan, lives.len());
    let (sender, outcomes) = crossbeam_channel::unbounded();
    let alive = thread::scope(|scope| {
        let start = |life: &Lifetime| {
            let (spec, plan, work, life, sender) = (&spec, &plan, &work, *life, sender.clone());
            scope.spawn(move || device(spec, plan, work, life, &sender))
        };
        let devices: Vec<_> = lives.iter().map(start).collect();
        devices.into_iter().map(|device| device.join().expect("no panic")).filter(|alive| *alive).count()
    });
    drop(sender);
    let (mut pictures, mut guilty) = (BTreeMap::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Outcome::Done(generated) => {
                let twice = pictures.insert(generated.task.ordinal, generated.image);
                assert!(twice.is_none(), "{} comes twice", generated.task.key());
            }
            Outcome::Failed(task, error) if error.code() == KILLS_DEVICES => guilty.push(task.ordinal),
            Outcome::Failed(task, error) => panic!("{}: {error}", task.key()),
        }
    }
    Made { pictures, guilty, left: work.left().len(), alive }
}

#[test]
fn the_images_of_a_device_that_dies_are_made_by_the_others() {
    let alone = make(&[IMMORTAL]);
    assert_eq!((alone.pictures.len() as u64, alone.alive, alone.left), (ROWS, 1, 0));
    let cases: [&[Lifetime]; 6] = [
        &[IMMORTAL, IMMORTAL, IMMORTAL],
        &[Lifetime(usize::MAX, 3, usize::MAX), IMMORTAL],
        &[Lifetime(usize::MAX, 0, usize::MAX), Lifetime(usize::MAX, 5, usize::MAX), IMMORTAL],
        &[Lifetime(usize::MAX, usize::MAX, 0), IMMORTAL],
        &[Lifetime(usize::MAX, usize::MAX, 2), Lifetime(1, usize::MAX, usize::MAX), IMMORTAL],
        &[Lifetime(0, usize::MAX, usize::MAX), IMMORTAL],
    ];
    for (number, lives) in cases.into_iter().enumerate() {
        let Made { pictures, guilty, left, alive } = make(lives);
        assert_eq!((pictures.len() + guilty.len(), left), (ROWS as usize, 0), "case {number}");
        assert!(alive >= 1 && pictures.iter().all(|(row, picture)| alone.pictures[row] == *picture), "case {number}");
        // Where two devices die, the second may do so over what the first had.
        assert!(guilty.len() <= (lives.len() - alive).saturating_sub(1), "case {number}");
    }
}

#[test]
fn an_image_that_devices_die_of_takes_two_of_them_and_no_other_image() {
    let rows =
        || (0..ROWS).map(|row| if row == POISON { Job { width: POISONOUS, ..star(row, 1) } } else { star(row, 1) });
    let Made { pictures, guilty, left, alive } = make_rows(rows(), &[IMMORTAL; 4]);
    assert_eq!((guilty, left, alive), (vec![POISON], 0, 2));
    assert_eq!(pictures.len() as u64, ROWS - 1);
    let Made { pictures, left, alive, .. } = make_rows(rows(), &[IMMORTAL]);
    assert_eq!((alive, left as u64 + pictures.len() as u64), (0, ROWS), "the only device: no proof yet");
}

#[test]
fn where_no_device_is_left_what_was_not_made_is_still_to_do() {
    for lives in [[Lifetime(usize::MAX, 6, usize::MAX); 2], [Lifetime(usize::MAX, usize::MAX, 1); 2]] {
        let Made { pictures, guilty, left, alive } = make(&lives);
        assert_eq!((alive, pictures.len() + guilty.len() + left), (0, ROWS as usize));
        assert!(left > 0);
    }
}
