//! The engine over the null model, with faults that come once: a flipped bit does not cost an image.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use image::RgbImage;
use ndarray::{Array4, ArrayView4, Axis};
use nightshift::engine::{
    Counters, Embeddings, Engine, Gate, Images, Outcome, Pace, PromptStyle, Scorer, Settings, Starter, TextEncoder,
    TextPart, TimestepInput, Unet, UnetInputs, VaeDecoder,
};
use nightshift::error::{Error, ErrorKind, Result};
use nightshift::model::ModelSpec;
use nightshift::noise::NoiseKind;
use nightshift::onnx::{Networks, SessionOptions};
use nightshift::plan::{plan, tasks};
use nightshift::scheduler::SchedulerConfig;
use nightshift::score::{Demand, Scored};
use support::{fixtures, runtime, star};

/// Whether a call is spoilt.
type Spoilt = fn(call: usize) -> bool;

/// A network that spoils the first entry of some of its calls.
struct Flaky<'a, N: ?Sized> {
    network: &'a mut N,
    calls: usize,
    spoilt: Spoilt,
}

impl<'a, N: ?Sized> Flaky<'a, N> {
    fn new(network: &'a mut N, spoilt: Spoilt) -> Self {
        Flaky { network, calls: 0, spoilt }
    }

    fn spoil(&mut self, mut output: Array4<f32>) -> Array4<f32> {
        if (self.spoilt)(self.calls) {
            output.index_axis_mut(Axis(0), 0)[[1, 2, 3]] = f32::NAN;
        }
        self.calls += 1;
        output
    }
}

impl Unet for Flaky<'_, dyn Unet> {
    fn timestep_input(&self) -> TimestepInput {
        self.network.timestep_input()
    }

    fn predict(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        let output = self.network.predict(inputs)?;
        Ok(self.spoil(output))
    }

    fn predict_again(&mut self, inputs: UnetInputs<'_>) -> Result<Array4<f32>> {
        self.predict(inputs)
    }

    fn wants_fixed_lanes(&self) -> bool {
        self.network.wants_fixed_lanes()
    }
}

impl VaeDecoder for Flaky<'_, dyn VaeDecoder> {
    fn decode(&mut self, latents: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let output = self.network.decode(latents)?;
        Ok(self.spoil(output))
    }
}

/// A decoder in float32 that cannot be loaded.
struct Absent;

impl VaeDecoder for Absent {
    fn decode(&mut self, _: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        Err(Error::new(ErrorKind::Model, "graph_refused", "a double"))
    }
}

#[derive(Default)]
struct Made {
    pictures: BTreeMap<u64, RgbImage>,
    failed: BTreeMap<u64, &'static str>,
    scored: BTreeMap<u64, Scored>,
    repeated: u64,
}

/// The prompts, each image's its own, of which a picture was scored, by the only test that scores.
static SCORED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Likes no picture.
struct Stern;

impl Scorer for Stern {
    fn cosine(&mut self, _: &RgbImage, prompt: &str) -> Result<f64> {
        SCORED.lock().expect("no panic").insert(prompt.to_string());
        Ok(0.1)
    }
}

/// Makes 24 pictures of three sizes with networks that spoil some calls.
fn make(unet: Spoilt, vae: Spoilt, fine: Option<Absent>) -> Made {
    make_good(unet, vae, fine, None)
}

/// Does so until each has passed the gate.
fn make_good(unet: Spoilt, vae: Spoilt, mut fine: Option<Absent>, demand: Option<Demand>) -> Made {
    let spec = ModelSpec::open(fixtures().join("null")).expect("a model");
    let config = SchedulerConfig::from_json(&spec.scheduler_config).expect("a config");
    let mut networks = Networks::load(&runtime(), &spec, &SessionOptions::default(), false).expect("networks");
    let tokenizer = spec.texts[0].prompt_tokenizer().expect("a tokenizer");
    let jobs: Vec<_> = (0..24).map(|row| Arc::new(star(row, 3))).collect();
    let plan = plan(tasks(&jobs, 0));
    let encoder = &mut networks.text_encoders[0] as &mut dyn TextEncoder;
    let parts = vec![TextPart { encoder, tokenizer: &tokenizer }];
    let embeddings = Embeddings::new(parts, &spec.recipe, PromptStyle::default(), &plan);
    let read = |_: &Path| -> Result<RgbImage> { unreachable!("no row names a picture") };
    let images = Images::new(&spec.recipe, None, &read);
    let counters = Counters::default();
    let mut stern = Stern;
    let engine = Engine {
        starter: Starter::new(embeddings, images, &spec.recipe, &config, NoiseKind::TorchCpu),
        unet: &mut Flaky::new(&mut networks.unet as &mut dyn Unet, unet),
        vae: &mut Flaky::new(&mut networks.vae_decoder as &mut dyn VaeDecoder, vae),
        fine_vae: fine.as_mut().map(|vae| vae as &mut dyn VaeDecoder),
        gate: demand.map(|demand| Gate::new(&mut stern, demand)),
        latents: &spec.recipe.latents,
        settings: Settings { lanes: 4, pixels: None, vae_batch: 4 },
        counters: &counters,
        begin: &|_| true,
    };
    let (sender, outcomes) = crossbeam_channel::unbounded();
    engine.generate(&plan, &|| Pace::Go, &sender);
    drop(sender);
    let mut made = Made { repeated: counters.repeated.load(Ordering::Relaxed), ..Made::default() };
    for outcome in outcomes {
        match outcome {
            Outcome::Done(generated) => {
                made.scored.extend(generated.scored.map(|scored| (generated.task.ordinal, scored)));
                let twice = made.pictures.insert(generated.task.ordinal, generated.image);
                assert!(twice.is_none(), "{} comes twice", generated.task.key());
            }
            Outcome::Failed(task, error) => drop(made.failed.insert(task.ordinal, error.code())),
        }
    }
    made
}

const NEVER: Spoilt = |_| false;

#[test]
fn a_bit_that_flips_once_costs_nothing() {
    let healthy = make(NEVER, NEVER, None);
    assert_eq!((healthy.pictures.len(), healthy.repeated), (24, 0));
    let faults: [(Spoilt, Spoilt); 3] = [
        (|call| call == 3, NEVER),
        (NEVER, |call| call == 1),
        // The last calls: the image comes back when its bucket is over.
        (|call| call == 1 || call == 20, NEVER),
    ];
    for (number, (unet, vae)) in faults.into_iter().enumerate() {
        let made = make(unet, vae, None);
        assert!(made.repeated > 0, "case {number}");
        assert_eq!(made.failed, BTreeMap::new(), "case {number}");
        assert!(made.pictures == healthy.pictures, "case {number}");
    }
}

#[test]
fn networks_that_never_give_numbers_fail_every_image_after_two_tries() {
    let made = make(|_| true, NEVER, None);
    // One lane of each call is spoilt, so an image may come through; none is lost and none comes twice.
    assert_eq!(made.pictures.len() + made.failed.len(), 24);
    assert!(made.failed.values().all(|code| *code == "not_a_number"));
    assert!(made.failed.len() as u64 <= made.repeated && !made.failed.is_empty());
}

#[test]
fn a_finer_decoder_that_does_not_work_is_no_worse_than_none() {
    let healthy = make(NEVER, NEVER, None);
    let made = make(NEVER, |call| call == 1, Some(Absent));
    assert!(made.failed.is_empty() && made.pictures == healthy.pictures && made.repeated == 1);
}

#[test]
fn an_image_that_cannot_be_made_again_keeps_the_picture_that_it_has() {
    let healthy = make(NEVER, NEVER, None);
    let demand = Demand { min: Some("50".parse().expect("a score")), retries: 2 };
    // The UNet falls ill when each image has its first picture.
    let made = make_good(|_| SCORED.lock().expect("no panic").len() >= 24, NEVER, None, Some(demand));
    assert_eq!((made.failed.len(), made.pictures.len(), made.scored.len()), (0, 24, 24));
    assert!(made.scored.values().all(|scored| scored.is_low && scored.clip_score.value() == 10.0));
    let cut_short: Vec<_> =
        made.scored.iter().filter(|(_, scored)| scored.retries < 2).map(|(ordinal, _)| ordinal).collect();
    assert!(!cut_short.is_empty() && made.repeated > 0, "some had no further picture");
    // Of equals the first is kept.
    assert!(made.pictures == healthy.pictures);
}
