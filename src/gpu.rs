//! What is known of a GPU. Everyone may use this module; it uses nothing of ours.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One GPU at one moment; what the driver does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// Its number, as CUDA counts those that this process may see.
    pub index: u32,
    /// Its model, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, such as `9.0`.
    pub compute_capability: Option<String>,
    /// Bytes of memory in use, by all processes.
    pub memory_used: Option<u64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Percent of the time in which it worked, lately.
    pub utilization: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Why it runs slower than it could, if it does.
    pub throttled: Vec<String>,
}

impl fmt::Display for GpuState {
    /// Writes `GPU 0 93% 41.2/79.6 GiB 64°C, slowed by power cap`, as far as it is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {}", self.index)?;
        if let Some(utilization) = self.utilization {
            write!(f, " {utilization}%")?;
        }
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        if let (Some(used), Some(total)) = (self.memory_used, self.memory_total) {
            write!(f, " {:.1}/{:.1} GiB", gib(used), gib(total))?;
        }
        if let Some(temperature) = self.temperature {
            write!(f, " {temperature}°C")?;
        }
        if !self.throttled.is_empty() {
            write!(f, ", slowed by {}", self.throttled.join(" and "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let gpu = GpuState { index: 1, name: "a GPU".into(), ..GpuState::default() };
        assert_eq!(gpu.to_string(), "GPU 1");
        let (used, total) = (Some(3 << 29), Some(8 << 30));
        let throttled = vec!["heat".to_string(), "power cap".to_string()];
        let gpu = GpuState {
            memory_used: used,
            memory_total: total,
            utilization: Some(97),
            temperature: Some(83),
            throttled,
            ..gpu
        };
        assert_eq!(gpu.to_string(), "GPU 1 97% 1.5/8.0 GiB 83°C, slowed by heat and power cap");
    }
}
