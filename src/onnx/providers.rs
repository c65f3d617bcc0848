//! The providers of a GPU and their options.

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{
    ArbitrarilyConfigurableExecutionProvider, ArenaExtendStrategy, CUDA, ExecutionProviderDispatch, TensorRT,
};

use super::device::Device;
use super::gpu_options::GpuOptions;

/// Returns the providers of a GPU for the network `part`, best first. None of them may fail silently, and the settings are
/// those that give the same bits in every run: no TensorFloat-32, no choice of convolutions by stopwatch.
pub(super) fn providers(device: Device, options: &GpuOptions, part: &str) -> Vec<ExecutionProviderDispatch> {
    match device {
        Device::Cpu => Vec::new(),
        Device::Cuda(index) => vec![cuda(index, options, options.records(part))],
        Device::TensorRt(index) => vec![tensorrt(index, options, part), cuda(index, options, false)],
    }
}

/// `records` says whether calls are recorded and played back.
fn cuda(index: u32, options: &GpuOptions, records: bool) -> ExecutionProviderDispatch {
    let provider = CUDA::default()
        .with_device_id(number(index))
        .with_tf32(false)
        .with_cuda_graph(records)
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    let set = |provider: CUDA, key: &str, value: &str| provider.with_arbitrary_config(key, value);
    let given = options.cuda.iter().fold(provider, |provider, option| set(provider, option.key, &option.value));
    given.build().error_on_failure()
}

fn tensorrt(index: u32, options: &GpuOptions, part: &str) -> ExecutionProviderDispatch {
    let mut provider = TensorRT::default().with_device_id(number(index)).with_context_memory_sharing(true);
    if let Some(folder) = &options.engine_cache {
        let folder = folder.display();
        provider = provider.with_engine_cache(true).with_engine_cache_path(folder.to_string());
        provider = provider.with_engine_cache_prefix(part.replace(' ', "_"));
        provider = provider.with_timing_cache(true).with_timing_cache_path(folder);
    }
    if let Some(profile) = options.profiles.of(part) {
        provider = provider
            .with_profile_min_shapes(&profile.min)
            .with_profile_opt_shapes(&profile.opt)
            .with_profile_max_shapes(&profile.max);
    }
    let set = |provider: TensorRT, key: &str, value: &str| provider.with_arbitrary_config(key, value);
    let given = options.tensorrt.iter().fold(provider, |provider, option| set(provider, option.key, &option.value));
    given.build().error_on_failure()
}

fn number(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
