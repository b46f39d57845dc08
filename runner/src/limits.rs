//! Bounds that only control groups can enforce, in the words of Docker's options.

use serde::{Deserialize, Serialize};

use crate::oci::spec::{BlockIo, Cpu, DeviceRule, Memory, Pids, Resources};

/// Length of a scheduling period in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// Bounds of a container; what is absent is not bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory and swap together; -1 lifts the bound.
    pub memory_swap_bytes: Option<i64>,
    /// Bytes of memory that stay when memory is short.
    pub memory_reservation_bytes: Option<u64>,
    /// Tendency to swap, 0 to 100.
    pub swappiness: Option<u64>,
    /// Whether the kernel kills nothing for lack of memory.
    pub oom_kill_disable: bool,
    /// Number of tasks; 0 lifts the bound.
    pub pids: Option<u64>,
    /// Processor time in thousandths of a processor.
    pub cpu_milli: Option<u64>,
    /// Weight against other groups; 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// Length of a scheduling period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Microseconds in each period; -1 lifts the bound.
    pub cpu_quota_us: Option<i64>,
    /// Length of a real-time period in microseconds.
    pub cpu_rt_period_us: Option<u64>,
    /// Real-time microseconds in each such period.
    pub cpu_rt_runtime_us: Option<i64>,
    /// Processors, as a list such as `0-3,7`; empty is all.
    pub cpuset_cpus: String,
    /// Memory nodes, as such a list.
    pub cpuset_mems: String,
    /// Input and output of block devices.
    pub block_io: Option<BlockIo>,
    /// Devices that may be used besides the usual ones.
    pub devices: Vec<DeviceRule>,
    /// The group in which the container's own is made; empty is ours.
    pub parent: String,
}

impl Limits {
    /// Whether any bound is asked for.
    #[must_use]
    pub fn any(&self) -> bool {
        let lifted = Self {
            pids: self.pids.filter(|pids| *pids != 0),
            ..self.clone()
        };
        !lifted.resources().is_empty()
    }

    /// The same bounds as a bundle has them.
    pub(crate) fn resources(&self) -> Resources {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let memory = Memory {
            limit: self.memory_bytes.map(signed),
            // Docker's default: as much swap as memory.
            swap: self.memory_swap_bytes.or_else(|| {
                self.memory_bytes
                    .map(|bytes| signed(bytes.saturating_mul(2)))
            }),
            reservation: self.memory_reservation_bytes.map(signed),
            swappiness: self.swappiness,
            disable_oom_killer: self.oom_kill_disable.then_some(true),
            ..Memory::default()
        };
        let list = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let share = self.cpu_milli.map(|milli| milli * PERIOD_US / 1000);
        let cpu = Cpu {
            shares: self.cpu_shares,
            period: self.cpu_period_us.or(share.map(|_| PERIOD_US)),
            quota: self.cpu_quota_us.or(share.map(signed)),
            realtime_period: self.cpu_rt_period_us,
            realtime_runtime: self.cpu_rt_runtime_us,
            cpus: list(&self.cpuset_cpus),
            mems: list(&self.cpuset_mems),
            ..Cpu::default()
        };
        Resources {
            memory: Some(memory).filter(|memory| *memory != Memory::default()),
            cpu: Some(cpu).filter(|cpu| *cpu != Cpu::default()),
            pids: self.pids.map(|pids| Pids {
                limit: Some(signed(pids)),
            }),
            block_io: self.block_io.clone(),
            devices: self.devices.clone(),
            ..Resources::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_what_bundles_ask_for() {
        assert!(Limits::default().resources().is_empty());
        let limits = Limits {
            memory_bytes: Some(100),
            cpu_milli: Some(1500),
            pids: Some(0),
            ..Limits::default()
        };
        let resources = limits.resources();
        let memory = resources.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(100), Some(200)));
        let cpu = resources.cpu.unwrap();
        assert_eq!((cpu.period, cpu.quota), (Some(100_000), Some(150_000)));
        let lifted = Limits {
            pids: Some(0),
            ..Limits::default()
        };
        assert!(!lifted.any() && !lifted.resources().is_empty());
    }
}
