//! One graph, loaded on one device.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use ndarray::{Array, ArrayD, Dimension};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, TensorElementType};

use super::binding::Bound;
use super::captured::{CallInputs, Captured};
use super::device::Device;
use super::gpu_options::GpuOptions;
use super::operators::operators;
use super::placement::{self, refuse_cpu_nodes};
use super::providers::providers;
use super::rewrite::{self, Part, Rewritten, rewrite};
use super::runtime::{Runtime, with_complaints};
use super::tensor::float_output;
use crate::error::{Error, ErrorKind, Location, OUT_OF_MEMORY, Result};
use crate::kernels;
use crate::model::{Dtype, GraphFile, TensorInfo};

/// Whose kernels compute what both have on a processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernels {
    /// Ours, where the processor is of a kind that they know.
    #[default]
    Own,
    /// ONNX Runtime's.
    #[value(name = "onnxruntime")]
    OnnxRuntime,
}

/// How networks are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// Whose kernels compute.
    pub kernels: Kernels,
    /// Where they run.
    pub device: Device,
    /// Threads that work on one call; 0 takes all that this process may use.
    pub threads: usize,
    /// What only matters on a GPU.
    pub gpu: GpuOptions,
    /// Whether the UNet is also to be loaded without its inner blocks, for images that keep what those gave.
    pub keep_features: bool,
}

impl SessionOptions {
    /// Returns how many threads work on one call. A GPU's host side needs no more than one.
    pub fn thread_count(&self) -> usize {
        match (self.device, self.threads) {
            (Device::Cpu, 0) => available_parallelism().map_or(1, NonZero::get),
            (Device::Cpu, threads) => threads,
            _ => 1,
        }
    }
}

/// Inputs of one call, by name.
pub(super) type Inputs<'v> = Vec<(Cow<'v, str>, SessionInputValue<'v>)>;

/// A loaded graph.
pub(super) struct GraphSession {
    session: Session,
    part: &'static str,
    path: PathBuf,
    device: Device,
    /// Whether a call ran out of memory since the last one that did not: what it had got by then is still taken.
    is_bloated: bool,
    own_kernels: Vec<(&'static str, usize)>,
    cut: Option<String>,
}

impl fmt::Debug for GraphSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphSession").field("part", &self.part).field("path", &self.path).finish_non_exhaustive()
    }
}

impl GraphSession {
    /// Loads `graph`, the model's `part`. `busy` says whether it is called all the time, so
    /// that its threads may wait for work by spinning during a call.
    pub(super) fn load(
        runtime: &Runtime,
        (part, graph): (&'static str, &GraphFile),
        options: &SessionOptions,
        busy: bool,
    ) -> Result<GraphSession> {
        GraphSession::load_part(runtime, (part, graph), None, options, busy)
    }

    /// Loads one part of `graph`, or all of it; otherwise as [`GraphSession::load`].
    pub(super) fn load_part(
        runtime: &Runtime,
        (part, graph): (&'static str, &GraphFile),
        piece: Option<Part>,
        options: &SessionOptions,
        busy: bool,
    ) -> Result<GraphSession> {
        refuse_cuda_only((part, graph), options.device)?;
        let new = || builder(runtime, options, (part, busy));
        let (session, complaints) = with_complaints(|| match with_own_kernels(graph, piece, options, new) {
            Some(loaded) => Ok(loaded),
            None if piece.is_some() => in_memory(graph, rewrite::Plan { own_kernels: false, part: piece }, new)?
                .ok_or_else(|| ort::Error::new("there is no graph in the file")),
            None => Ok(Loaded { session: new()?.commit_from_file(&graph.path)?, own_kernels: Vec::new(), cut: None }),
        });
        let Loaded { session, own_kernels, cut } =
            session.map_err(|error| refused((part, graph), options.device, error, &complaints))?;
        let device = options.device;
        if device != Device::Cpu && !options.gpu.allow_cpu_nodes {
            refuse_cpu_nodes(&session, options.device, part, graph)?;
        }
        Ok(GraphSession { session, part, path: graph.path.clone(), device, is_bloated: false, own_kernels, cut })
    }

    /// Returns whether the graph has an input `name`.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.session.inputs().iter().any(|input| input.name() == name)
    }

    /// Returns the type of the input `name`, of those that a UNet computes with.
    pub(super) fn input_dtype(&self, name: &str) -> Option<Dtype> {
        let input = self.session.inputs().iter().find(|input| input.name() == name)?;
        match input.dtype().tensor_type()? {
            TensorElementType::Float16 => Some(Dtype::Float16),
            TensorElementType::Bfloat16 => Some(Dtype::Bfloat16),
            TensorElementType::Float64 => Some(Dtype::Float64),
            _ => Some(Dtype::Float32),
        }
    }

    /// Returns the tensor at which the graph was cut, if it was.
    pub(super) fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }

    /// Returns how many of which operators of our own the graph has.
    pub(super) fn own_kernels(&self) -> &[(&'static str, usize)] {
        &self.own_kernels
    }

    /// Runs the graph and returns `output` as float32; what only other outputs need is not computed.
    pub(super) fn run<D: Dimension>(
        &mut self,
        inputs: ort::Result<Inputs<'_>>,
        output: &TensorInfo,
    ) -> Result<Array<f32, D>> {
        self.fetch(inputs, &[output], |outputs| float_output(named(outputs, output)?))
    }

    /// Runs the graph once and returns several outputs as float32.
    pub(super) fn run_all(
        &mut self,
        inputs: ort::Result<Inputs<'_>>,
        wanted: &[&TensorInfo],
    ) -> Result<Vec<ArrayD<f32>>> {
        self.fetch(inputs, wanted, |outputs| {
            wanted.iter().map(|tensor| float_output(named(outputs, tensor)?)).collect()
        })
    }

    fn fetch<T>(
        &mut self,
        inputs: ort::Result<Inputs<'_>>,
        wanted: &[&TensorInfo],
        read: impl Fn(&SessionOutputs<'_>) -> ort::Result<T>,
    ) -> Result<T> {
        let options = self.run_options();
        let run = |session: &mut Session| {
            let selector = wanted.iter().fold(OutputSelector::no_default(), |all, tensor| all.with(&tensor.name));
            let options = options?.with_outputs(selector);
            read(&session.run_with_options(inputs?, &options)?)
        };
        let result = run(&mut self.session);
        self.told(result)
    }

    /// Returns the options of the next call. On a GPU, memory that a call has got stays with the session, also where it did not
    /// suffice; the next call that works gives back what it has no use for, so that it is there for the other networks.
    fn run_options(&self) -> ort::Result<RunOptions> {
        let mut options = RunOptions::new()?;
        if let Some(gpu) = self.device.gpu().filter(|_| self.is_bloated) {
            options.set(SHRINK, format!("gpu:{gpu}"))?;
        }
        Ok(options)
    }

    /// Returns what a call gave, and remembers whether memory sufficed.
    fn told<T>(&mut self, result: ort::Result<T>) -> Result<T> {
        let result = result.map_err(|error| self.failed(error));
        self.is_bloated = result.as_ref().is_err_and(|error| self.is_bloated || error.code() == OUT_OF_MEMORY);
        result
    }

    fn failed(&self, error: ort::Error) -> Error {
        let error = run_failed(self.part, &self.path, self.device != Device::Cpu, error);
        // A device that is gone gives no memory either, and ONNX Runtime's arena does not tell the one from the other.
        if error.code() == OUT_OF_MEMORY
            && let Some(silence) = self.silence()
        {
            return run_failed(self.part, &self.path, true, silence);
        }
        error
    }

    /// Returns what the GPU says when it is waited for, if that is an error.
    fn silence(&self) -> Option<ort::Error> {
        self.device.gpu()?;
        self.session.create_binding().and_then(|binding| binding.synchronize_inputs()).err()
    }

    /// Returns a binding that computes `output`, for a graph whose inputs stay on `device` from call to call.
    pub(super) fn bind(&self, device: Device, output: &TensorInfo) -> Result<Bound> {
        Bound::new(&self.session, device, output).map_err(|error| self.failed(error))
    }

    /// Binds inputs with `bind`, runs the graph with all that is bound, and returns the output.
    pub(super) fn run_bound(
        &mut self,
        bound: &mut Bound,
        bind: impl FnOnce(&mut Bound) -> ort::Result<()>,
    ) -> Result<ArrayD<f32>> {
        let options = self.run_options();
        let run = || {
            bind(bound)?;
            bound.run(&mut self.session, &options?)
        };
        let result = run();
        self.told(result)
    }

    /// Returns calls that compute `output`, all of whose tensors stay on `device` at one address for good.
    pub(super) fn capture(&self, device: Device, output: &TensorInfo) -> Result<Captured> {
        Captured::new(&self.session, device, output).map_err(|error| self.failed(error))
    }

    /// Runs the graph as such a call.
    pub(super) fn run_captured<'v>(
        &mut self,
        captured: &mut Captured,
        inputs: impl FnOnce() -> ort::Result<CallInputs<'v>>,
    ) -> Result<ArrayD<f32>> {
        let run = || captured.run(&mut self.session, inputs()?);
        run().map_err(|error| self.failed(error))
    }

    /// Fails if the graph cannot take a tensor of `shape` as its input `tensor`.
    pub(super) fn check(&self, tensor: &TensorInfo, shape: &[usize]) -> Result<()> {
        if tensor.accepts(shape) && !shape.contains(&0) {
            return Ok(());
        }
        Err(self.wrong_shape(&format!("takes {tensor}, not a tensor of shape {shape:?}")))
    }

    /// Fails if the shape of `output`, which the graph calls `tensor`, is not `expected`.
    pub(super) fn check_output<D: Dimension>(
        &self,
        output: &Array<f32, D>,
        tensor: &TensorInfo,
        expected: &[usize],
    ) -> Result<()> {
        if output.shape() == expected {
            return Ok(());
        }
        let shape = output.shape();
        Err(self.wrong_shape(&format!("gives {tensor} the shape {shape:?}, expected was {expected:?}")))
    }

    fn wrong_shape(&self, what: &str) -> Error {
        Error::new(ErrorKind::Model, "graph_shape", format!("the {} {what}", self.part)).at(Location::file(&self.path))
    }
}

fn named<'o>(outputs: &'o SessionOutputs<'_>, tensor: &TensorInfo) -> ort::Result<&'o DynValue> {
    outputs.get(&tensor.name).ok_or_else(|| ort::Error::new(format!("the output `{}` is missing", tensor.name)))
}

fn builder(runtime: &Runtime, options: &SessionOptions, (part, busy): (&str, bool)) -> ort::Result<SessionBuilder> {
    let mut builder = Session::builder(runtime.environment())?
        .with_log_level(LogLevel::Warning)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(options.thread_count())?
        .with_intra_op_spinning(busy && options.device == Device::Cpu)?
        // Spinning threads would take the cores from decoding and from writing between two calls.
        .with_config_entry("session.force_spinning_stop", "1")?;
    if options.device != Device::Cpu {
        builder = builder
            .with_execution_providers(providers(options.device, &options.gpu, part))?
            .with_config_entry(placement::RECORD, "1")?;
    }
    Ok(builder)
}

/// A session, how many of which operators of our own it has, and the tensor at which it was cut.
struct Loaded {
    session: Session,
    own_kernels: Vec<(&'static str, usize)>,
    cut: Option<String>,
}

/// Loads the graph, or a part of it, with operators of our own, where they are asked for and there is something to gain. A graph
/// that cannot be loaded so is loaded as it is.
fn with_own_kernels(
    graph: &GraphFile,
    part: Option<Part>,
    options: &SessionOptions,
    builder: impl Fn() -> ort::Result<SessionBuilder>,
) -> Option<Loaded> {
    if options.device != Device::Cpu || options.kernels != Kernels::Own || !kernels::is_available() {
        return None;
    }
    let path = graph.path.display();
    match in_memory(graph, rewrite::Plan { own_kernels: true, part }, builder) {
        Ok(Some(loaded)) => {
            tracing::debug!("{path}: own kernels: {:?}", loaded.own_kernels);
            Some(loaded)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!("{path}: our kernels cannot be used ({}), ONNX Runtime's are", plain(error.message()));
            None
        }
    }
}

/// Loads a graph that is rewritten in memory; `None` where there is nothing to rewrite.
fn in_memory(
    graph: &GraphFile,
    plan: rewrite::Plan,
    builder: impl Fn() -> ort::Result<SessionBuilder>,
) -> ort::Result<Option<Loaded>> {
    let rewritten = rewrite(&graph.path, plan).map_err(|error| ort::Error::new(error.to_string()))?;
    let Some(Rewritten { bytes, replaced: own_kernels, cut }) = rewritten else { return Ok(None) };
    let mut builder = with_weights_beside(builder()?, &graph.path)?;
    Ok(Some(Loaded { session: builder.commit_from_memory(&bytes)?, own_kernels, cut }))
}

/// Returns `builder` for a graph in memory that has our operators, and whose weights may be in files beside `path`.
fn with_weights_beside(builder: SessionBuilder, path: &Path) -> ort::Result<SessionBuilder> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.to_string_lossy();
    Ok(builder
        .with_operators(operators()?)?
        .with_config_entry("session.model_external_initializers_file_folder_path", folder)?)
}

/// Fails if the graph has operators that only CUDA computes, and `device` is another.
fn refuse_cuda_only((part, graph): (&str, &GraphFile), device: Device) -> Result<()> {
    let operators: Vec<&str> = graph.signature.cuda_only_ops.iter().map(String::as_str).collect();
    if operators.is_empty() || matches!(device, Device::Cuda(_)) {
        return Ok(());
    }
    let message = format!(
        "the {part} was optimized for CUDA and does not run on `{device}`: only CUDA computes {}",
        operators.join(", ")
    );
    Err(Error::new(ErrorKind::Model, "cuda_only", message)
        .at(Location::file(&graph.path))
        .hint("use `--device cuda`, or export the model for this device: `onnx/export.py` without `--optimize cuda`"))
}

/// Returns the error for a graph that cannot be loaded: the device's fault or the graph's.
fn refused((part, graph): (&str, &GraphFile), device: Device, error: ort::Error, complaints: &[String]) -> Error {
    let mut said = plain(error.message()).to_string();
    for complaint in complaints.iter().map(|complaint| plain(complaint)) {
        if !said.contains(complaint) {
            said = format!("{said}; {complaint}");
        }
    }
    if device == Device::Cpu {
        return Error::new(ErrorKind::Model, "graph_refused", format!("ONNX Runtime cannot load the {part}: {said}"))
            .at(Location::file(&graph.path))
            .hint("export the model again for CPU; graphs with com.microsoft operators run only where they were optimized for");
    }
    Error::new(ErrorKind::Provider, "no_device", format!("device `{device}` cannot be had for the {part}: {said}"))
        .at(Location::file(&graph.path))
        .hint(match device {
            _ if said.contains("graph capture") => "`--cuda-graphs` takes a UNet all of whose nodes are CUDA's, which \
                 `onnx/export.py --fp16 --optimize cuda` makes; other graphs run without it",
            Device::TensorRt(_) => "this needs an NVIDIA driver, the library of `make setup ORT=gpu`, CUDA 13, cuDNN 9 and \
                 TensorRT 10 on the library path; `nightshift doctor` says what is there, `--device cpu` works without",
            _ => "this needs an NVIDIA driver, the library of `make setup ORT=gpu`, CUDA 13 and cuDNN 9 on the library path; \
                 `nightshift doctor` says what is there, `--device cpu` works without",
        })
}

/// The option of a run after which a session gives back the memory that it has no use for.
const SHRINK: &str = "memory.enable_memory_arena_shrinkage";

/// What ONNX Runtime, CUDA, cuDNN, cuBLAS and C++ say when memory cannot be had, in lower case.
const NO_MEMORY: [&str; 8] = [
    "failed to allocate memory for requested buffer",
    "is smaller than requested bytes",
    "out of memory",
    "out_of_memory",
    "status_alloc_failed",
    "device_allocation_failed",
    "bad_alloc",
    "bad allocation",
];

/// What CUDA, cuDNN, cuBLAS and TensorRT are called in messages about failures. Most leave the process no way to use the GPU
/// again (illegal addresses, failed launches, memory errors, a GPU that fell off the bus) …
const LOST: [&str; 6] = ["cuda failure", "cuda error", "cudnn", "cublas", "device-side", "tensorrt"];

/// … but these are about what was asked of it, and would come again on any other.
const NOT_FOR_THIS_GRAPH: [&str; 6] = [
    "not_supported",
    "not supported",
    "bad_param",
    "invalid_value",
    "cudnn is unavailable",
    "cudnn handle is required",
];

/// Returns the error for a call that failed.
fn run_failed(part: &str, path: &Path, on_gpu: bool, error: ort::Error) -> Error {
    let said = plain(error.message());
    let (kind, code, hint) = reason(&said.to_lowercase(), on_gpu);
    Error::new(kind, code, format!("the {part} failed: {said}")).at(Location::file(path)).hint(hint)
}

/// Returns what a message in lower case is about: memory, a GPU that is gone, or a graph that does not work.
fn reason(said: &str, on_gpu: bool) -> (ErrorKind, &'static str, &'static str) {
    let any = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    if any(&NO_MEMORY) {
        (ErrorKind::Unexpected, OUT_OF_MEMORY, "use fewer lanes (`--lanes`) or smaller images")
    } else if on_gpu && any(&LOST) && !any(&NOT_FOR_THIS_GRAPH) {
        let hint = "look at `nvidia-smi` and `dmesg`, then run the same command again to resume";
        (ErrorKind::GpuLost, "gpu_lost", hint)
    } else {
        let hint = "the graph may be exported for one size or batch only; see `nightshift inspect`";
        (ErrorKind::Model, "graph_failed", hint)
    }
}

/// Returns a message of ONNX Runtime without where in its source it was written (`…cc:2043 … [ONNXRuntimeError] : 1 : FAIL : `).
fn plain(message: &str) -> &str {
    let after = message.split_once("[ONNXRuntimeError] : ").and_then(|(_, rest)| rest.splitn(3, " : ").nth(2));
    after.unwrap_or(message).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_the_place_in_onnx_runtimes_source() {
        let message = "/src/provider_bridge_ort.cc:2043 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load a : b";
        assert_eq!(plain(message), "Failed to load a : b");
        assert_eq!(plain(" not enabled in this build. "), "not enabled in this build.");
    }

    #[test]
    fn all_ways_of_saying_that_memory_is_short_are_one_code() {
        let code = |message: &str| reason(&message.to_lowercase(), true).1;
        for message in [
            "…/bfc_arena.cc:360 AllocateRawInternal Failed to allocate memory for requested buffer of size 281474976710656",
            "Available memory of 1024 is smaller than requested bytes of 4096",
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; file=cuda_allocator.cc ; line=74 ; expr=cudaMalloc",
            "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
            "CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
            "std::bad_alloc",
            "bad allocation",
        ] {
            assert_eq!(code(message), "out_of_memory", "{message}");
        }
        assert_eq!(code("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), "gpu_lost");
        assert_eq!(code("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=1"), "gpu_lost");
        assert_eq!(code("CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0"), "graph_failed");
        assert_eq!(code("cuDNN is unavailable or disabled for CUDA Execution Provider: …"), "graph_failed");
        assert_eq!(code("Got invalid dimensions for input: sample"), "graph_failed");
    }

    #[test]
    fn a_graph_for_cuda_is_refused_elsewhere_by_the_names_of_its_operators() {
        let cuda_only_ops = ["GroupNorm", "NhwcConv"].map(String::from).into();
        let graph = GraphFile {
            path: "unet/model.onnx".into(),
            signature: crate::model::Signature { cuda_only_ops, ..Default::default() },
        };
        assert!(refuse_cuda_only(("UNet", &graph), Device::Cuda(0)).is_ok());
        for device in [Device::Cpu, Device::TensorRt(0)] {
            let error = refuse_cuda_only(("UNet", &graph), device).expect_err("no kernels");
            let message = format!(
                "unet/model.onnx: the UNet was optimized for CUDA and does not run on `{device}`: only CUDA computes GroupNorm, NhwcConv"
            );
            assert_eq!((error.to_string(), error.kind().exit_code()), (message, 10));
        }
    }

    #[test]
    fn threads_are_a_matter_of_the_processor() {
        assert_eq!(SessionOptions { threads: 3, ..SessionOptions::default() }.thread_count(), 3);
        assert!(SessionOptions::default().thread_count() >= 1);
        assert_eq!(
            SessionOptions { device: Device::Cuda(0), threads: 8, ..SessionOptions::default() }.thread_count(),
            1
        );
    }
}
