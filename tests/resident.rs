//! The UNet with inputs that stay on the device, here the processor: bit for bit what it gives without.

mod support;

use ndarray::{Array, Array2, Array3, Array4, Dimension, ShapeBuilder};
use nightshift::engine::{TimestepInput, Unet, UnetInputs};
use nightshift::model::ModelSpec;
use nightshift::onnx::{Binding, GpuOptions, OnnxUnet, SessionOptions};
use support::{fixtures, root, runtime};

/// What one image's worth of lanes is made of.
struct Inputs {
    sample: Array4<f32>,
    timesteps: Vec<f64>,
    states: Array3<f32>,
    pooled: Option<Array2<f32>>,
    time_ids: Option<Array2<f32>>,
    guidance: Vec<f64>,
}

fn wave<D: Dimension, S: ShapeBuilder<Dim = D>>(shape: S, start: f32) -> Array<f32, D> {
    let mut i = start;
    Array::from_shape_simple_fn(shape, || {
        i += 1.0;
        (i * 0.37).sin()
    })
}

impl Inputs {
    fn new(spec: &ModelSpec, lanes: usize, start: f32) -> Self {
        let unet = &spec.unet;
        let channels = if unet.packed() { spec.recipe.latents.channels } else { unet.sample.fixed(1).expect("known") };
        let cells = |pixels: u32| (pixels / spec.recipe.latents.vae_scale_factor).max(2) as usize;
        let (height, width) = (cells(spec.default_size.1), cells(spec.default_size.0));
        let tokens = unet.encoder_hidden_states.fixed(1).unwrap_or(spec.texts[0].model_max_length);
        let embed = unet.encoder_hidden_states.fixed(2).expect("known");
        Inputs {
            sample: wave((lanes, channels, height, width), start),
            timesteps: vec![f64::from(start) + 10.0; lanes],
            states: wave((lanes, tokens, embed), start + 0.5),
            pooled: unet.pooled.as_ref().map(|pooled| wave((lanes, pooled.fixed(1).expect("known")), start)),
            time_ids: unet.time_ids.as_ref().map(|ids| wave((lanes, ids.fixed(1).unwrap_or(6)), start)),
            guidance: vec![4.0; lanes],
        }
    }

    fn view(&self) -> UnetInputs<'_> {
        UnetInputs {
            sample: self.sample.view(),
            timesteps: &self.timesteps,
            encoder_hidden_states: self.states.view(),
            pooled: self.pooled.as_ref().map(|pooled| pooled.view()),
            time_ids: self.time_ids.as_ref().map(|ids| ids.view()),
            guidance_scales: &self.guidance,
        }
    }
}

#[test]
fn inputs_that_stay_change_no_bit() {
    let families = root().join("tests/golden/families");
    let models =
        [fixtures().join("tiny"), families.join("sdxl/model"), families.join("flux/model"), families.join("lcm/model")];
    for model in models {
        let spec = ModelSpec::open(&model).expect("a model");
        let load = |binding| {
            let gpu = GpuOptions { binding, ..GpuOptions::default() };
            let options = SessionOptions { gpu, threads: 2, ..SessionOptions::default() };
            OnnxUnet::load(&runtime(), &spec, &options).expect("a UNet")
        };
        let mut plain = load(Binding::Off);
        let mut residents = [Binding::On, Binding::Captured].map(load);
        assert!(matches!(plain.timestep_input(), TimestepInput::PerLane | TimestepInput::Shared));
        // Lanes come and go: what stayed must not be taken for what is new.
        for (round, lanes) in [2, 2, 3, 1, 2].into_iter().enumerate() {
            let mut inputs = Inputs::new(&spec, lanes, 17.0 * round as f32);
            let expected = plain.predict(inputs.view()).expect("it runs");
            for resident in &mut residents {
                assert_eq!(resident.predict(inputs.view()).expect("it runs"), expected, "{}", model.display());
            }
            for step in 1..3 {
                inputs.sample.mapv_inplace(|x| 0.9 * x + 0.01);
                inputs.timesteps.fill(100.0 / f64::from(step));
                let expected = plain.predict(inputs.view()).expect("it runs");
                for resident in &mut residents {
                    let got = resident.predict_again(inputs.view()).expect("it runs");
                    assert_eq!(got, expected, "{}: step {step}", model.display());
                }
            }
        }
    }
}
