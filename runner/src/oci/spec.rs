//! `config.json` of a bundle: the parts of the OCI runtime specification that are acted upon.
//!
//! Names stay text here and are looked at where they are used, since the specification wants some
//! unknown ones (capabilities) passed over and others (namespaces) refused.
//!
//! Source: OCI runtime-spec 1.2, `config.md` and `config-linux.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, RunnerError};

/// Largest `config.json` read, in bytes; podman's are below 64 KiB, a seccomp profile included.
const SPEC_BYTES_MAX: u64 = 16 << 20;

/// A bundle's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Version of the specification the bundle keeps to.
    pub oci_version: String,
    /// The container's process.
    pub process: Option<Process>,
    /// The root directory.
    pub root: Option<RootDir>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// NIS domain name inside.
    pub domainname: Option<String>,
    /// Mounts on top of the root, in order.
    pub mounts: Vec<Mount>,
    /// Programs run at points of the container's life.
    pub hooks: Hooks,
    /// Free-form text.
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    pub linux: Linux,
}

/// The root directory of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootDir {
    /// Relative to the bundle, or absolute.
    pub path: PathBuf,
    /// Whether it is mounted read-only.
    pub readonly: bool,
}

/// A process of a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Size of the terminal.
    pub console_size: Option<ConsoleSize>,
    /// Who it runs as.
    pub user: User,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=VALUE` lines.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Capabilities, by set.
    pub capabilities: Option<Capabilities>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether gaining privileges is forbidden.
    pub no_new_privileges: bool,
    /// `AppArmor` profile.
    pub apparmor_profile: Option<String>,
    /// How gladly the kernel kills it for lack of memory.
    pub oom_score_adj: Option<i32>,
    /// Its scheduling policy.
    pub scheduler: Option<Scheduler>,
    /// `SELinux` label.
    pub selinux_label: Option<String>,
    /// Its input and output priority.
    pub io_priority: Option<IoPriority>,
    /// Processors of a process that joins.
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Lines.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// Ids of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// Capabilities of a process, by set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What it and its children can ever have.
    pub bounding: Vec<String>,
    /// What it has.
    pub effective: Vec<String>,
    /// What programs with file capabilities may keep.
    pub inheritable: Vec<String>,
    /// What it may take.
    pub permitted: Vec<String>,
    /// What plain programs keep.
    pub ambient: Vec<String>,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// What may be reached by asking.
    pub hard: u64,
    /// What holds.
    pub soft: u64,
}

/// A scheduling policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    /// `SCHED_OTHER` and so on.
    pub policy: String,
    /// Niceness of ordinary policies.
    pub nice: i32,
    /// Priority of real-time policies.
    pub priority: u32,
    /// `SCHED_FLAG_RESET_ON_FORK` and so on.
    pub flags: Vec<String>,
    /// Nanoseconds per period, of the deadline policy.
    pub runtime: u64,
    /// Nanoseconds until the work must be done.
    pub deadline: u64,
    /// Nanoseconds between starts.
    pub period: u64,
}

/// An input and output priority.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT` and so on.
    pub class: String,
    /// 0 (first) to 7.
    pub priority: u16,
}

/// Processors of a process that joins a container, as lists such as `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CpuAffinity {
    /// Before it enters the container's control group.
    pub initial: String,
    /// Afterwards.
    #[serde(rename = "final")]
    pub last: String,
}

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Path inside.
    pub destination: PathBuf,
    /// File system type; `bind` or nothing for a bind mount.
    #[serde(rename = "type")]
    pub kind: String,
    /// Device name, or the path to bind; relative ones start at the bundle.
    pub source: PathBuf,
    /// As for `mount -o`.
    pub options: Vec<String>,
    /// User ids of an id-mapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of an id-mapped mount.
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs run at points of the container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// After the namespaces were made; deprecated.
    pub prestart: Vec<Hook>,
    /// After the namespaces were made, outside.
    pub create_runtime: Vec<Hook>,
    /// After the mounts were made, inside the namespaces.
    pub create_container: Vec<Hook>,
    /// Before the program is executed, inside the container.
    pub start_container: Vec<Hook>,
    /// After the program was executed, outside.
    pub poststart: Vec<Hook>,
    /// After the container was deleted, outside.
    pub poststop: Vec<Hook>,
}

/// A program run at some point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// `KEY=VALUE` lines.
    pub env: Vec<String>,
    /// Seconds it may take.
    pub timeout: Option<i64>,
}

/// What only Linux has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// User id map.
    pub uid_mappings: Vec<IdMapping>,
    /// Group id map.
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters.
    pub sysctl: BTreeMap<String, String>,
    /// Bounds that control groups enforce.
    pub resources: Option<Resources>,
    /// Where the control group is.
    pub cgroups_path: Option<String>,
    /// Namespaces to make or join.
    pub namespaces: Vec<Namespace>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// System call filter; compiled elsewhere.
    pub seccomp: Option<Box<serde_json::value::RawValue>>,
    /// Propagation of the root mount.
    pub rootfs_propagation: Option<String>,
    /// Paths to hide.
    pub masked_paths: Vec<PathBuf>,
    /// Paths to protect.
    pub readonly_paths: Vec<PathBuf>,
    /// `SELinux` label of mounts.
    pub mount_label: Option<String>,
    /// Execution domain.
    pub personality: Option<Personality>,
    /// Clocks of a time namespace.
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Network devices to move into the container, by their names outside.
    pub net_devices: BTreeMap<String, NetDevice>,
    /// Placement of memory on nodes.
    pub memory_policy: Option<MemoryPolicy>,
    /// Shares of caches; refused.
    pub intel_rdt: Option<serde::de::IgnoredAny>,
}

/// A network device that is moved into the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NetDevice {
    /// Its name inside; the one outside when empty.
    pub name: String,
}

/// Where memory comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryPolicy {
    /// `MPOL_BIND` and so on.
    pub mode: String,
    /// Nodes, as a list such as `0-3,7`.
    pub nodes: String,
    /// `MPOL_F_STATIC_NODES` and so on.
    pub flags: Vec<String>,
}

/// A run of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// A namespace to make, or to join where there is a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its file, when it exists already.
    pub path: Option<PathBuf>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Path inside.
    pub path: PathBuf,
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permissions.
    pub file_mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// Execution domain of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// None are defined.
    pub flags: Vec<String>,
}

/// What a clock of a time namespace shows more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds.
    pub nanosecs: u32,
}

/// Bounds that control groups enforce.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Which devices may be used.
    pub devices: Vec<DeviceRule>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processors.
    pub cpu: Option<Cpu>,
    /// Number of tasks.
    pub pids: Option<Pids>,
    /// Input and output of block devices.
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Network class and priorities.
    pub network: Option<NetworkLimits>,
    /// Remote direct memory access.
    pub rdma: BTreeMap<String, Rdma>,
    /// Any file of version 2 with its value.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A rule about devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRule {
    /// Whether it allows.
    pub allow: bool,
    /// `a`, `c` or `b`; all when absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Major number; any when absent or negative.
    pub major: Option<i64>,
    /// Minor number; any when absent or negative.
    pub minor: Option<i64>,
    /// Letters of `rwm`; all when absent.
    pub access: Option<String>,
}

/// Bounds on memory, in bytes; -1 lifts one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Most.
    pub limit: Option<i64>,
    /// Soft bound.
    pub reservation: Option<i64>,
    /// Most memory and swap together.
    pub swap: Option<i64>,
    /// Most kernel memory; no longer in kernels.
    pub kernel: Option<i64>,
    /// Most kernel memory of TCP.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Option<i64>,
    /// Tendency to swap.
    pub swappiness: Option<u64>,
    /// Whether nothing is killed for lack of memory.
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    /// Whether the parent's account includes this.
    pub use_hierarchy: Option<bool>,
    /// Whether a limit below what is used is refused.
    pub check_before_update: Option<bool>,
}

/// Bounds on processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// Weight, 2 to 262144.
    pub shares: Option<u64>,
    /// Microseconds per period.
    pub quota: Option<i64>,
    /// Microseconds that may be saved up.
    pub burst: Option<u64>,
    /// Length of a period in microseconds.
    pub period: Option<u64>,
    /// Real-time microseconds per period.
    pub realtime_runtime: Option<i64>,
    /// Length of a real-time period in microseconds.
    pub realtime_period: Option<u64>,
    /// Processors, as a list.
    pub cpus: Option<String>,
    /// Memory nodes, as a list.
    pub mems: Option<String>,
    /// 1 when it only runs where nothing else does.
    pub idle: Option<i64>,
}

/// Bound on tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Most; 0 or less lifts it.
    pub limit: Option<i64>,
}

/// Bounds on block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockIo {
    /// Weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Weight against child groups.
    pub leaf_weight: Option<u16>,
    /// Weights by device.
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read per second by device.
    pub throttle_read_bps_device: Vec<ThrottleDevice>,
    /// Bytes written per second by device.
    pub throttle_write_bps_device: Vec<ThrottleDevice>,
    /// Reads per second by device.
    #[serde(rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops_device: Vec<ThrottleDevice>,
    /// Writes per second by device.
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops_device: Vec<ThrottleDevice>,
}

/// Weight of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WeightDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Weight.
    pub weight: Option<u16>,
    /// Weight against child groups.
    pub leaf_weight: Option<u16>,
}

/// Rate of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleDevice {
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Per second.
    pub rate: u64,
}

/// Bound on huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HugepageLimit {
    /// `2MB` and so on.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// Marks of network packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NetworkLimits {
    /// Class of `net_cls`.
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    /// Priorities of `net_prio`.
    pub priorities: Vec<InterfacePriority>,
}

/// Priority of packets on one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InterfacePriority {
    /// Interface.
    pub name: String,
    /// Priority.
    pub priority: u32,
}

/// Bounds of one RDMA device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rdma {
    /// Most handles.
    pub hca_handles: Option<u32>,
    /// Most objects.
    pub hca_objects: Option<u32>,
}

impl Spec {
    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is no configuration.
    pub fn load(path: &Path) -> Result<(Self, Vec<u8>), RunnerError> {
        let bytes =
            crate::files::read_bounded(path, SPEC_BYTES_MAX).at("read the configuration", path)?;
        Ok((parse(path, &bytes)?, bytes))
    }
}

/// Parses the JSON of a file.
pub(crate) fn parse<T: for<'a> Deserialize<'a>>(
    path: &Path,
    bytes: &[u8],
) -> Result<T, RunnerError> {
    serde_json::from_slice(bytes).map_err(|error| RunnerError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Reads a process description, as `exec --process` takes it.
///
/// # Errors
///
/// When it cannot be read or is no process.
pub fn load_process(path: &Path) -> Result<Process, RunnerError> {
    let bytes = crate::files::read_bounded(path, SPEC_BYTES_MAX)
        .at("read the process description", path)?;
    parse(path, &bytes)
}

/// Reads resources, as `update --resources` takes them.
///
/// # Errors
///
/// When they cannot be read or are none.
pub fn load_resources(path: &Path) -> Result<Resources, RunnerError> {
    let bytes = crate::files::read_bounded(path, SPEC_BYTES_MAX).at("read the resources", path)?;
    parse(path, &bytes)
}
