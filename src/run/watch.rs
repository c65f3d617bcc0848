//! What the GPUs do meanwhile, for the status line, `status.json` and the summary. Where nobody tells, nothing is said.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::gpu::GpuState;

/// The GPUs of a run, looked at from time to time.
#[derive(Debug, Default)]
pub struct GpuWatch(Mutex<BTreeMap<u32, Watched>>);

#[derive(Debug, Default)]
struct Watched {
    last: GpuState,
    looks: u64,
    utilization: (u64, u64),
    memory_peak: Option<u64>,
    temperature_peak: Option<u32>,
    slowed: BTreeMap<String, u64>,
}

/// What one GPU did during a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuSummary {
    /// Its number.
    pub index: u32,
    /// Its model.
    pub name: String,
    /// Most bytes of memory in use.
    pub memory_peak: Option<u64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Percent of the time in which it worked.
    pub utilization: Option<f64>,
    /// Highest temperature, in degrees Celsius.
    pub temperature_peak: Option<u32>,
    /// Share of the looks at it, 0 to 1, that found it slowed for a reason.
    pub slowed: BTreeMap<String, f64>,
}

impl GpuWatch {
    /// Looks at the GPUs `indices` with `look`.
    pub fn look(&self, indices: impl Iterator<Item = u32>, look: &dyn Fn(u32) -> Option<GpuState>) {
        for state in indices.filter_map(look) {
            let mut all = self.lock();
            let gpu = all.entry(state.index).or_default();
            gpu.looks += 1;
            if let Some(utilization) = state.utilization {
                gpu.utilization = (gpu.utilization.0 + u64::from(utilization), gpu.utilization.1 + 1);
            }
            gpu.memory_peak = gpu.memory_peak.max(state.memory_used);
            gpu.temperature_peak = gpu.temperature_peak.max(state.temperature);
            for reason in &state.throttled {
                *gpu.slowed.entry(reason.clone()).or_default() += 1;
            }
            gpu.last = state;
        }
    }

    /// Returns what the last look found.
    pub fn now(&self) -> Vec<GpuState> {
        self.lock().values().map(|gpu| gpu.last.clone()).collect()
    }

    /// Returns what all looks found.
    pub fn summary(&self) -> Vec<GpuSummary> {
        self.lock().values().map(Watched::summary).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Watched>> {
        // Numbers of a look that was cut short by a panic elsewhere are still numbers.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn summary(&self) -> GpuSummary {
        let (sum, count) = self.utilization;
        let share = |(reason, looks): (&String, &u64)| (reason.clone(), *looks as f64 / self.looks as f64);
        GpuSummary {
            index: self.last.index,
            name: self.last.name.clone(),
            memory_peak: self.memory_peak,
            memory_total: self.last.memory_total,
            utilization: (count > 0).then(|| sum as f64 / count as f64),
            temperature_peak: self.temperature_peak,
            slowed: self.slowed.iter().map(share).collect(),
        }
    }
}

impl fmt::Display for GpuSummary {
    /// Writes `GPU 0 (NVIDIA H100): 97% busy, 41.2 of 79.6 GiB, 71°C at most, slowed by power cap 12% of the time`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} ({})", self.index, self.name)?;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let mut parts = Vec::new();
        parts.extend(self.utilization.map(|percent| format!("{percent:.0}% busy")));
        if let (Some(peak), Some(total)) = (self.memory_peak, self.memory_total) {
            parts.push(format!("{:.1} of {:.1} GiB", gib(peak), gib(total)));
        }
        parts.extend(self.temperature_peak.map(|degrees| format!("{degrees}°C at most")));
        let slowed = |(reason, share): (&String, &f64)| format!("slowed by {reason} {:.0}% of the time", 100.0 * share);
        parts.extend(self.slowed.iter().map(slowed));
        if parts.is_empty() { Ok(()) } else { write!(f, ": {}", parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_add_up_to_a_summary() {
        let watch = GpuWatch::default();
        for (utilization, used, temperature, reason) in
            [(90, 4, 60, None), (100, 6, 71, Some("power cap")), (98, 5, 70, None)]
        {
            // The second of the two GPUs says nothing.
            watch.look([0, 1].into_iter(), &|index| {
                (index == 0).then(|| GpuState {
                    index,
                    name: "a GPU".into(),
                    memory_used: Some(used << 30),
                    memory_total: Some(8 << 30),
                    utilization: Some(utilization),
                    temperature: Some(temperature),
                    throttled: reason.into_iter().map(String::from).collect(),
                    ..GpuState::default()
                })
            });
        }
        assert_eq!(watch.now().len(), 1);
        assert_eq!(watch.now()[0].utilization, Some(98));
        let summary = watch.summary();
        let line = "GPU 0 (a GPU): 96% busy, 6.0 of 8.0 GiB, 71°C at most, slowed by power cap 33% of the time";
        assert_eq!(summary.iter().map(ToString::to_string).collect::<Vec<_>>(), [line]);
    }

    #[test]
    fn where_nobody_tells_nothing_is_said() {
        let watch = GpuWatch::default();
        watch.look(0..4, &|_| None);
        assert!(watch.now().is_empty() && watch.summary().is_empty());
    }
}
