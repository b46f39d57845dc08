//! Which files of control groups hold which bound.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::error::{At, Failure, RunnerError};
use crate::oci::spec::{Cpu, Memory, Resources, ThrottleDevice};

/// Weight of an ordinary group. Source: kernel, `cgroup-v2.rst`, "cpu.weight".
const SHARES_MIN: u64 = 2;
/// Highest number of shares.
const SHARES_MAX: u64 = 262_144;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Version 1 controller, empty in version 2.
    pub(super) controller: &'static str,
    /// File name.
    pub(super) file: String,
    /// What is written.
    pub(super) value: String,
    /// Whether a kernel without the file is fine.
    optional: bool,
    /// A file that, written in between, makes a refused value acceptable.
    after: Option<Box<Write>>,
    /// What is written where there is no such file.
    other: Option<Box<Write>>,
}

impl Write {
    fn new(controller: &'static str, file: impl Into<String>, value: impl Display) -> Self {
        Self {
            controller,
            file: file.into(),
            value: format!("{value}"),
            optional: false,
            after: None,
            other: None,
        }
    }

    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Another file for hosts that lack this one.
    fn or(mut self, other: Self) -> Self {
        self.other = Some(Box::new(other));
        self
    }

    /// Whether a host without the file is fine.
    pub(super) fn is_optional(&self) -> bool {
        self.optional
    }

    fn try_write(&self, dir: &Path) -> io::Result<()> {
        if let Some(other) = &self.other
            && matches!(dir.join(&self.file).try_exists(), Ok(false))
        {
            return other.try_write(dir);
        }
        match std::fs::File::options()
            .write(true)
            .open(dir.join(&self.file))
            .and_then(|mut file| io::Write::write_all(&mut file, self.value.as_bytes()))
        {
            Err(error)
                if self.optional
                    && matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL | libc::EACCES)
                    ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Writes it in the directory of a group.
    pub(super) fn perform(&self, dir: &Path) -> Result<(), RunnerError> {
        let first = self.try_write(dir);
        if let (Err(_), Some(other)) = (&first, &self.after) {
            other.try_write(dir).at("write", dir.join(&other.file))?;
            return self.try_write(dir).at("write", dir.join(&self.file));
        }
        first.at("write", dir.join(&self.file))?;
        if let Some(other) = &self.after {
            other.try_write(dir).at("write", dir.join(&other.file))?;
        }
        Ok(())
    }
}

/// Whether these are the controllers of something asked for.
pub(super) fn concerned(controllers: &[String], resources: Option<&Resources>) -> bool {
    let has = |name: &str| controllers.iter().any(|controller| controller == name);
    resources.is_some_and(|resources| {
        (has("devices") && !resources.devices.is_empty())
            || split(resources).is_ok_and(|list| list.iter().any(|write| has(write.controller)))
    })
}

/// The controllers version 2 must enable for what is asked.
pub(super) fn unified_controllers(resources: &Resources) -> Vec<&'static str> {
    let asked = |file: &str| resources.unified.keys().any(|key| key.starts_with(file));
    let cpuset = |cpu: &Cpu| cpu.cpus.is_some() || cpu.mems.is_some();
    let list = [
        (resources.memory.is_some() || asked("memory."), "memory"),
        (resources.cpu.is_some() || asked("cpu."), "cpu"),
        (
            resources.cpu.as_ref().is_some_and(cpuset) || asked("cpuset."),
            "cpuset",
        ),
        (resources.pids.is_some() || asked("pids."), "pids"),
        (resources.block_io.is_some() || asked("io."), "io"),
        (
            !resources.hugepage_limits.is_empty() || asked("hugetlb."),
            "hugetlb",
        ),
        (!resources.rdma.is_empty() || asked("rdma."), "rdma"),
    ];
    let wanted = list.into_iter().filter(|(wanted, _)| *wanted);
    wanted.map(|(_, name)| name).collect()
}

/// Version 1 files.
pub(super) fn split(resources: &Resources) -> Result<Vec<Write>, RunnerError> {
    if let Some(key) = resources.unified.keys().next() {
        return Err(RunnerError::Failed(Failure::setup(format!(
            "could not set {key}: the host has no version 2 control groups"
        ))));
    }
    let mut list = Vec::new();
    if let Some(memory) = &resources.memory {
        split_memory(memory, &mut list);
    }
    if let Some(cpu) = &resources.cpu {
        split_cpu(cpu, &mut list);
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        list.push(Write::new("pids", "pids.max", pids_max(limit)));
    }
    split_block_io(resources, &mut list);
    for page in &resources.hugepage_limits {
        let file = |kind: &str| format!("hugetlb.{}.{kind}", page.page_size);
        list.push(Write::new("hugetlb", file("limit_in_bytes"), page.limit));
        list.push(Write::new("hugetlb", file("rsvd.limit_in_bytes"), page.limit).optional());
    }
    if let Some(network) = &resources.network {
        let class = network.class_id.filter(|class| *class != 0);
        list.extend(class.map(|class| Write::new("net_cls", "net_cls.classid", class)));
        for entry in &network.priorities {
            let value = format!("{} {}", entry.name, entry.priority);
            list.push(Write::new("net_prio", "net_prio.ifpriomap", value));
        }
    }
    list.extend(rdma(resources, "rdma"));
    Ok(list)
}

fn pids_max(limit: i64) -> String {
    if limit > 0 {
        limit.to_string()
    } else {
        "max".to_owned()
    }
}

fn rdma(resources: &Resources, controller: &'static str) -> Vec<Write> {
    let count = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |n| n.to_string());
    resources
        .rdma
        .iter()
        .map(|(name, limit)| {
            let (handles, objects) = (count(limit.hca_handles), count(limit.hca_objects));
            let value = format!("{name} hca_handle={handles} hca_object={objects}");
            Write::new(controller, "rdma.max", value)
        })
        .collect()
}

fn split_memory(memory: &Memory, list: &mut Vec<Write>) {
    let write = |file: &str, value: i64| Write::new("memory", file, value);
    let swap = memory.swap.filter(|swap| *swap != 0);
    let swap = swap.map(|swap| write("memory.memsw.limit_in_bytes", swap));
    match (memory.limit.filter(|limit| *limit != 0), swap) {
        (Some(limit), swap) => {
            let mut limit = write("memory.limit_in_bytes", limit);
            // Whichever grows goes first: memory alone may never exceed memory and swap.
            limit.after = swap.map(Box::new);
            list.push(limit);
        }
        (None, swap) => list.extend(swap),
    }
    let reservation = memory.reservation.filter(|value| *value != 0);
    list.extend(reservation.map(|value| write("memory.soft_limit_in_bytes", value)));
    let kernel = memory.kernel.filter(|value| *value != 0);
    list.extend(kernel.map(|value| write("memory.kmem.limit_in_bytes", value).optional()));
    let tcp = memory.kernel_tcp.filter(|value| *value != 0);
    list.extend(tcp.map(|value| write("memory.kmem.tcp.limit_in_bytes", value)));
    let swappiness = memory.swappiness;
    list.extend(swappiness.map(|value| Write::new("memory", "memory.swappiness", value)));
    if memory.disable_oom_killer == Some(true) {
        list.push(write("memory.oom_control", 1));
    }
    if memory.use_hierarchy == Some(true) {
        list.push(write("memory.use_hierarchy", 1).optional());
    }
}

fn split_cpu(cpu: &Cpu, list: &mut Vec<Write>) {
    let mut put = |controller, file: &str, value: Option<String>| {
        list.extend(value.map(|value| Write::new(controller, file, value)));
    };
    let text = |value: Option<u64>| value.filter(|value| *value != 0).map(|v| v.to_string());
    put("cpu", "cpu.shares", text(cpu.shares));
    put("cpu", "cpu.cfs_period_us", text(cpu.period));
    let quota = cpu.quota.filter(|quota| *quota != 0);
    put(
        "cpu",
        "cpu.cfs_quota_us",
        quota.map(|quota| quota.to_string()),
    );
    put(
        "cpu",
        "cpu.cfs_burst_us",
        cpu.burst.map(|burst| burst.to_string()),
    );
    put("cpu", "cpu.rt_period_us", text(cpu.realtime_period));
    let runtime = cpu.realtime_runtime.filter(|runtime| *runtime != 0);
    put(
        "cpu",
        "cpu.rt_runtime_us",
        runtime.map(|runtime| runtime.to_string()),
    );
    put("cpu", "cpu.idle", cpu.idle.map(|idle| idle.to_string()));
    let filled = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    put("cpuset", "cpuset.cpus", filled(&cpu.cpus));
    put("cpuset", "cpuset.mems", filled(&cpu.mems));
}

fn split_block_io(resources: &Resources, list: &mut Vec<Write>) {
    let Some(io) = &resources.block_io else {
        return;
    };
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        // The scheduler that looks at weights today has a file of its own.
        let bfq = Write::new("blkio", "blkio.bfq.weight", weight);
        list.push(Write::new("blkio", "blkio.weight", weight).or(bfq));
    }
    let mut put = |file: &str, value: String| list.push(Write::new("blkio", file, value));
    if let Some(weight) = io.leaf_weight.filter(|weight| *weight != 0) {
        put("blkio.leaf_weight", weight.to_string());
    }
    for device in &io.weight_device {
        let (major, minor) = (device.major, device.minor);
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            put("blkio.weight_device", format!("{major}:{minor} {weight}"));
        }
        if let Some(weight) = device.leaf_weight.filter(|weight| *weight != 0) {
            put(
                "blkio.leaf_weight_device",
                format!("{major}:{minor} {weight}"),
            );
        }
    }
    for (file, devices) in [
        (
            "blkio.throttle.read_bps_device",
            &io.throttle_read_bps_device,
        ),
        (
            "blkio.throttle.write_bps_device",
            &io.throttle_write_bps_device,
        ),
        (
            "blkio.throttle.read_iops_device",
            &io.throttle_read_iops_device,
        ),
        (
            "blkio.throttle.write_iops_device",
            &io.throttle_write_iops_device,
        ),
    ] {
        for ThrottleDevice { major, minor, rate } in devices {
            put(file, format!("{major}:{minor} {rate}"));
        }
    }
}

/// Version 2 files.
pub(super) fn unified(resources: &Resources) -> Vec<Write> {
    let mut list = Vec::new();
    let max = |value: i64| {
        if value < 0 {
            "max".to_owned()
        } else {
            value.to_string()
        }
    };
    let mut put = |file: &str, value: Option<String>| {
        list.extend(value.map(|value| Write::new("", file, value)));
    };
    if let Some(memory) = &resources.memory {
        let limit = memory.limit.filter(|limit| *limit != 0);
        put("memory.max", limit.map(max));
        // Version 1 counts memory and swap together, version 2 apart.
        let swap = memory
            .swap
            .filter(|swap| *swap != 0)
            .map(|swap| match limit {
                Some(limit) if limit > 0 && swap > 0 => swap.saturating_sub(limit).max(0),
                _ => swap,
            });
        put("memory.swap.max", swap.map(max));
        let low = memory.reservation.filter(|value| *value != 0);
        put("memory.low", low.map(max));
    }
    if let Some(cpu) = &resources.cpu {
        let shares = cpu.shares.filter(|shares| *shares != 0);
        put(
            "cpu.weight",
            shares.map(|shares| cpu_weight(shares).to_string()),
        );
        if cpu.quota.is_some() || cpu.period.is_some() {
            let quota = cpu.quota.filter(|quota| *quota > 0);
            let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            let period = cpu.period.filter(|period| *period != 0).unwrap_or(100_000);
            put("cpu.max", Some(format!("{quota} {period}")));
        }
        put("cpu.max.burst", cpu.burst.map(|burst| burst.to_string()));
        put("cpu.idle", cpu.idle.map(|idle| idle.to_string()));
        put(
            "cpuset.cpus",
            cpu.cpus.clone().filter(|list| !list.is_empty()),
        );
        put(
            "cpuset.mems",
            cpu.mems.clone().filter(|list| !list.is_empty()),
        );
    }
    let pids = resources.pids.as_ref().and_then(|pids| pids.limit);
    put("pids.max", pids.map(pids_max));
    unified_io(resources, &mut put);
    for page in &resources.hugepage_limits {
        put(
            &format!("hugetlb.{}.max", page.page_size),
            Some(page.limit.to_string()),
        );
    }
    for (file, value) in &resources.unified {
        put(file, Some(value.clone()));
    }
    list.extend(rdma(resources, ""));
    list
}

fn unified_io(resources: &Resources, put: &mut impl FnMut(&str, Option<String>)) {
    let Some(io) = &resources.block_io else {
        return;
    };
    let weight = io.weight.filter(|weight| *weight != 0).map(u64::from);
    // From 10..1000 to 1..10000, as runc and crun do.
    let weight = weight.map(|weight| 1 + weight.saturating_sub(10) * 9999 / 990);
    put("io.weight", weight.map(|weight| weight.to_string()));
    for (word, devices) in [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ] {
        for ThrottleDevice { major, minor, rate } in devices {
            put("io.max", Some(format!("{major}:{minor} {word}={rate}")));
        }
    }
}

/// Shares of version 1 as a weight of version 2.
///
/// Source: `kubernetes/enhancements` 2254, as used by runc and crun.
fn cpu_weight(shares: u64) -> u64 {
    let shares = shares.clamp(SHARES_MIN, SHARES_MAX);
    1 + (shares - SHARES_MIN) * 9999 / (SHARES_MAX - SHARES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> Resources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn bounds_become_files_of_both_versions() {
        let asked = resources(
            r#"{"memory":{"limit":1000,"swap":3000},"pids":{"limit":-1},
                "cpu":{"shares":1024,"quota":5000,"cpus":"0"}}"#,
        );
        let old: Vec<String> = split(&asked)
            .unwrap()
            .iter()
            .map(|write| format!("{}={}", write.file, write.value))
            .collect();
        assert_eq!(
            old,
            [
                "memory.limit_in_bytes=1000",
                "cpu.shares=1024",
                "cpu.cfs_quota_us=5000",
                "cpuset.cpus=0",
                "pids.max=max"
            ]
        );
        let new: Vec<String> = unified(&asked)
            .iter()
            .map(|write| format!("{}={}", write.file, write.value))
            .collect();
        assert_eq!(
            new,
            [
                "memory.max=1000",
                "memory.swap.max=2000",
                "cpu.weight=39",
                "cpu.max=5000 100000",
                "cpuset.cpus=0",
                "pids.max=max"
            ]
        );
        assert_eq!(
            unified_controllers(&asked),
            ["memory", "cpu", "cpuset", "pids"]
        );
    }

    #[test]
    fn version_two_files_are_refused_where_there_are_none() {
        let asked = resources(r#"{"unified":{"memory.high":"1"}}"#);
        assert!(
            split(&asked)
                .unwrap_err()
                .to_string()
                .contains("memory.high")
        );
    }
}
