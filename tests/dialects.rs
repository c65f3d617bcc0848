//! Every exporter's layout opens as it is and computes what Python's onnxruntime computes
//! (`tests/fixtures/make_dialects.py` made the folders and says how).
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array, Array2, Array3, Array4, Axis, Dimension, array, concatenate};
use nightshift::engine::{Encoded, TextEncoder, TimestepInput, Unet, UnetInputs, VaeDecoder};
use nightshift::error::Error;
use nightshift::model::{Dtype, Family, Inspection, ModelSpec, TimestepShape};
use nightshift::onnx::{Networks, Runtime, SessionOptions};
use nightshift::prompt::PromptTokenizer;
use serde_json::Value;
use support::{copy, fixtures, ramp, runtime};

/// A folder of `dialects/`, with the tokenizers and the scheduler config that its exporter would leave there.
struct Dialect {
    name: &'static str,
    folder: tempfile::TempDir,
}

impl Dialect {
    fn new(name: &'static str) -> Dialect {
        let dialect = Dialect { name, folder: tempfile::tempdir().unwrap() };
        let (from, dir) = (fixtures(), dialect.dir());
        copy(&from.join("dialects").join(name), &dir);
        if name == "pyke" {
            fs::copy(from.join("tokenizer.json"), dir.join("tokenizer.json")).unwrap();
            return dialect;
        }
        copy(&from.join("tiny/scheduler"), &dir.join("scheduler"));
        copy(&from.join("tiny/tokenizer"), &dir.join("tokenizer"));
        match name {
            "amd-flux" => copy(&from.join("../golden/t5"), &dir.join("tokenizer_2")),
            name if name.contains("sdxl") => copy(&from.join("tiny/tokenizer"), &dir.join("tokenizer_2")),
            _ => {}
        }
        dialect
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn without(self, file: &str) -> Dialect {
        fs::remove_file(self.dir().join(file)).unwrap();
        self
    }

    fn open(&self) -> Result<ModelSpec, Error> {
        ModelSpec::open(self.dir())
    }

    fn spec(&self) -> ModelSpec {
        self.open().unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

const NAMES: [&str; 13] = [
    "optimum-1.6",
    "optimum-1.23",
    "optimum-1.24",
    "static",
    "diffusers-legacy",
    "olive-fp16",
    "olive-fp32",
    "olive-sdxl",
    "ort-demo",
    "ort-demo-sdxl",
    "nvidia-demo",
    "amd-flux",
    "pyke",
];

// Reading.

/// What `inspect` must say of a dialect: who made it, and every note that it must have.
const SAID: [(&str, &str, &[&str]); 13] = [
    ("optimum-1.6", "optimum up to 1.23", &["timestep is an integer", "no VAE encoder"]),
    ("optimum-1.23", "optimum up to 1.23", &["images at different steps share a call", "timestep is an integer"]),
    ("optimum-1.24", "optimum from 1.24 on", &["`onnx/widen_timestep.py` lifts that"]),
    ("static", "optimum from 1.24 on", &["batch is fixed to 2", "the size is fixed to 64x64"]),
    (
        "diffusers-legacy",
        "convert_stable_diffusion_checkpoint_to_onnx.py",
        &[
            "scaling_factor 0.18215",
            "the safety checker in the folder is not run",
            "512x512 where a row gives no size",
            "draws noise of its own",
        ],
    ),
    ("olive-fp16", "Olive", &["timestep is float16", "no config.json beside the UNet"]),
    ("olive-fp32", "Olive", &["images at different steps share a call"]),
    ("olive-sdxl", "Olive", &["scaling_factor 0.13025", "1024x1024 where a row gives no size"]),
    ("ort-demo", "demo of ONNX Runtime", &["timestep [1]", "no model_index.json", "timestep is float16"]),
    ("ort-demo-sdxl", "demo of ONNX Runtime", &["no model_index.json", "scaling_factor 0.13025", "guidance_scale 5"]),
    ("nvidia-demo", "demo of NVIDIA TensorRT", &["timestep [1]", "no model_index.json"]),
    ("amd-flux", "AMD's layout", &["scaling_factor 0.3611, shift_factor 0.1159", "one lane an image"]),
    (
        "pyke",
        "pyke Diffusers",
        &[
            "8 pixels a latent cell, shift_factor 0 assumed",
            "PNDM and the betas of Stable Diffusion 1",
            "no model_index.json",
        ],
    ),
];

#[test]
fn inspection_says_who_made_it_and_what_is_assumed() {
    for (name, dialect, notes) in SAID {
        let inspection = Inspection::new(&Dialect::new(name).spec());
        assert!(inspection.dialect.contains(dialect), "{name}: {}", inspection.dialect);
        for note in notes {
            assert!(
                inspection.notes.iter().any(|said| said.contains(note)),
                "{name}: `{note}` in {:#?}",
                inspection.notes
            );
        }
    }
}

#[test]
fn what_a_folder_has_is_not_assumed() {
    for name in ["optimum-1.23", "optimum-1.24", "static"] {
        assert_eq!(Dialect::new(name).spec().assumed, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn families_and_weights_are_found_in_every_layout() {
    for name in NAMES {
        let dialect = Dialect::new(name);
        let spec = dialect.spec();
        let family = match name {
            "amd-flux" => Family::Flux,
            name if name.contains("sdxl") => Family::StableDiffusionXl,
            _ => Family::StableDiffusion,
        };
        assert_eq!(spec.family, family, "{name}");
        let weights = match name {
            "diffusers-legacy" | "olive-fp16" => Some("weights.pb"),
            "olive-fp32" | "olive-sdxl" | "ort-demo-sdxl" => Some("model.onnx.data"),
            "amd-flux" => Some("c2f6a3de-7b1b-4a52-9d3e-0f4b8f1c2a77"),
            "pyke" => Some("unet_weights.bin"),
            _ => None,
        };
        assert_eq!(spec.unet.file.signature.external_data, Vec::from_iter(weights), "{name}");
        assert_eq!(spec.texts[0].model_max_length, 77, "{name}");
        spec.hash().unwrap();
    }
}

#[test]
fn a_folder_without_any_config_still_opens() {
    let names = ["model_index.json", "text_encoder/config.json", "unet/config.json", "vae_decoder/config.json"];
    let bare = names.into_iter().fold(Dialect::new("optimum-1.24"), Dialect::without);
    let spec = bare.without("tokenizer/tokenizer_config.json").spec();
    assert_eq!((spec.size_multiple, spec.default_size, spec.texts[0].model_max_length), (64, (512, 512), 77));
    let assumed = spec.assumed.join("\n");
    for part in ["77 assumed", "beside the VAE decoder", "no model_index.json", "beside the UNet"] {
        assert!(assumed.contains(part), "{part} in {assumed}");
    }
    let fixed = Dialect::new("static").without("vae_decoder/config.json").spec();
    assert_eq!(fixed.recipe.latents.vae_scale_factor, 8, "told by the decoder's dims");
}

#[test]
fn pykes_file_is_part_of_the_model() {
    let pyke = Dialect::new("pyke");
    let (before, file) = (pyke.spec(), pyke.dir().join("pyke-diffusers.toml"));
    assert_eq!(before.recipe.latents.scaling_factor, 0.2);
    assert_eq!(before.texts[0].model_max_length, 77);
    PromptTokenizer::new(&before.texts[0].tokenizer, 77).unwrap();
    let hash = before.hash().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("scale-factor = 0.2", "scale_factor = 0.3")).unwrap();
    let after = pyke.spec();
    assert_eq!(after.recipe.latents.scaling_factor, 0.3);
    assert_ne!(hash, after.hash().unwrap());
    for (from, to, message) in [
        ("[unet]", "[u]", "unet"),
        ("scale-factor = 0.2", "scale-factor = -1", "`scale-factor` must be above 0"),
        ("path = \"unet.onnx\"", "path = \"no.onnx\"", "no.onnx"),
    ] {
        fs::write(&file, text.replace(from, to)).unwrap();
        let error = pyke.open().unwrap_err().to_string();
        assert!(error.contains(message), "{message} in {error}");
    }
}

#[test]
fn a_schedule_is_only_assumed_where_the_layout_has_none() {
    let error = Dialect::new("ort-demo").without("scheduler/scheduler_config.json").open().unwrap_err();
    assert!(error.to_string().contains("scheduler_config.json"), "{error}");
    let own = Dialect::new("pyke");
    copy(&fixtures().join("tiny/scheduler"), &own.dir().join("scheduler"));
    assert!(own.spec().scheduler_config.contains("v_prediction"));
}

// Running.

fn encode(networks: &mut Networks) -> Vec<Encoded> {
    let ids = Array2::from_shape_fn((2, 77), |(text, i)| ((text * 77 + i) * 37 % 101) as i64);
    networks.text_encoders.iter_mut().map(|encoder| encoder.encode(ids.view(), 0).unwrap()).collect()
}

/// Texts, prediction and pixels of a folder, the one made of the other.
fn picture(spec: &ModelSpec, runtime: &Runtime) -> (Array3<f32>, Array4<f32>, Array4<f32>) {
    let options = SessionOptions { threads: 2, ..SessionOptions::default() };
    let mut networks = Networks::load(runtime, spec, &options, false).unwrap();
    let texts = encode(&mut networks);
    let states: Vec<_> =
        texts.iter().filter_map(|text| text.hidden_states.as_ref()).map(|states| states.view()).collect();
    let states = concatenate(Axis(2), &states).unwrap();
    let pooled = texts.iter().find_map(|text| text.pooled.as_ref());
    let sizes = array![[64.0, 64.0, 0.0, 0.0, 64.0, 64.0], [64.0, 64.0, 0.0, 8.0, 64.0, 64.0]];
    let timesteps = match networks.unet.timestep_input() {
        TimestepInput::PerLane => [999.0, 250.0],
        TimestepInput::Shared => [999.0, 999.0],
    };
    let sample: Array4<f32> = ramp(&[2, spec.recipe.latents.channels, 8, 8]).into_dimensionality().unwrap();
    let inputs = UnetInputs {
        sample: sample.view(),
        timesteps: &timesteps,
        encoder_hidden_states: states.view(),
        pooled: pooled.map(|pooled| pooled.view()),
        time_ids: spec.unet.time_ids.as_ref().map(|_| sizes.view()),
        guidance_scales: &[3.5, 3.5],
    };
    let prediction = networks.unet.predict(inputs).unwrap();
    let pixels = networks.vae_decoder.decode(prediction.view()).unwrap();
    (states, prediction, pixels)
}

fn assert_expected<D: Dimension>(
    expected: &[Value],
    (name, part): (&str, &str),
    output: &Array<f32, D>,
    tolerance: f64,
) {
    let expected = expected.iter().find(|one| one["name"] == name && one["part"] == part).unwrap();
    let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
    assert_eq!(output.shape(), shape, "{name} {part}");
    let spread: Vec<f64> = serde_json::from_value(expected["spread"].clone()).unwrap();
    for (got, want) in output.iter().step_by(output.len() / 7).zip(&spread) {
        assert!((f64::from(*got) - want).abs() < tolerance, "{name} {part}: {got} for {want}");
    }
    let mean = output.iter().map(|x| f64::from(*x)).sum::<f64>() / output.len() as f64;
    assert!((mean - expected["mean"].as_f64().unwrap()).abs() < tolerance, "{name} {part}: mean {mean}");
}

#[test]
fn every_dialect_computes_what_pythons_onnxruntime_computes() {
    let runtime = runtime();
    let expected = fs::read(fixtures().join("dialects/expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    // Dialects of one family, dtype and kind of timestep differ in names only: their bits are the same.
    let mut first: HashMap<_, (&str, Array4<f32>)> = HashMap::new();
    for name in NAMES {
        let dialect = Dialect::new(name);
        let spec = dialect.spec();
        let (states, prediction, pixels) = picture(&spec, &runtime);
        let tolerance = if spec.unet.sample.dtype == Dtype::Float16 { 2e-3 } else { 1e-5 };
        assert_expected(&expected, (name, "text"), &states, tolerance);
        assert_expected(&expected, (name, "unet"), &prediction, tolerance);
        assert_expected(&expected, (name, "vae"), &pixels, tolerance);
        let shared = spec.unet.timestep_shape != TimestepShape::PerLane;
        let kind = (format!("{:?}", spec.family), spec.unet.sample.dtype, shared);
        let (other, bits) = first.entry(kind).or_insert_with(|| (name, pixels.clone()));
        assert!(pixels.iter().zip(bits.iter()).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} and {other}");
    }
}

/// Not one of the thirteen folders is refused by `nightshift inspect`, and its words have no empty brackets.
#[test]
fn inspection_reads_well() {
    for name in NAMES {
        let text = Inspection::new(&Dialect::new(name).spec()).to_string();
        assert!(!text.contains("()") && !text.contains("(,"), "{text}");
        for part in ["dialect", "scheduler", "note"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

// Sharing calls.

/// Runs rows of 64x64 pixels with `dialect`; returns the pictures and standard error.
fn run(dialect: &Dialect, out: &Path, rows: usize, lanes: &str) -> (BTreeMap<String, Vec<u8>>, String) {
    let csv = dialect.folder.path().join("rows.csv");
    let row = |i: usize| format!("row {i},{i},{},{}\n", 2 + i % 2, if i == 0 { 1 } else { 4 });
    let rows: String = (0..rows).map(row).collect();
    fs::write(&csv, format!("prompt,seed,num_inference_steps,guidance_scale\n{rows}")).unwrap();
    let mut command = support::nightshift();
    command.arg("run").arg(csv).arg("--model").arg(dialect.dir()).arg("--out").arg(out).args(["--lanes", lanes]);
    command.args(["--width", "64", "--height", "64"]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    (support::pictures(out), stderr)
}

#[test]
fn a_network_that_mixes_its_entries_gets_one_a_call_and_the_run_says_so() {
    let mixing = Dialect::new("optimum-1.23");
    let graph = fixtures().join("dialects/repeating/unet/model.onnx");
    fs::copy(graph, mixing.dir().join("unet/model.onnx")).unwrap();
    let out = |name| mixing.folder.path().join(name);
    let (right, _) = run(&mixing, &out("one"), 4, "1");
    let (pictures, stderr) = run(&mixing, &out("eight"), 4, "8");
    assert!(pictures == right, "the pictures must not depend on the lanes asked for");
    assert_eq!(BTreeMap::from_iter(right.values().map(|bytes| (bytes, ()))).len(), 4, "four different pictures");
    assert!(stderr.contains("the UNet takes one entry a call") && stderr.contains("repeats the first"), "{stderr}");
    assert!(!stderr.contains("VAE decoder takes"), "{stderr}");

    let remembered = out("eight").join(".nightshift/probe.json");
    let text = fs::read_to_string(&remembered).unwrap();
    fs::write(&remembered, text.replace("its second entry repeats the first", "as we know")).unwrap();
    let (_, stderr) = run(&mixing, &out("eight"), 5, "8");
    assert!(stderr.contains("as we know"), "probed again: {stderr}");
}

#[test]
fn a_network_whose_entries_keep_apart_is_not_slowed_down() {
    for name in ["optimum-1.23", "static", "ort-demo-sdxl"] {
        let good = Dialect::new(name);
        let out = good.folder.path().join("out");
        let (pictures, stderr) = run(&good, &out, 2, "8");
        assert!(!stderr.contains("one entry a call") && !pictures.is_empty(), "{name}: {stderr}");
        let found = fs::read_to_string(out.join(".nightshift/probe.json")).unwrap();
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!((&found["unet"], &found["vae_decoder"]), (&Value::Null, &Value::Null), "{name}");
    }
}

#[test]
fn folders_that_optimum_itself_exported_run_as_they_are() {
    for (name, family) in [("sd15", Family::StableDiffusion), ("sdxl", Family::StableDiffusionXl)] {
        let folder = fixtures().join("optimum").join(name);
        let spec = ModelSpec::open(&folder).unwrap();
        assert_eq!(spec.family, family);
        let said = Inspection::new(&spec);
        assert!(said.dialect.contains("optimum from 1.24 on"), "{name}: {}", said.dialect);
        assert!(said.notes.iter().any(|note| note.contains("widen_timestep.py")), "{name}: {:#?}", said.notes);
        let out = tempfile::tempdir().unwrap();
        let text = "prompt,seed,steps,guidance_scale\na cat,1,3,5\na dog,2,4,1\na hat,3,3,7.5\n";
        let rows = support::manifest(&out, text);
        // A scalar timestep: lanes share a call only at equal timesteps, and the pictures are the same for any number of them.
        let made = ["1", "4"].map(|lanes| {
            let into = out.path().join(lanes);
            let mut command = support::nightshift();
            command.arg("run").arg(&rows).arg("--model").arg(&folder).arg("--out").arg(&into).args(["--lanes", lanes]);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            support::pictures(&into)
        });
        assert_eq!(made[0].len(), 3);
        assert_eq!(made[0], made[1], "{name}");
    }
}
