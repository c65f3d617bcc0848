//! Graphs with our own kernels against the same graphs with ONNX Runtime's, over real exports.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use ndarray::{Array4, Axis, Slice};
use nightshift::engine::{Unet, UnetInputs, VaeDecoder};
use nightshift::kernels;
use nightshift::model::ModelSpec;
use nightshift::onnx::{Kernels, Networks, SessionOptions};
use support::{fixtures, ramp, runtime};

/// Our operators in the UNet and the VAE decoder of a model folder.
type Replaced = [&'static [(&'static str, usize)]; 2];

fn load(spec: &ModelSpec, kernels: Kernels, threads: usize) -> Networks {
    let options = SessionOptions { kernels, threads, ..SessionOptions::default() };
    Networks::load(&runtime(), spec, &options, false).unwrap()
}

fn predict(unet: &mut dyn Unet, spec: &ModelSpec, lanes: std::ops::Range<usize>) -> Array4<f32> {
    let config = std::fs::read(spec.unet.file.config_path()).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let width = config["cross_attention_dim"].as_u64().unwrap() as usize;
    let channels = spec.unet.sample.fixed(1).unwrap_or(4);
    let sample: Array4<f32> = ramp(&[5, channels, 12, 20]).into_dimensionality().unwrap();
    let states = ramp(&[5, 77, width]).into_dimensionality().unwrap();
    let rows = Slice::from(lanes.clone());
    unet.predict(UnetInputs {
        sample: sample.slice_axis(Axis(0), rows),
        timesteps: &[500.0; 5][lanes.clone()],
        encoder_hidden_states: states.slice_axis(Axis(0), rows),
        pooled: None,
        time_ids: None,
        guidance_scales: &[1.0; 5][lanes],
    })
    .unwrap()
}

/// Both kernels agree to rounding, and ours give the same bits for any batch and any number of threads.
fn agree(folder: &Path, replaced: Replaced) {
    let spec = ModelSpec::open(folder).unwrap();
    let [mut own, mut plain] = [Kernels::Own, Kernels::OnnxRuntime].map(|kernels| load(&spec, kernels, 2));
    assert_eq!([own.unet.own_kernels(), own.vae_decoder.own_kernels()], replaced, "{}", folder.display());
    assert!(plain.unet.own_kernels().is_empty() && plain.vae_decoder.own_kernels().is_empty());
    let (made, expected) = (predict(&mut own.unet, &spec, 0..5), predict(&mut plain.unet, &spec, 0..5));
    close(&made, &expected);
    let mut single = load(&spec, Kernels::Own, 1);
    for lane in 0..5 {
        let alone = predict(&mut single.unet, &spec, lane..lane + 1);
        assert_eq!(alone.index_axis(Axis(0), 0), made.index_axis(Axis(0), lane), "lane {lane} of {}", folder.display());
    }
    let latents: Array4<f32> = ramp(&[2, 4, 9, 14]).into_dimensionality().unwrap();
    let decoded = own.vae_decoder.decode(latents.view()).unwrap();
    close(&decoded, &plain.vae_decoder.decode(latents.view()).unwrap());
    assert_eq!(single.vae_decoder.decode(latents.view()).unwrap(), decoded);
}

fn close(made: &Array4<f32>, expected: &Array4<f32>) {
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let error = made.iter().zip(expected).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
    assert!(error <= 2e-5 * largest, "{error} of {largest}");
}

#[test]
fn the_model_that_ships_runs_on_our_kernels() {
    if kernels::is_available() {
        let replaced: Replaced = [
            &[("Conv3x3", 17), ("Attention", 8), ("GroupNorm", 21)],
            &[("Conv3x3", 18), ("Attention", 1), ("GroupNorm", 17)],
        ];
        agree(Path::new("onnx/tiny-shapes"), replaced);
    }
}

#[test]
fn exports_of_optimum_run_on_our_kernels() {
    if kernels::is_available() {
        agree(
            &fixtures().join("optimum/sd15"),
            [&[("Attention", 8), ("GroupNorm", 21)], &[("Attention", 1), ("GroupNorm", 21)]],
        );
    }
}
