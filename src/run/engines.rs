//! `nightshift prepare`: everything that a night would do before its first image, done before the night. TensorRT builds its
//! engines, which takes minutes each, and keeps them; every device shows that it takes the networks and the shapes.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use ndarray::{Array2, Array4};
use serde::Serialize;

use super::bucket::with_local_manifests;
use super::foreseen::Foreseen;
use super::loading::Load;
use super::options::{JobOptions, Lanes};
use super::prepare::{Prepared, prepare};
use super::probing::{cells_of, unet_entry_of};
use super::sizing::unmeasured_lanes;
use crate::engine::{TextEncoder, VaeDecoder, time_unet};
use crate::error::Result;
use crate::onnx::{Device, Devices, GpuOptions, Kernels, Networks, Runtime};
use crate::plan::tasks;

/// What `prepare` takes.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Manifests, model and defaults.
    pub job: JobOptions,
    /// The devices of the night.
    pub devices: Devices,
    /// How networks are loaded on GPUs.
    pub gpu: GpuOptions,
    /// Lanes of the night.
    pub lanes: Lanes,
    /// ONNX Runtime's shared library.
    pub ort_lib: Option<PathBuf>,
}

/// What was made ready.
#[derive(Debug, Serialize)]
pub struct EngineReport {
    /// Each device.
    pub devices: Vec<DeviceReport>,
}

/// What was made ready on one device.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    /// The device.
    pub device: Device,
    /// Lanes of a call.
    pub lanes: usize,
    /// Seconds to load the networks.
    pub load: f64,
    /// Seconds to call each network once for every size of picture.
    pub first_calls: f64,
    /// Sizes that were called, in pixels.
    pub sizes: Vec<(u32, u32)>,
    /// Where the engines are, on TensorRT.
    pub engines: Option<PathBuf>,
}

/// Loads the networks on each device and calls them once with the shapes that the manifest asks for.
///
/// # Errors
/// As [`prepare`], or a device or network cannot be had.
pub fn build_engines(options: &EngineOptions) -> Result<EngineReport> {
    let prepared = prepare(&with_local_manifests(options.job.clone())?)?;
    super::report_bad_rows(&prepared.manifest);
    let foreseen = Foreseen::of(&tasks(&prepared.jobs, prepared.defaults.seed));
    let runtime = Runtime::load(options.ort_lib.as_deref())?;
    let model_hash = prepared.spec.hash()?;
    let load = Load {
        spec: &prepared.spec,
        model_hash: &model_hash,
        runtime: &runtime,
        prompts: options.job.prompts,
        foreseen: &foreseen,
    };
    let ready = |device| make_ready(device, load, &prepared, options);
    let devices = options.devices.resolve()?.into_iter().map(ready).collect::<Result<_>>()?;
    Ok(EngineReport { devices })
}

fn make_ready(device: Device, load: Load<'_>, prepared: &Prepared, options: &EngineOptions) -> Result<DeviceReport> {
    let spec = &prepared.spec;
    let lanes = match options.lanes {
        Lanes::Count(count) => count,
        Lanes::Auto => unmeasured_lanes(device),
    };
    let started = Instant::now();
    let session = load.session_options(device, (0, Kernels::default()), &options.gpu, lanes)?;
    let mut networks = Networks::load(load.runtime, spec, &session, load.foreseen.with_images)?;
    let loaded = started.elapsed().as_secs_f64();
    let called = Instant::now();
    let sizes = load.foreseen.sizes.clone();
    for (encoder, text) in networks.text_encoders.iter_mut().zip(&spec.texts) {
        encoder.encode(Array2::zeros((1, text.model_max_length)).view(), 0)?;
    }
    for size in &sizes {
        tracing::info!("{device}: {}x{} pixels, {lanes} lanes", size.0, size.1);
        let (height, width) = cells_of(spec, *size);
        time_unet(&mut networks.unet, unet_entry_of(spec, (height, width)), lanes)?;
        let latents = Array4::zeros((1, spec.recipe.latents.channels, height, width));
        networks.vae_decoder.decode(latents.view())?;
    }
    let first_calls = called.elapsed().as_secs_f64();
    Ok(DeviceReport { device, lanes, load: loaded, first_calls, sizes, engines: session.gpu.engine_cache })
}

impl fmt::Display for EngineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.devices {
            let DeviceReport { device, lanes, load, first_calls, sizes, engines } = report;
            write!(f, "{device}: networks loaded and optimized in {load:.1} s; {lanes} lanes a call, ")?;
            writeln!(f, "first calls for {} sizes of picture in {first_calls:.1} s", sizes.len())?;
            match (engines, device) {
                (Some(folder), _) => writeln!(f, "  engines in {}", folder.display())?,
                (None, Device::TensorRt(_)) => {
                    writeln!(f, "  engines are kept nowhere: name a folder with `--engine-cache`")?
                }
                (None, _) => writeln!(f, "  nothing is kept: only TensorRT has engines to build before the night")?,
            }
        }
        Ok(())
    }
}
