//! What the NVIDIA driver says of its GPUs, through NVML. Without a driver there is nothing to say, and that is no error.

use std::ffi::OsStr;
use std::sync::OnceLock;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use serde::Serialize;

use super::device::Device;
use crate::gpu::GpuState;

/// The driver of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Its version.
    pub version: String,
    /// The newest CUDA that it can run.
    pub cuda: Option<String>,
}

/// The driver's library, which is opened once.
static NVML: OnceLock<Option<Nvml>> = OnceLock::new();

fn nvml() -> Option<&'static Nvml> {
    // Only the development package has the name without a number.
    let open = || {
        let numbered = Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init();
        numbered.or_else(|_| Nvml::init()).ok()
    };
    NVML.get_or_init(open).as_ref()
}

/// Returns the driver, if there is one.
pub fn driver() -> Option<Driver> {
    let nvml = nvml()?;
    let cuda = nvml.sys_cuda_driver_version().ok();
    Some(Driver {
        version: nvml.sys_driver_version().ok()?,
        cuda: cuda.map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
    })
}

/// Returns how many GPUs the driver has, if there is one.
pub(super) fn count() -> Option<u32> {
    nvml()?.device_count().ok()
}

/// Returns the GPUs that CUDA_VISIBLE_DEVICES lets a process see, by number or UUID. As in CUDA, an entry that is neither ends
/// the list.
pub(super) fn visible(list: &str) -> Vec<&str> {
    let is_gpu = |entry: &&str| entry.parse::<u32>().is_ok() || entry.starts_with("GPU-") || entry.starts_with("MIG-");
    list.split(',').map(str::trim).take_while(is_gpu).collect()
}

/// Returns what the driver says of the GPU that CUDA calls `index` in this process. CUDA and the driver count alike where
/// all GPUs are of one model, or `CUDA_DEVICE_ORDER` is `PCI_BUS_ID`.
pub fn gpu_state(index: u32) -> Option<GpuState> {
    let nvml = nvml()?;
    let named = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let device = match &named {
        None => nvml.device_by_index(index),
        Some(list) => match *visible(list).get(index as usize)? {
            entry if entry.starts_with(|c: char| c.is_ascii_digit()) => nvml.device_by_index(entry.parse().ok()?),
            uuid => nvml.device_by_uuid(uuid),
        },
    };
    let device = device.ok()?;
    let memory = device.memory_info().ok();
    let capability = device.cuda_compute_capability().ok();
    Some(GpuState {
        index,
        name: device.name().ok()?,
        compute_capability: capability.map(|version| format!("{}.{}", version.major, version.minor)),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.as_ref().map(|memory| memory.total),
        utilization: device.utilization_rates().ok().map(|rates| rates.gpu),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        throttled: device.current_throttle_reasons().map(reasons).unwrap_or_default(),
    })
}

/// Returns what devices have in common that compute alike: `cpu`, or the way to use a GPU and its model.
pub fn kind_of(device: Device) -> String {
    match device.gpu().and_then(gpu_state) {
        None => device.to_string(),
        Some(gpu) => format!("{} on {}", device.to_string().split(':').next().unwrap_or_default(), gpu.name),
    }
}

/// Returns the GPUs that this process may see.
pub fn gpu_states() -> Vec<GpuState> {
    (0..count().unwrap_or(0)).map_while(gpu_state).collect()
}

/// Names the reasons that somebody could do something about: idle clocks and those that were set on purpose are none.
fn reasons(reasons: ThrottleReasons) -> Vec<String> {
    let named = [
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat (hardware)"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    ];
    named.iter().filter(|(reason, _)| reasons.contains(*reason)).map(|(_, name)| (*name).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_visible_gpus_is_read_as_cuda_reads_it() {
        assert_eq!(visible("0,2, 3"), ["0", "2", "3"]);
        assert_eq!(visible("GPU-8932f937,MIG-1"), ["GPU-8932f937", "MIG-1"]);
        assert_eq!(visible("1,-1,2"), ["1"]);
        assert!(visible("").is_empty() && visible("none").is_empty());
    }

    #[test]
    fn only_reasons_worth_a_look_are_named() {
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE;
        assert_eq!(reasons(both), ["power cap"]);
        assert!(reasons(ThrottleReasons::NONE).is_empty());
    }

    #[test]
    fn a_machine_without_a_driver_says_nothing() {
        if count().is_none() {
            assert_eq!((driver(), gpu_state(0)), (None, None));
            assert!(gpu_states().is_empty());
        }
    }
}
