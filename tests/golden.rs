//! Our schedulers and noise against diffusers' and torch's, number by number.
//!
//! `tests/golden/*.py` made the data, and say how.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array3, ArrayView3};
use nightshift::noise::NoiseKind;
use nightshift::scheduler::{ScheduleRequest, SchedulerConfig};
use serde::Deserialize;

/// What may differ, relative to the largest magnitude of each array.
const TOLERANCE: f32 = 1e-5;

/// The largest noise level for which diffusers' own f32 arithmetic is that good: linear betas end at 157. Euler's steps
/// from higher ones (4096 with zero terminal SNR, 20291 with cosine betas) leave a rounding error that grows with the
/// level, which differs between builds of torch: its f32 square root is not always the nearest number.
const HIGH_SIGMA: f32 = 200.0;

#[derive(Deserialize)]
struct Goldens {
    shape: (usize, usize, usize),
    seed: u64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    config: serde_json::Value,
    eta: f64,
    strength: Option<f64>,
    timesteps: Option<Vec<f64>>,
    sigmas: Option<Vec<f64>>,
    image_seq_len: Option<u32>,
    /// Numbers of steps, of evaluations and of sigmas.
    runs: Vec<(u32, usize, usize)>,
}

impl Case {
    fn request(&self, num_inference_steps: u32) -> ScheduleRequest {
        ScheduleRequest {
            num_inference_steps,
            eta: self.eta,
            strength_keeps_steps: false,
            strength: self.strength,
            timesteps: self.timesteps.clone(),
            sigmas: self.sigmas.clone(),
            image_seq_len: self.image_seq_len,
        }
    }

    /// Whether nothing but a number of steps and `eta` is asked for.
    fn is_plain(&self) -> bool {
        self.request(1) == ScheduleRequest { eta: self.eta, ..ScheduleRequest::steps(1) }
    }
}

/// One run of diffusers.
struct Trace {
    timesteps: Vec<f32>,
    /// Empty where the class has none.
    sigmas: Vec<f32>,
    init_noise_sigma: f32,
    steps: Vec<Step>,
}

/// One evaluation.
struct Step {
    /// The given picture with this timestep's noise, where there is one.
    noised: Option<Vec<f32>>,
    model_input: Vec<f32>,
    prev_sample: Vec<f32>,
}

impl Trace {
    /// Takes the next trace off `numbers`; `part_way` says whether it starts from a picture.
    fn take(
        numbers: &mut impl Iterator<Item = f32>,
        (evaluations, sigmas): (usize, usize),
        elements: usize,
        part_way: bool,
    ) -> Self {
        let mut next = |count: usize| -> Vec<f32> {
            let taken: Vec<f32> = numbers.by_ref().take(count).collect();
            assert_eq!(taken.len(), count, "schedulers.npy ends early");
            taken
        };
        Trace {
            timesteps: next(evaluations),
            sigmas: next(sigmas),
            init_noise_sigma: next(1)[0],
            steps: (0..evaluations)
                .map(|_| Step {
                    noised: part_way.then(|| next(elements)),
                    model_input: next(elements),
                    prev_sample: next(elements),
                })
                .collect(),
        }
    }
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the elements of a one-dimensional little-endian f32 `.npy` file of version 1.
fn npy(bytes: &[u8]) -> Vec<f32> {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(String::from_utf8_lossy(&bytes[10..start]).contains("'<f4'"));
    bytes[start..].as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// Returns every case with its number of steps and its trace.
fn traces() -> (Goldens, Vec<(usize, u32, Trace)>) {
    let goldens: Goldens = serde_json::from_slice(&golden("schedulers.json")).expect("schedulers.json");
    let mut numbers = npy(&golden("schedulers.npy")).into_iter();
    let elements = goldens.shape.0 * goldens.shape.1 * goldens.shape.2;
    let mut traces = Vec::new();
    for (index, case) in goldens.cases.iter().enumerate() {
        for &(n, evaluations, sigmas) in &case.runs {
            traces.push((
                index,
                n,
                Trace::take(&mut numbers, (evaluations, sigmas), elements, case.strength.is_some()),
            ));
        }
    }
    assert_eq!(numbers.next(), None, "schedulers.npy holds more than schedulers.json says");
    (goldens, traces)
}

/// What stands in for the network; tests/golden/make_scheduler_goldens.py has the same.
fn fake_model(x: ArrayView3<'_, f32>, t: f64) -> Array3<f32> {
    let output =
        |(k, x): (usize, &f32)| (0.3 * f64::from(*x) + 0.5 * (0.01 * t).sin() + 0.2 * (1.7 * k as f64).cos()).tanh();
    let values = x.iter().enumerate().map(|pair| output(pair) as f32).collect();
    Array3::from_shape_vec(x.dim(), values).expect("as many as before")
}

/// Returns the largest difference, relative to the largest magnitude of `expected`.
fn difference(actual: impl IntoIterator<Item = f32>, expected: &[f32]) -> f32 {
    let actual: Vec<f32> = actual.into_iter().collect();
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let differences = actual.iter().zip(expected).map(|(a, e)| (a - e).abs() / largest);
    differences.fold(0.0, |most, d| if d.is_nan() { f32::INFINITY } else { most.max(d) })
}

/// Returns how many times [`TOLERANCE`] the samples of a run may differ, where diffusers' own f32 arithmetic is not that good.
fn allowance(config: &serde_json::Value, n: u32, trace: &Trace) -> f32 {
    let class = config["_class_name"].as_str().expect("a class");
    let noise_is_integrated = class == "DEISMultistepScheduler"
        || config["predict_x0"] == false
        || config["algorithm_type"].as_str().is_some_and(|kind| kind.ends_with("dpmsolver"));
    // Noise over picture; flow matching tells the share of the noise.
    let highest = trace.sigmas.first().copied().unwrap_or_default();
    let level = if config["use_flow_sigmas"] == true { highest / (1.0 - highest) } else { highest };
    match class {
        // Its only step, from level 157 to the picture, is a difference of terms 157 times as large as itself.
        "PNDMScheduler" if n == 1 => 3.0,
        // torchsde rounds times, which are levels, to a millionth, and moves the noise of a step by the root of what it rounds
        // away. The last bits of levels differ between builds of torch (see HIGH_SIGMA), and so does what is rounded. That
        // the path itself is torchsde's to 1e-6, scheduler/brownian.rs tests with its numbers.
        "DPMSolverSDEScheduler" => 200.0,
        // The last bits of three f32 numbers that are as many times larger than the result as the level is high.
        _ if noise_is_integrated => (level * 3.0 * f32::EPSILON / TOLERANCE).max(1.0),
        _ if class.starts_with("Euler") => (highest / HIGH_SIGMA).max(1.0),
        _ => 1.0,
    }
}

/// Returns the differences from `trace` of our run of `n` steps: of the schedule's numbers, then of every sample.
fn differences(case: &Case, n: u32, trace: &Trace, goldens: &Goldens) -> Vec<(String, f32)> {
    let config = SchedulerConfig::from_json(&case.config.to_string()).expect("a config of ours");
    let schedule = Arc::new(config.schedule(&case.request(n)).expect("a schedule"));
    let as_f32 = |numbers: &[f64]| numbers.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let mut found = vec![
        ("timesteps".to_string(), difference(as_f32(schedule.timesteps()), &trace.timesteps)),
        ("sigmas".to_string(), difference(as_f32(schedule.sigmas().unwrap_or_default()), &trace.sigmas)),
        ("init_noise_sigma".to_string(), difference([schedule.init_noise_sigma() as f32], &[trace.init_noise_sigma])),
    ];
    let allowance = allowance(&case.config, n, trace);
    let mut sample = |what: String, actual: ArrayView3<'_, f32>, expected: &[f32]| {
        found.push((what, difference(actual.iter().copied(), expected) / allowance));
    };
    let mut noise = NoiseKind::TorchCpu.source(goldens.seed);
    let picture = case.strength.map(|_| noise.draw(goldens.shape));
    let fresh = noise.draw(goldens.shape);
    let noised = |i: usize| picture.as_ref().map(|picture| schedule.add_noise(i, picture.view(), fresh.view()));
    let mut sampler = noised(0).map_or_else(|| schedule.start(fresh.clone()), |latents| schedule.start_from(latents));
    for (i, step) in trace.steps.iter().enumerate() {
        if let (Some(actual), Some(expected)) = (noised(i), &step.noised) {
            sample(format!("add_noise {i}"), actual.view(), expected);
        }
        let eval = sampler.request().expect("as many steps");
        sample(format!("model_input {i}"), eval.model_input.view(), &step.model_input);
        let output = fake_model(eval.model_input.view(), eval.timestep);
        sampler.advance(output.view(), &mut *noise);
        sample(format!("prev_sample {i}"), sampler.latents(), &step.prev_sample);
    }
    assert_eq!(sampler.request(), None, "done after {n} steps");
    assert_eq!(noised(trace.steps.len()), picture, "nothing is left of the noise");
    found
}

#[test]
fn every_trace_of_diffusers_is_followed() {
    let (goldens, traces) = traces();
    let mut worst = BTreeMap::<String, f32>::new();
    let mut failures = Vec::new();
    for (index, n, trace) in &traces {
        let case = &goldens.cases[*index];
        let most = worst.entry(case.config["_class_name"].to_string()).or_default();
        for (what, difference) in differences(case, *n, trace, &goldens) {
            *most = most.max(difference);
            if difference > TOLERANCE {
                failures.push((difference, format!("{what} of {:?}: {}", case.request(*n), case.config)));
            }
        }
    }
    println!("{} traces; largest differences {worst:?}", traces.len());
    failures.sort_by(|a, b| b.0.total_cmp(&a.0));
    let lines: Vec<_> = failures.iter().take(20).map(|(difference, what)| format!("{difference:e} {what}")).collect();
    let count = failures.len();
    assert!(failures.is_empty(), "{count} failures; largest differences {worst:?}\n{}", lines.join("\n"));
}

/// The tolerance must tell algorithms apart, or the test above proves nothing.
#[test]
fn goldens_of_different_schedulers_differ_by_far_more_than_the_tolerance() {
    let (goldens, traces) = traces();
    let mut groups = BTreeMap::<String, Vec<(String, &Trace)>>::new();
    for (index, n, trace) in traces.iter().filter(|(index, n, _)| *n >= 10 && goldens.cases[*index].is_plain()) {
        let case = &goldens.cases[*index];
        let mut config = case.config.clone();
        let fields = config.as_object_mut().expect("a config");
        // DDIM with an `eta` of 1 is DDPM.
        let same = |class: &str| fields["_class_name"] == class;
        // Of first order, blocks of steps are steps.
        let order = fields.get("solver_order").and_then(serde_json::Value::as_u64);
        if same("DDPMScheduler") || (same("DPMSolverSinglestepScheduler") && order == Some(1)) {
            continue;
        }
        let class = fields.remove("_class_name").expect("a class").to_string();
        let karras = fields.remove("use_karras_sigmas").is_some_and(|on| on == true);
        // What only one class has is part of the group's name and so leaves it alone in its group.
        if fields.get("clip_sample").is_some_and(|clips| clips == false) {
            fields.remove("clip_sample");
        }
        groups.entry(format!("{n} {config}")).or_default().push((format!("{class} {karras} {}", case.eta), trace));
    }
    let mut pairs = 0;
    for (group, members) in groups {
        for (i, (name, a)) in members.iter().enumerate() {
            for (other, b) in &members[..i] {
                // Over all steps: DDIM and Euler arrive at the same picture, in other variables on the way.
                let steps = a.steps.iter().zip(&b.steps);
                let difference =
                    steps.map(|(a, b)| difference(a.prev_sample.iter().copied(), &b.prev_sample)).fold(0.0, f32::max);
                assert!(difference > 10.0 * TOLERANCE, "{name} and {other} differ by {difference:e} only: {group}");
                pairs += 1;
            }
        }
    }
    assert!(pairs > 300, "{pairs} pairs");
}

#[derive(Deserialize)]
struct NoiseGoldens {
    streams: Vec<Stream>,
    numpy_streams: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    seed: u64,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    shape: (usize, usize, usize),
    /// Bits of the first values, at most 256.
    first: Vec<u32>,
    /// Bits of the last values, at most 16.
    last: Vec<u32>,
}

#[test]
fn torch_cpu_and_numpy_noise_is_theirs_bit_for_bit() {
    let goldens: NoiseGoldens = serde_json::from_slice(&golden("noise.json")).expect("noise.json");
    assert_eq!((goldens.streams.len(), goldens.numpy_streams.len()), (15, 3));
    let torch = goldens.streams.into_iter().map(|stream| (NoiseKind::TorchCpu, stream));
    let numpy = goldens.numpy_streams.into_iter().map(|stream| (NoiseKind::Numpy, stream));
    for (kind, Stream { seed, draws }) in torch.chain(numpy) {
        let mut noise = kind.source(seed);
        for (number, Draw { shape, first, last }) in draws.into_iter().enumerate() {
            let bits: Vec<u32> = noise.draw(shape).iter().map(|x| x.to_bits()).collect();
            assert_eq!(bits[..first.len()], first, "{kind}, seed {seed}, draw {number} {shape:?}");
            assert_eq!(bits[bits.len() - last.len()..], last, "{kind}, seed {seed}, draw {number} {shape:?}");
        }
    }
}
