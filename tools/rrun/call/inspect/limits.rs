//! The limits of a container by Docker's names.

use rrun_runner::Limits;
use rrun_runner::oci::{BlockIo, ThrottleDevice};
use serde_json::{Value, json};

/// What hides parts of /proc and /sys, unless privileged.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Every field with the value of a container that asked for nothing, in Docker's order.
pub(super) fn defaults() -> Vec<(&'static str, Value)> {
    vec![
        ("CpuShares", json!(0)),
        ("Memory", json!(0)),
        ("NanoCpus", json!(0)),
        ("CgroupParent", json!("")),
        ("BlkioWeight", json!(0)),
        ("BlkioWeightDevice", json!([])),
        ("BlkioDeviceReadBps", json!([])),
        ("BlkioDeviceWriteBps", json!([])),
        ("BlkioDeviceReadIOps", json!([])),
        ("BlkioDeviceWriteIOps", json!([])),
        ("CpuPeriod", json!(0)),
        ("CpuQuota", json!(0)),
        ("CpuRealtimePeriod", json!(0)),
        ("CpuRealtimeRuntime", json!(0)),
        ("CpusetCpus", json!("")),
        ("CpusetMems", json!("")),
        ("Devices", json!([])),
        ("DeviceCgroupRules", json!(null)),
        ("DeviceRequests", json!(null)),
        ("MemoryReservation", json!(0)),
        ("MemorySwap", json!(0)),
        ("MemorySwappiness", json!(null)),
        ("OomKillDisable", json!(null)),
        ("PidsLimit", json!(null)),
        ("Ulimits", json!([])),
        ("CpuCount", json!(0)),
        ("CpuPercent", json!(0)),
        ("IOMaximumIOps", json!(0)),
        ("IOMaximumBandwidth", json!(0)),
        ("MaskedPaths", json!(MASKED)),
        ("ReadonlyPaths", json!(READ_ONLY)),
    ]
}

/// What was asked for.
pub(super) fn known(limits: &Limits) -> Vec<(&'static str, Value)> {
    let swap = limits.memory_swap_bytes.or_else(|| {
        let twice = limits.memory_bytes?.checked_mul(2)?;
        i64::try_from(twice).ok()
    });
    let none = BlockIo::default();
    let io = limits.block_io.as_ref().unwrap_or(&none);
    vec![
        ("CpuShares", json!(limits.cpu_shares.unwrap_or(0))),
        ("Memory", json!(limits.memory_bytes.unwrap_or(0))),
        (
            "NanoCpus",
            json!(limits.cpu_milli.unwrap_or(0).saturating_mul(1_000_000)),
        ),
        ("CgroupParent", json!(limits.parent)),
        ("BlkioWeight", json!(io.weight.unwrap_or(0))),
        ("BlkioWeightDevice", weights(io)),
        ("BlkioDeviceReadBps", rates(&io.throttle_read_bps_device)),
        ("BlkioDeviceWriteBps", rates(&io.throttle_write_bps_device)),
        ("BlkioDeviceReadIOps", rates(&io.throttle_read_iops_device)),
        (
            "BlkioDeviceWriteIOps",
            rates(&io.throttle_write_iops_device),
        ),
        ("CpuPeriod", json!(limits.cpu_period_us.unwrap_or(0))),
        ("CpuQuota", json!(limits.cpu_quota_us.unwrap_or(0))),
        (
            "CpuRealtimePeriod",
            json!(limits.cpu_rt_period_us.unwrap_or(0)),
        ),
        (
            "CpuRealtimeRuntime",
            json!(limits.cpu_rt_runtime_us.unwrap_or(0)),
        ),
        ("CpusetCpus", json!(limits.cpuset_cpus)),
        ("CpusetMems", json!(limits.cpuset_mems)),
        (
            "MemoryReservation",
            json!(limits.memory_reservation_bytes.unwrap_or(0)),
        ),
        ("MemorySwap", json!(swap.unwrap_or(0))),
        ("MemorySwappiness", json!(limits.swappiness)),
        (
            "OomKillDisable",
            json!(limits.oom_kill_disable.then_some(true)),
        ),
        ("PidsLimit", json!(limits.pids.filter(|pids| *pids != 0))),
    ]
}

/// The device a number stands for, as its usual name.
fn path(major: i64, minor: i64) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = link.ok().and_then(|link| {
        let name = link.file_name()?.to_str()?;
        Some(format!("/dev/{name}"))
    });
    name.unwrap_or_else(|| format!("{major}:{minor}"))
}

fn weights(io: &BlockIo) -> Value {
    let one = |device: &rrun_runner::oci::WeightDevice| json!({"Path": path(device.major, device.minor), "Weight": device.weight});
    json!(io.weight_device.iter().map(one).collect::<Vec<_>>())
}

fn rates(devices: &[ThrottleDevice]) -> Value {
    let one = |device: &ThrottleDevice| json!({"Path": path(device.major, device.minor), "Rate": device.rate});
    json!(devices.iter().map(one).collect::<Vec<_>>())
}
