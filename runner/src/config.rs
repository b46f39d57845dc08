//! What a container is: the data in `config.json`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::caps::CapSet;
use crate::error::{At, RunnerError};
use crate::limits::Limits;
use crate::net::NetConfig;
use crate::overlay::Dialect;
use crate::subid::IdRange;

/// Largest `config.json` read, in bytes: environments and labels are bounded by `ARG_MAX` (2 MiB).
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Everything that is decided about a container before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// 64 hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// The image as the user wrote it; opaque here.
    pub image: String,
    /// The image's id; opaque here.
    pub image_id: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Entrypoint and command, joined.
    pub argv: Vec<String>,
    /// `KEY=VALUE` lines, in order.
    pub env: Vec<String>,
    /// Working directory inside; made when absent, unless it has to be there. Empty means `/`.
    pub cwd: String,
    /// Whether it has to be there.
    pub cwd_required: bool,
    /// `name|uid[:group|gid]`; empty means root.
    pub user: String,
    /// Groups to add to the process, by name or number.
    pub group_add: Vec<String>,
    /// Host name inside.
    pub hostname: String,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether standard input stays open for attached clients.
    pub stdin_open: bool,
    /// What the root directory is.
    pub root: Root,
    /// Whether the root directory is mounted read-only.
    pub read_only: bool,
    /// Mounts on top of the root.
    pub mounts: Vec<Mount>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size_bytes: u64,
    /// Network of the container.
    pub network: Network,
    /// Its uplink and published ports.
    pub net: NetConfig,
    /// Namespaces that are the host's.
    pub host: HostNamespaces,
    /// Namespaces that are another container's; the network's is in `net`.
    pub joins: Joins,
    /// What `/dev/shm` is.
    pub shm: Shm,
    /// Whether other containers may join its IPC namespace.
    pub shareable_ipc: bool,
    /// NIS domain name inside; empty leaves it.
    pub domainname: String,
    /// Whether nothing of `/proc` and `/sys` is hidden or protected.
    pub bare_system: bool,
    /// Whether the process gets a parent that reaps what others leave.
    pub init: bool,
    /// Whether the process manages services: it may then write to its control group, where that is
    /// of version 2, and has no consoles of the host's.
    pub service_manager: bool,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// How gladly the kernel kills the process when memory is short; `None` leaves it.
    pub oom_score_adj: Option<i32>,
    /// How ids inside relate to ids outside.
    pub id_map: IdMap,
    /// Capabilities of a root process.
    pub caps: CapSet,
    /// Whether everything the host allows is allowed inside.
    pub privileged: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// A profile as Docker and the OCI runtime specification write them, for
    /// [`Seccomp::Profile`].
    pub seccomp_profile: String,
    /// Whether gaining privileges by set-user-ID files is forbidden.
    pub no_new_privileges: bool,
    /// Resource limits; those of the user's wish fail, defaults are clamped.
    pub rlimits: Vec<Rlimit>,
    /// Bounds enforced by control groups.
    pub limits: Limits,
    /// Signal that asks the process to end, by name (`SIGTERM`) or number; empty means `SIGTERM`.
    pub stop_signal: String,
    /// Seconds to wait after the stop signal.
    pub stop_timeout_s: u32,
    /// Seconds after which it is killed; 0 is never. Its exit code is -1 then.
    pub run_timeout_s: u32,
    /// Where the monitor writes its process id at each start.
    pub monitor_pidfile: Option<PathBuf>,
    /// Where it writes that of the process.
    pub pidfile: Option<PathBuf>,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the container directory goes when the container ends.
    pub auto_remove: bool,
    /// Whether the container is started again when it ends.
    pub restart: RestartPolicy,
    /// How to find out whether it is well.
    pub health: Option<HealthCheck>,
    /// How its output is kept.
    pub log: LogConfig,
    /// The command that runs the id supervisor in squash mode.
    pub ids_argv: Vec<OsString>,
    /// Whatever else the caller keeps with a container; not read here.
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Default for ContainerConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            image: String::new(),
            image_id: String::new(),
            created: String::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
            cwd_required: false,
            user: String::new(),
            group_add: Vec::new(),
            hostname: String::new(),
            tty: false,
            stdin_open: false,
            root: Root::Dir(PathBuf::new()),
            read_only: false,
            mounts: Vec::new(),
            shm_size_bytes: 64 << 20,
            network: Network::None,
            net: NetConfig::default(),
            host: HostNamespaces::default(),
            joins: Joins::default(),
            shm: Shm::default(),
            shareable_ipc: false,
            domainname: String::new(),
            bare_system: false,
            init: false,
            service_manager: false,
            sysctls: BTreeMap::new(),
            oom_score_adj: None,
            id_map: IdMap::Root,
            caps: CapSet::docker_default(),
            privileged: false,
            seccomp: Seccomp::Default,
            seccomp_profile: String::new(),
            no_new_privileges: false,
            rlimits: Vec::new(),
            limits: Limits::default(),
            stop_signal: String::new(),
            stop_timeout_s: 10,
            run_timeout_s: 0,
            monitor_pidfile: None,
            pidfile: None,
            labels: BTreeMap::new(),
            auto_remove: false,
            restart: RestartPolicy::default(),
            health: None,
            log: LogConfig::default(),
            ids_argv: Vec::new(),
            extra: BTreeMap::new(),
        }
    }
}

/// Where the root directory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// A directory of the host, used as it is.
    Dir(PathBuf),
    /// A FUSE server that the monitor starts; it receives the device on descriptor 3.
    Fuse {
        /// The server's command line.
        server_argv: Vec<OsString>,
        /// Who takes the writes: the kernel's overlayfs, in this way, on what is then a read-only
        /// server; the server itself when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlay: Option<Dialect>,
    },
}

/// One mount on top of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// Whether writing is refused.
    #[serde(default)]
    pub read_only: bool,
}

/// What a [`Mount`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A file or directory of the host, with all that is mounted below it.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// How mounts made later spread.
        #[serde(default)]
        propagation: Propagation,
        /// Whether mounts below it stay away.
        #[serde(default)]
        alone: bool,
    },
    /// A device node of the host, which the container may use.
    Device {
        /// Absolute path on the host.
        source: PathBuf,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Mount options as for `mount -o`, split at commas: `size=64m`, `mode=1777`, `noexec`.
        options: Vec<String>,
    },
}

/// Whether mounts made at one place later show at the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// The host's in the container.
    Slave,
    /// Both ways; from the host only where the container has a user namespace.
    Shared,
}

/// Network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Network {
    /// A namespace of its own with loopback only.
    None,
    /// A namespace of its own with an uplink.
    Private,
    /// Another container's.
    Container,
    /// The host's.
    Host,
}

/// How ids inside a container relate to ids outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdMap {
    /// No user namespace: ids are the host's. Needs root.
    Root,
    /// Root inside is the caller; ids from 1 come from these ranges, through `newuidmap`.
    Range {
        /// User id ranges of the caller, in order.
        uids: Vec<IdRange>,
        /// Group id ranges of the caller, in order.
        gids: Vec<IdRange>,
    },
    /// Only id 0 exists inside, and is the caller.
    Squash,
    /// Only these ids exist inside, and are the caller: for a process that is not root and looks
    /// at who it is.
    Single {
        /// The user id, not 0.
        uid: u32,
        /// The group id.
        gid: u32,
    },
}

impl IdMap {
    /// The user id and the group id that exist inside, where there is one of each.
    #[must_use]
    pub fn only(&self) -> Option<(u32, u32)> {
        match self {
            Self::Root | Self::Range { .. } => None,
            Self::Squash => Some((0, 0)),
            Self::Single { uid, gid } => Some((*uid, *gid)),
        }
    }
}

/// System call filter of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// Docker's default profile.
    Default,
    /// The configuration's own.
    Profile,
    /// None, except what squash mode needs.
    Unconfined,
}

/// Which namespaces a container does not have of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostNamespaces {
    /// Its processes are among the host's.
    pub pid: bool,
    /// Its message queues, semaphores and shared memory are the host's.
    pub ipc: bool,
    /// Its host name is the host's.
    pub uts: bool,
    /// It sees control groups as the host does.
    pub cgroup: bool,
}

/// Containers whose namespaces a container shares, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Joins {
    /// Its processes are among this one's.
    pub pid: Option<String>,
    /// Its message queues, semaphores and shared memory are this one's.
    pub ipc: Option<String>,
}

/// What is on `/dev/shm`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shm {
    /// A file system in memory.
    #[default]
    Own,
    /// Nothing.
    Absent,
    /// What the container has there whose IPC namespace it joins.
    Joined,
}

/// What happens when a container ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// `no`, `on-failure`, `always` or `unless-stopped`.
    pub name: String,
    /// Starts after failures with `on-failure`; 0 is no bound.
    pub retries_max: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            name: "no".to_owned(),
            retries_max: 0,
        }
    }
}

/// A command that is run in a container now and then to tell whether it is well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// Command and arguments, run in the container.
    pub argv: Vec<String>,
    /// Time between checks.
    pub interval_ms: u64,
    /// Longest time of a check.
    pub timeout_ms: u64,
    /// Time after the start in which failures do not count.
    pub start_period_ms: u64,
    /// Time between checks in that time.
    pub start_interval_ms: u64,
    /// Failures in a row that make the container unhealthy.
    pub retries: u32,
    /// The program that runs the command in the container, whose directory is its last argument.
    pub probe_argv: Vec<OsString>,
}

/// Where a container's output goes besides its clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Lines of JSON, as Docker writes them.
    #[default]
    JsonFile,
    /// Plain lines with time, stream and a mark of partial lines, as the CRI has them.
    K8sFile,
    /// Nowhere.
    None,
}

/// How output is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// In what form.
    pub driver: LogDriver,
    /// Size at which a file is put aside; `None` is never.
    pub size_max_bytes: Option<u64>,
    /// Files kept, the current one included; 0 and 1 keep only that.
    pub files_max: u32,
}

/// A resource limit; see `getrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Lower-case name without prefix: `nofile`.
    pub kind: String,
    /// Soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None` is unlimited.
    pub hard: Option<u64>,
    /// Whether failing to set it is an error.
    pub required: bool,
}

impl ContainerConfig {
    /// Reads `config.json` of a container directory.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not a configuration.
    pub fn load(dir: &Path) -> Result<Self, RunnerError> {
        let path = dir.join("config.json");
        let bytes = crate::files::read_bounded(&path, CONFIG_BYTES_MAX)
            .at("read the container configuration", &path)?;
        serde_json::from_slice(&bytes).map_err(|error| RunnerError::Malformed {
            path,
            reason: error.to_string(),
        })
    }

    /// Writes `config.json` of a container directory, atomically.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), RunnerError> {
        let path = dir.join("config.json");
        let bytes = serde_json::to_vec(self).map_err(|error| RunnerError::Malformed {
            path,
            reason: error.to_string(),
        })?;
        crate::files::write_atomic(dir, "config.json", &bytes)
    }

    /// The signal that asks the process to end, when one was named that exists.
    #[must_use]
    pub fn stop_signal_number(&self) -> Option<i32> {
        crate::signals::parse(&self.stop_signal)
    }

    /// Whether device nodes are barred on all its mounts: root's container could use those of the
    /// host else, by any node it makes or finds. Where a control group says which it may use, or a
    /// user namespace does, mounts need not.
    #[must_use]
    pub fn bars_devices(&self) -> bool {
        !self.has_user_namespace() && !self.privileged && self.limits.devices.is_empty()
    }

    /// The container's names in `/etc/hosts`, the one with its domain first.
    #[must_use]
    pub fn host_words(&self) -> String {
        if self.domainname.is_empty() {
            self.hostname.clone()
        } else {
            format!("{0}.{1} {0}", self.hostname, self.domainname)
        }
    }

    /// Whether the container has a user namespace of its own.
    #[must_use]
    pub fn has_user_namespace(&self) -> bool {
        !matches!(self.id_map, IdMap::Root)
    }
}
