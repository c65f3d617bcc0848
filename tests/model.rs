//! Model folders and networks, on small real graphs (`tests/fixtures/make_fixtures.py` made them) and the real library.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array, Array2, Array3, Array4, ArrayView2, ArrayView3, ArrayView4, Axis, Slice, s};
use nightshift::engine::{TextEncoder, TimestepInput, Unet, UnetInputs, VaeDecoder};
use nightshift::error::{Error, ErrorKind};
use nightshift::model::{Family, Inspection, ModelSpec, TimestepShape, read_signature};
use nightshift::onnx::{Device, Doctor, Networks, OnnxUnet, Runtime, SessionOptions};
use nightshift::prompt::{PromptTokenizer, TokenizerFiles};
use serde_json::Value;
use support::{copy, fixtures, ramp, runtime};

fn tiny() -> ModelSpec {
    ModelSpec::open(fixtures().join("tiny")).unwrap()
}

fn threads(threads: usize) -> SessionOptions {
    SessionOptions { threads, ..SessionOptions::default() }
}

/// A copy of `tiny` that a test may break.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        copy(&fixtures().join("tiny"), &folder.path("model"));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, name: &str, content: &str) -> Folder {
        fs::write(self.path("model").join(name), content).unwrap();
        self
    }

    /// Puts a graph of `graphs/` (and its weights) into a part of the model.
    fn with_graph(self, part: &str, graph: &str) -> Folder {
        let target = self.path("model").join(part);
        fs::copy(fixtures().join("graphs").join(graph), target.join("model.onnx")).unwrap();
        if graph == "external.onnx" {
            fs::copy(fixtures().join("graphs/weights.pb"), target.join("weights.pb")).unwrap();
        }
        self
    }

    fn without(self, name: &str) -> Folder {
        fs::remove_file(self.path("model").join(name)).unwrap();
        self
    }

    fn open(&self) -> Result<ModelSpec, Error> {
        ModelSpec::open(self.path("model"))
    }

    /// The error of a folder that must not open, in one line with its hint.
    fn refusal(self) -> String {
        let error = self.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{error}");
        format!("{error} | {}", error.how_to_fix().unwrap_or_default())
    }
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn sample(lanes: usize) -> Array4<f32> {
    ramp(&[lanes, 4, 8, 8]).into_dimensionality().unwrap()
}

fn states(lanes: usize) -> Array3<f32> {
    ramp(&[lanes, 77, 16]).into_dimensionality().unwrap()
}

/// Calls a UNet that takes nothing but these.
fn predict(
    unet: &mut OnnxUnet,
    sample: ArrayView4<'_, f32>,
    timesteps: &[f64],
    encoder_hidden_states: ArrayView3<'_, f32>,
) -> Result<Array4<f32>, Error> {
    let guidance_scales = vec![1.0; timesteps.len()];
    let (pooled, time_ids, guidance_scales) = (None, None, &guidance_scales[..]);
    unet.predict(UnetInputs { sample, timesteps, encoder_hidden_states, pooled, time_ids, guidance_scales })
}

/// Returns the hidden states of the first text encoder.
fn encode(networks: &mut Networks, ids: ArrayView2<'_, i64>) -> Result<Array3<f32>, Error> {
    Ok(networks.text_encoders[0].encode(ids, 0)?.hidden_states.unwrap())
}

fn ids(texts: usize) -> Array2<i64> {
    Array::from_shape_fn((texts, 77), |(text, i)| ((text * 77 + i) * 37 % 101) as i64)
}

fn assert_expected<D: ndarray::Dimension>(name: &str, output: &Array<f32, D>, tolerance: f64) {
    let expected = json("expected.json");
    let expected = expected.as_array().unwrap().iter().find(|expected| expected["name"] == name).unwrap();
    let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
    assert_eq!(output.shape(), shape, "{name}");
    let first: Vec<f64> = serde_json::from_value(expected["first"].clone()).unwrap();
    for (got, want) in output.iter().zip(&first) {
        assert!((f64::from(*got) - want).abs() < tolerance, "{name}: {got} for {want}");
    }
    let mean = output.iter().map(|x| f64::from(*x)).sum::<f64>() / output.len() as f64;
    assert!((mean - expected["mean"].as_f64().unwrap()).abs() < tolerance, "{name}: mean {mean}");
}

fn assert_same_bits<D: ndarray::Dimension>(a: &Array<f32, D>, b: &Array<f32, D>, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let different = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(different, 0, "{what}: {different} of {} values differ", a.len());
}

// Reading a folder.

#[test]
fn a_folder_tells_what_it_is() {
    let spec = tiny();
    assert_eq!((spec.name.as_str(), spec.class_name.as_str()), ("tiny", "StableDiffusionPipeline"));
    assert_eq!(spec.family, Family::StableDiffusion);
    let latents = &spec.recipe.latents;
    assert_eq!((latents.channels, latents.vae_scale_factor, latents.scaling_factor), (4, 2, 0.5));
    assert_eq!((spec.texts[0].model_max_length, latents.shift_factor), (77, 0.0));
    assert_eq!((spec.default_size, spec.size_multiple, spec.fixed_size), ((16, 16), 4, None));
    assert_eq!(spec.unet.timestep_shape, TimestepShape::PerLane);
    assert!(spec.scheduler_config.contains("v_prediction"));
    let signature = &spec.texts[0].graph.file.signature;
    assert_eq!((signature.opset, signature.producer.as_str()), (Some(18), "make_fixtures"));
    let inputs: Vec<_> = spec.unet.file.signature.inputs.iter().map(ToString::to_string).collect();
    assert_eq!(inputs[0], "`sample` float32 [batch, 4, height, width]");
    assert_eq!(inputs[1], "`timestep` float32 [batch]");
    assert_eq!(spec.unet.out_sample.name, "out_sample");
}

#[test]
fn inspection_says_what_follows() {
    let inspection = Inspection::new(&tiny());
    let text = inspection.to_string();
    for part in
        ["16x16, multiples of 4", "scaling_factor 0.5", "v_prediction", "images at different steps share a call"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["graphs"][1]["signature"]["inputs"][0]["dims"][1], 4);
    let half = Inspection::new(&Folder::new().with_graph("unet", "half.onnx").open().unwrap()).to_string();
    assert!(half.contains("timestep is float16"), "{half}");
}

#[test]
fn missing_and_broken_files_are_named_with_what_to_do() {
    let missing = ModelSpec::open("no/such/model").unwrap_err().to_string();
    assert!(missing.contains("no/such/model: cannot open the model folder"), "{missing}");
    let refusal = Folder::new().without("tokenizer/merges.txt").refusal();
    assert!(refusal.contains("tokenizer/tokenizer.json") && refusal.contains("`merges.txt`"), "{refusal}");
    for name in ["scheduler/scheduler_config.json", "unet/model.onnx"] {
        let refusal = Folder::new().without(name).refusal();
        assert!(refusal.contains(name) && refusal.contains("lacks this file"), "{refusal}");
    }
    let refusal = Folder::new().with("model_index.json", "{").refusal();
    assert!(refusal.contains("not valid JSON"), "{refusal}");
    let refusal = Folder::new().with("unet/model.onnx", "<html>").refusal();
    assert!(refusal.contains("not a complete ONNX graph"), "{refusal}");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    let refusal = Folder::new().with("unet/model.onnx", pointer).refusal();
    assert!(refusal.contains("git lfs pull"), "{refusal}");
    let refusal = Folder::new().with_graph("unet", "external.onnx").without("unet/weights.pb").refusal();
    assert!(refusal.contains("weights.pb"), "{refusal}");
}

#[test]
fn a_graph_that_is_cut_off_anywhere_is_an_error() {
    let whole = fs::read(fixtures().join("tiny/vae_decoder/model.onnx")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for end in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(read_signature(&path).is_err(), "cut at {end}");
    }
}

#[test]
fn parts_that_do_not_fit_are_named_both() {
    let config = |extra: &str| format!(r#"{{"block_out_channels": [8, 8], "latent_channels": 4{extra}}}"#);
    let folder = Folder::new().with("tokenizer/tokenizer_config.json", r#"{"model_max_length": 32}"#);
    let refusal = folder.refusal();
    assert!(refusal.contains("`model_max_length` has 32") && refusal.contains("input_ids"), "{refusal}");
    let refusal = Folder::new().with_graph("text_encoder", "scalar.onnx").refusal();
    assert!(refusal.contains("text_encoder/model.onnx: the graph has no input `input_ids`"), "{refusal}");
    let refusal = Folder::new().with_graph("unet", "ids_int32.onnx").refusal();
    assert!(refusal.contains("the graph has no input `sample`"), "{refusal}");
    let statistics = config(r#", "latents_mean": [0, 1], "latents_std": [1]"#);
    let refusal = Folder::new().with("vae_decoder/config.json", &statistics).refusal();
    assert!(refusal.contains("as many as `latents_mean`"), "{refusal}");
    let refusal = Folder::new().with("vae_decoder/config.json", &config(r#", "scaling_factor": "x""#)).refusal();
    assert!(refusal.contains("`scaling_factor` must be a number, not `\"x\"`"), "{refusal}");
    let old = Folder::new().with("vae_decoder/config.json", &config("")).open().unwrap();
    assert_eq!(old.recipe.latents.scaling_factor, 0.18215, "configs older than the key");
}

#[test]
fn families_that_we_cannot_run_are_said_to_be_so() {
    for class in ["PixArtSigmaPipeline", "ORTSanaPipeline", "StableDiffusionUpscalePipeline"] {
        let refusal = Folder::new().with("model_index.json", &format!(r#"{{"_class_name": "{class}"}}"#)).refusal();
        assert!(refusal.contains(class) && refusal.contains("not supported yet"), "{refusal}");
    }
}

#[test]
fn a_folder_without_configs_is_known_by_its_graphs() {
    let folder = Folder::new().without("model_index.json").without("vae_decoder/config.json");
    let spec = folder.open().unwrap();
    assert_eq!((spec.family, spec.class_name.as_str()), (Family::StableDiffusion, ""));
    let latents = &spec.recipe.latents;
    assert_eq!((latents.scaling_factor, latents.vae_scale_factor, latents.channels), (0.18215, 8, 4));
    let text = Inspection::new(&spec).to_string();
    assert!(text.contains("no config.json beside the VAE decoder: 8 pixels a latent cell"), "{text}");
}

#[test]
fn the_hash_changes_with_every_file_that_changes_pixels() {
    let hash = |folder: Folder| folder.open().unwrap().hash().unwrap();
    let original = hash(Folder::new());
    assert_eq!(original.len(), 64);
    assert_eq!(original, tiny().hash().unwrap(), "wherever the folder is");
    assert_eq!(original, hash(Folder::new().with("README.md", "words")), "words change no pixels");
    let changed = [
        hash(Folder::new().with("scheduler/scheduler_config.json", "{}")),
        hash(Folder::new().with("tokenizer/special_tokens_map.json", "{}")),
        hash(Folder::new().with_graph("unet", "external.onnx")),
        hash(Folder::new().with_graph("unet", "external.onnx").with("unet/weights.pb", &"x".repeat(576))),
    ];
    for (i, hash) in changed.iter().enumerate() {
        assert!(*hash != original && !changed[..i].contains(hash), "{i}");
    }
}

// Tokens.

#[test]
fn ids_are_those_of_transformers_on_both_paths() {
    let json_file = TokenizerFiles {
        json: Some(fs::read(fixtures().join("tokenizer.json")).unwrap()),
        ..TokenizerFiles::default()
    };
    let files = tiny().texts[0].tokenizer.clone();
    assert_eq!(files.json, None, "this path must go through vocab.json");
    for (name, files) in [("vocab.json", files), ("tokenizer.json", json_file)] {
        let tokenizer = PromptTokenizer::new(&files, 77).unwrap();
        for case in json("prompts.json").as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let tokens = tokenizer.encode(text).unwrap();
            let expected: Vec<i64> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokens.input_ids, expected, "{name}: {text:?}");
            assert_eq!(tokens.count, case["count"].as_u64().unwrap() as usize, "{name}: {text:?}");
            assert_eq!(tokens.truncated.is_some(), tokens.count > 77, "{name}: {text:?}");
        }
    }
}

// Running networks.

#[test]
fn networks_compute_what_pythons_onnxruntime_computes() {
    let mut networks = Networks::load(&runtime(), &tiny(), &threads(1), false).unwrap();
    assert_expected("tiny/text_encoder", &encode(&mut networks, ids(2).view()).unwrap(), 1e-5);
    let prediction = predict(&mut networks.unet, sample(2).view(), &[999.0, 250.0], states(2).view()).unwrap();
    assert_expected("tiny/unet", &prediction, 1e-5);
    assert_expected("tiny/vae_decoder", &networks.vae_decoder.decode(sample(2).view()).unwrap(), 1e-5);
}

#[test]
fn every_dialect_of_inputs_is_fed() {
    let runtime = runtime();
    let cases = [
        ("scalar", [999.0, 999.0], TimestepInput::Shared, 1e-5),
        ("one", [999.0, 999.0], TimestepInput::Shared, 1e-5),
        ("half", [999.0, 250.0], TimestepInput::PerLane, 2e-3),
        ("external", [999.0, 250.0], TimestepInput::PerLane, 1e-5),
    ];
    for (name, timesteps, input, tolerance) in cases {
        let spec = Folder::new().with_graph("unet", &format!("{name}.onnx"));
        let mut unet = OnnxUnet::load(&runtime, &spec.open().unwrap(), &threads(1)).unwrap();
        assert_eq!(unet.timestep_input(), input, "{name}");
        assert_expected(name, &predict(&mut unet, sample(2).view(), &timesteps, states(2).view()).unwrap(), tolerance);
        if input == TimestepInput::Shared {
            let error = predict(&mut unet, sample(2).view(), &[999.0, 1.0], states(2).view()).unwrap_err();
            assert_eq!(error.code(), "mixed_timesteps");
        }
    }
    let folder = Folder::new().with_graph("text_encoder", "ids_int32.onnx");
    let mut networks = Networks::load(&runtime, &folder.open().unwrap(), &threads(1), false).unwrap();
    assert_expected("ids_int32", &encode(&mut networks, ids(2).view()).unwrap(), 1e-5);
}

#[test]
fn a_graph_of_one_size_gets_just_that() {
    let spec = Folder::new().with_graph("unet", "fixed.onnx");
    let spec = spec.open().unwrap();
    assert_eq!((spec.fixed_lanes, spec.fixed_size, spec.default_size), (Some(2), Some((16, 16)), (16, 16)));
    let mut unet = OnnxUnet::load(&runtime(), &spec, &threads(4)).unwrap();
    let three = predict(&mut unet, sample(3).view(), &[999.0; 3], states(3).view()).unwrap();
    assert_eq!(three.shape(), [3, 4, 8, 8]);
    assert_expected("scalar", &three.slice(s![..2, .., .., ..]).to_owned(), 1e-5);
    let last =
        predict(&mut unet, sample(3).slice(s![2.., .., .., ..]), &[999.0], states(3).slice(s![2.., .., ..])).unwrap();
    assert_same_bits(&last, &three.slice(s![2.., .., .., ..]).to_owned(), "the lane that filled its call up");
    let wide = ramp(&[1, 4, 8, 12]).into_dimensionality().unwrap();
    assert_eq!(predict(&mut unet, wide.view(), &[1.0], states(1).view()).unwrap_err().code(), "graph_shape");
}

#[test]
fn a_lane_has_the_same_bits_in_every_batch_and_with_any_number_of_threads() {
    let (runtime, spec) = (runtime(), tiny());
    let (sample, states) = (sample(7), states(7));
    let timesteps = [999.0, 1.0, 250.5, 998.0, 3.0, 500.0, 77.0];
    let mut reference = None;
    for count in [1, 2, 3, 5] {
        let mut unet = OnnxUnet::load(&runtime, &spec, &threads(count)).unwrap();
        for batch in [7, 1, 2, 3] {
            let calls = (0..7).step_by(batch).map(|start| {
                let lanes = Slice::from(start..(start + batch).min(7));
                let times = &timesteps[start..(start + batch).min(7)];
                predict(&mut unet, sample.slice_axis(Axis(0), lanes), times, states.slice_axis(Axis(0), lanes)).unwrap()
            });
            let calls: Vec<_> = calls.collect();
            let views: Vec<_> = calls.iter().map(|call| call.view()).collect();
            let output = ndarray::concatenate(Axis(0), &views).unwrap();
            let reference = reference.get_or_insert_with(|| output.clone());
            assert_same_bits(reference, &output, &format!("UNet, {count} threads, batches of {batch}"));
        }
    }
}

#[test]
fn neighbours_and_their_order_do_not_matter() {
    let mut unet = OnnxUnet::load(&runtime(), &tiny(), &threads(2)).unwrap();
    let (sample, states) = (sample(3), states(3));
    let forward = predict(&mut unet, sample.view(), &[9.0, 90.0, 900.0], states.view()).unwrap();
    // A reversed view is not in standard layout: it must be copied right, too.
    let (x, s) = (sample.slice(s![..;-1, .., .., ..]), states.slice(s![..;-1, .., ..]));
    let backward = predict(&mut unet, x, &[900.0, 90.0, 9.0], s).unwrap();
    assert_same_bits(&forward, &backward.slice(s![..;-1, .., .., ..]).to_owned(), "reversed");
}

#[test]
fn a_text_and_an_image_have_the_same_bits_alone_and_among_others() {
    let (runtime, spec) = (runtime(), tiny());
    let mut first = None;
    for count in [1, 2, 4] {
        let mut networks = Networks::load(&runtime, &spec, &threads(count), false).unwrap();
        let texts = encode(&mut networks, ids(5).view()).unwrap();
        // 12 × 16 cells: more than 128 and less than 512, where a VAE's attention needs care.
        let latents = ramp(&[3, 4, 12, 16]).into_dimensionality::<ndarray::Ix4>().unwrap();
        let images = networks.vae_decoder.decode(latents.view()).unwrap();
        for i in 0..5 {
            let alone = encode(&mut networks, ids(5).slice(s![i..=i, ..])).unwrap();
            assert_same_bits(&alone, &texts.slice(s![i..=i, .., ..]).to_owned(), "text");
        }
        for i in 0..3 {
            let alone = networks.vae_decoder.decode(latents.slice(s![i..=i, .., .., ..])).unwrap();
            assert_same_bits(&alone, &images.slice(s![i..=i, .., .., ..]).to_owned(), "image");
        }
        let (first_texts, first_images) = first.get_or_insert_with(|| (texts.clone(), images.clone()));
        assert_same_bits(first_texts, &texts, &format!("texts, {count} threads"));
        assert_same_bits(first_images, &images, &format!("images, {count} threads"));
    }
}

#[test]
fn wrong_shapes_name_graph_input_and_both_shapes() {
    let mut networks = Networks::load(&runtime(), &tiny(), &threads(1), false).unwrap();
    let wide = ramp(&[1, 77, 32]).into_dimensionality().unwrap();
    let error = predict(&mut networks.unet, sample(1).view(), &[1.0], wide.view()).unwrap_err().to_string();
    assert!(
        error.contains("unet/model.onnx: the UNet takes `encoder_hidden_states` float32 [batch, sequence, 16]"),
        "{error}"
    );
    assert!(error.contains("[1, 77, 32]"), "{error}");
    let error = predict(&mut networks.unet, sample(2).view(), &[1.0], states(2).view()).unwrap_err();
    assert_eq!(error.code(), "lanes_differ");
    let short = Array2::zeros((1, 9));
    assert_eq!(encode(&mut networks, short.view()).unwrap_err().code(), "graph_shape");
}

#[test]
fn a_graph_that_onnx_runtime_refuses_is_a_model_error() {
    let bytes = fs::read(fixtures().join("tiny/vae_decoder/model.onnx")).unwrap();
    let broken: Vec<u8> =
        String::from_utf8_lossy(&bytes).contains("Sigmoid").then(|| replace(&bytes, b"Sigmoid", b"Sigmoit")).unwrap();
    let folder = Folder::new();
    fs::write(folder.path("model/vae_decoder/model.onnx"), broken).unwrap();
    let error = Networks::load(&runtime(), &folder.open().unwrap(), &threads(1), false).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Model, "graph_refused"), "{error}");
    assert!(error.to_string().contains("Sigmoit"), "{error}");
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<_> = (0..=bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from)).collect();
    places.into_iter().for_each(|i| bytes[i..i + to.len()].copy_from_slice(to));
    bytes
}

// Devices and the library.

#[test]
fn a_gpu_that_is_not_there_is_an_error_never_the_cpu() {
    let runtime = runtime();
    // On a machine with a GPU this test has nothing to say.
    if Path::new("/dev/nvidiactl").exists() {
        return;
    }
    for device in [Device::Cuda(0), Device::TensorRt(0)] {
        let error = Networks::load(&runtime, &tiny(), &SessionOptions { device, ..SessionOptions::default() }, false)
            .unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Provider, "no_device"), "{error}");
        assert!(error.to_string().contains(&device.to_string()), "{error}");
        assert!(error.how_to_fix().unwrap().contains("--device cpu"), "{error}");
    }
}

#[test]
fn the_doctor_names_the_library_and_its_devices() {
    let runtime = runtime();
    let doctor = Doctor::examine(None);
    assert!(doctor.is_well(), "{doctor}");
    assert_eq!(doctor.library.as_deref(), Some(runtime.library()));
    assert_eq!(doctor.devices[0], "cpu");
    assert!(doctor.to_string().contains("ONNX Runtime"), "{doctor}");
    assert!(doctor.threads >= 1);
}

#[test]
fn a_second_library_in_one_process_is_refused() {
    let runtime = runtime();
    assert_eq!(Runtime::load(Some(runtime.library())).unwrap().library(), runtime.library());
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("libonnxruntime.so");
    fs::write(&other, "not a library").unwrap();
    let error = Runtime::load(Some(&other)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Provider);
    assert!(error.to_string().contains("already loaded"), "{error}");
}
