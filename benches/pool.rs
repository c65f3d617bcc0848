//! The lane pool against fixed batches: the same rows, networks, code and lanes, timed in one process, one after the other.
//!
//! `make bench-pool` (`cargo bench --bench pool`). 500 rows of 4 to 50 steps, half of them with guidance, on the model that ships.
//!
//! - pool: every call takes whatever lanes wait.
//! - equal batches: rows that are equal in steps and guidance are called together, as many as there are lanes for, and the next
//!   batch begins when a batch is over; what a careful user of a pipeline does by hand.
//! - batches in order: rows in the manifest's order, as many as there are lanes for; a batch waits for its slowest member. (A
//!   pipeline could not even call these together; here they share calls while they last.)
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to say")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use image::RgbImage;
use nightshift::engine::{
    Counters, Embeddings, Engine, Images, Outcome, Pace, PromptStyle, Settings, Starter, TextEncoder, TextPart,
};
use nightshift::error::Result;
use nightshift::job::{ImageTask, Job};
use nightshift::model::ModelSpec;
use nightshift::noise::NoiseKind;
use nightshift::onnx::{Networks, Runtime, SessionOptions};
use nightshift::plan::{plan, tasks};
use nightshift::prompt::PromptTokenizer;
use nightshift::scheduler::SchedulerConfig;

const ROWS: u64 = 500;
const LANES: usize = 16;

/// The rows: 4 to 50 steps, guidance on and off, six prompts.
fn rows() -> Vec<Arc<Job>> {
    let prompts = ["a red heart", "a blue star on a white background", "a green ring", "a black cross", "a heart", ""];
    let row = |row: u64| Job {
        row,
        prompt: prompts[(row % 6) as usize].into(),
        seed: Some(row),
        scheduler: ["euler", "ddim", "dpmpp_2m"][(row % 3) as usize].into(),
        // A walk over all 47 numbers of steps that looks like none.
        num_inference_steps: 4 + (row * 29 % 47) as u32,
        guidance_scale: if row * 7 % 10 < 5 { 1.0 } else { 5.0 },
        lanes: if row * 7 % 10 < 5 { 1 } else { 2 },
        width: 64,
        height: 64,
        num_images_per_prompt: 1,
        ..Job::default()
    };
    (0..ROWS).map(|number| Arc::new(row(number))).collect()
}

/// Everything that the ways have in common.
struct Bench {
    spec: ModelSpec,
    config: SchedulerConfig,
    networks: Networks,
    tokenizer: PromptTokenizer,
}

/// What one way took.
struct Took {
    seconds: f64,
    calls: u64,
    occupancy: f64,
    pixels: blake3::Hash,
}

impl Bench {
    fn open() -> Result<Bench> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::env::set_current_dir(root).expect("the repository is there");
        let spec = ModelSpec::open(root.join("onnx/tiny-shapes"))?;
        let config = SchedulerConfig::from_json(&spec.scheduler_config)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let session = SessionOptions { threads, ..SessionOptions::default() };
        let networks = Networks::load(&Runtime::load(None)?, &spec, &session, false)?;
        let tokenizer = spec.texts[0].prompt_tokenizer()?;
        Ok(Bench { spec, config, networks, tokenizer })
    }

    /// Makes the batches one after the other, each to its end.
    fn make(&mut self, batches: Vec<Vec<ImageTask>>) -> Took {
        let counters = Counters::default();
        let started = Instant::now();
        let mut pictures = Vec::new();
        for batch in batches {
            let plan = plan(batch);
            let Networks { text_encoders, unet, vae_decoder, .. } = &mut self.networks;
            let encoder = &mut text_encoders[0] as &mut dyn TextEncoder;
            let parts = vec![TextPart { encoder, tokenizer: &self.tokenizer }];
            let recipe = &self.spec.recipe;
            let embeddings = Embeddings::new(parts, recipe, PromptStyle::default(), &plan);
            let read = |_: &Path| -> Result<RgbImage> { unreachable!("no row names a picture") };
            let images = Images::new(recipe, None, &read);
            let engine = Engine {
                starter: Starter::new(embeddings, images, recipe, &self.config, NoiseKind::TorchCpu),
                unet,
                vae: vae_decoder,
                fine_vae: None,
                gate: None,
                latents: &recipe.latents,
                settings: Settings { lanes: LANES, pixels: None, vae_batch: 4 },
                counters: &counters,
                begin: &|_| true,
            };
            let (sender, outcomes) = crossbeam_channel::unbounded();
            engine.generate(&plan, &|| Pace::Go, &sender);
            drop(sender);
            pictures.extend(outcomes.into_iter().filter_map(|outcome| match outcome {
                Outcome::Done(generated) => Some((generated.task.ordinal, generated.image.into_raw())),
                Outcome::Failed(..) => None,
            }));
        }
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(pictures.len() as u64, ROWS, "all were made");
        pictures.sort();
        let mut hasher = blake3::Hasher::new();
        for (_, pixels) in &pictures {
            hasher.update(pixels);
        }
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let occupancy = load(&counters.lanes_used) as f64 / load(&counters.lanes_offered) as f64;
        Took { seconds, calls: load(&counters.unet_calls), occupancy, pixels: hasher.finalize() }
    }
}

/// Rows that are equal in steps and guidance, as many as there are lanes for.
fn equal_batches(all: &[ImageTask]) -> Vec<Vec<ImageTask>> {
    let mut sorted = all.to_vec();
    let kind = |task: &ImageTask| (task.job.num_inference_steps, task.job.lanes);
    sorted.sort_by_key(kind);
    let groups = sorted.chunk_by(|a, b| kind(a) == kind(b));
    groups.flat_map(|group| group.chunks(LANES / group[0].job.lanes)).map(<[ImageTask]>::to_vec).collect()
}

/// Rows in their order, as many as there are lanes for.
fn batches_in_order(all: &[ImageTask]) -> Vec<Vec<ImageTask>> {
    let mut batches: Vec<Vec<ImageTask>> = vec![Vec::new()];
    let mut used = 0;
    for task in all {
        if used + task.job.lanes > LANES {
            batches.push(Vec::new());
            used = 0;
        }
        used += task.job.lanes;
        batches.last_mut().expect("there is one").push(task.clone());
    }
    batches
}

/// How the rows are cut into batches.
type Way = fn(&[ImageTask]) -> Vec<Vec<ImageTask>>;

fn main() {
    // `cargo test` builds benchmarks too, and runs them with this flag: nothing is timed in tests.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut bench = match Bench::open() {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("{error}\nhint: {}", error.how_to_fix().unwrap_or("make setup"));
            std::process::exit(1);
        }
    };
    let all = tasks(&rows(), 0);
    bench.make(vec![all.clone()]);
    println!("{ROWS} rows of 4 to 50 steps, half with guidance; {LANES} lanes; each way twice, the faster counts\n");
    println!("way                seconds  images/s  UNet calls  lanes used  pool's speed against it");
    let ways: [(&str, Way); 3] =
        [("pool", |all| vec![all.to_vec()]), ("equal batches", equal_batches), ("batches in order", batches_in_order)];
    let mut best: Vec<Option<Took>> = ways.iter().map(|_| None).collect();
    for _ in 0..2 {
        for (way, best) in ways.iter().zip(&mut best) {
            let took = bench.make((way.1)(&all));
            if best.as_ref().is_none_or(|best| took.seconds < best.seconds) {
                *best = Some(took);
            }
        }
    }
    let best: Vec<Took> = best.into_iter().flatten().collect();
    for ((name, _), took) in ways.iter().zip(&best) {
        assert_eq!(took.pixels, best[0].pixels, "the same pictures");
        println!(
            "{name:17} {:8.2} {:9.1} {:11} {:10.1} % {:12.2} x",
            took.seconds,
            ROWS as f64 / took.seconds,
            took.calls,
            100.0 * took.occupancy,
            took.seconds / best[0].seconds
        );
    }
}
