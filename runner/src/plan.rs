//! What starting a container does, as data: computed here, carried out by [`crate::init`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::caps::CapSet;
use crate::config::{
    ContainerConfig, Mount, MountKind, Network, Propagation, Rlimit, Root, Seccomp, Shm,
};
use crate::join::joined;
use crate::oci::step::BundleStep;
use crate::overlay::Dialect;
use crate::sys;

/// What Docker hides in `/proc` and `/sys`.
const MASKED: [(Place, &str); 13] = [
    (Place::Proc, "asound"),
    (Place::Proc, "acpi"),
    (Place::Proc, "interrupts"),
    (Place::Proc, "kcore"),
    (Place::Proc, "keys"),
    (Place::Proc, "latency_stats"),
    (Place::Proc, "timer_list"),
    (Place::Proc, "timer_stats"),
    (Place::Proc, "sched_debug"),
    (Place::Proc, "scsi"),
    (Place::Sys, "firmware"),
    (Place::Sys, "devices/virtual/powercap"),
    (Place::Sys, "fs/selinux"),
];

/// What Docker makes read-only in `/proc`.
const READ_ONLY: [(Place, &str); 5] = [
    (Place::Proc, "bus"),
    (Place::Proc, "fs"),
    (Place::Proc, "irq"),
    (Place::Proc, "sys"),
    (Place::Proc, "sysrq-trigger"),
];

/// Device nodes every container has: name, major, minor.
pub(crate) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Symbolic links every container has in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A file system the runner itself mounted, so paths in it cannot be an image's trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// `/proc`.
    Proc,
    /// `/sys`.
    Sys,
}

/// What the plan needs to know about the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// Effective user id of the caller.
    pub euid: u32,
    /// Effective group id of the caller.
    pub egid: u32,
    /// Whether `/sys/fs/cgroup` is a version 2 hierarchy.
    pub unified_cgroups: bool,
}

impl HostFacts {
    /// Looks at this host.
    #[must_use]
    pub fn detect() -> Self {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
        Self {
            euid: rustix::process::geteuid().as_raw(),
            egid: rustix::process::getegid().as_raw(),
            unified_cgroups: unified.try_exists().unwrap_or(false),
        }
    }
}

/// One thing to do, in init, after it was made in its namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Enter the control groups made by the monitor, then a cgroup namespace rooted there when
    /// wanted.
    EnterCgroups {
        /// Whether the namespace is our own.
        own_namespace: bool,
    },
    /// Copy what mounts of the host spread into, before that is cut off.
    OpenSpreading(Vec<Mount>),
    /// Wait until the id map is written, then become root inside.
    BecomeMappedRoot,
    /// Cut mount propagation with the host.
    MakeMountsPrivate,
    /// Put the root directory on the mount point.
    MountRoot(RootSource, DeviceNodes),
    /// Mount a new procfs on `/proc`.
    MountProc {
        /// Bind the host's instead.
        bind_host: bool,
    },
    /// Mount sysfs on `/sys`; the host's, bound, when the network is not our own.
    MountSys {
        /// Bind the host's instead of a new one.
        bind_host: bool,
        /// Refuse writing.
        read_only: bool,
    },
    /// Mount the cgroup v2 hierarchy on `/sys/fs/cgroup` where possible.
    MountCgroup {
        /// Refuse writing.
        read_only: bool,
    },
    /// Mount a small tmpfs on `/dev` with its nodes, links and directories.
    MountDev {
        /// Bind the host's nodes instead of making new ones.
        bind_nodes: bool,
        /// Nodes: name, major, minor.
        nodes: Vec<(String, u32, u32)>,
        /// Links: name, target.
        links: Vec<(String, String)>,
        /// Group of terminals, when it can be given.
        tty_gid: Option<u32>,
        /// What `/dev/shm` is.
        shm: Shm,
        /// Size of `/dev/shm`.
        shm_size_bytes: u64,
    },
    /// Make the terminal in the container's devpts and send its master side out.
    OpenTerminal,
    /// A mount the user asked for.
    Mount(Mount),
    /// Hide a path.
    Mask(Place, String),
    /// Make a path read-only.
    ReadOnly(Place, String),
    /// Make the root mount read-only.
    ReadOnlyRoot,
    /// Make the new root the root directory and drop the old one.
    PivotRoot,
    /// Bring the loopback interface up.
    LoopbackUp,
    /// Wait until the monitor says that the network is ready.
    AwaitNetwork,
    /// Set the host name.
    SetHostname(String),
    /// Make nodes of all the host's devices.
    HostDevices {
        /// Those of consoles too.
        consoles: bool,
    },
    /// Set a resource limit.
    SetRlimit(Rlimit),
    /// What only bundles need.
    Bundle(BundleStep),
    /// Become the container's process.
    Execute(ProcessSpec),
}

/// Whether device nodes work on the mounts of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceNodes {
    /// They do: something else says which.
    #[default]
    Work,
    /// Only the usual ones in `/dev` and those that were asked for.
    Barred,
}

/// What [`Step::MountRoot`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootSource {
    /// A directory of the host.
    Dir(PathBuf),
    /// FUSE; the device's descriptor is sent to the server.
    Fuse,
    /// The kernel's overlayfs on a FUSE that is only read.
    Overlay(Dialect),
}

/// How a process inside a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// `KEY=VALUE` lines.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Whether the working directory is made when absent.
    pub makes_cwd: bool,
    /// `name|uid[:group|gid]`.
    pub user: String,
    /// Groups to add.
    pub group_add: Vec<String>,
    /// Whether a terminal is its standard streams.
    pub tty: bool,
    /// Capabilities of the bounding set, and of a root process.
    pub caps: CapSet,
    /// Whether gaining privileges is forbidden.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Whether only one id exists: changes of ids are pretended for root, refused for others.
    pub squash: bool,
    /// Whether this process stays as the program's parent and reaps what others leave.
    pub init: bool,
    /// Descriptors past the standard streams that it inherits.
    pub preserved_fds: u32,
    /// What a bundle decides beyond this.
    pub exact: Option<Exact>,
}

/// Identity of a process as a bundle gives it: by number, each capability set by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exact {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Whether it has the runtime's groups instead.
    pub keep_groups: bool,
    /// File mode creation mask.
    pub umask: u32,
    /// Capabilities; the bounding set is in the process itself.
    pub effective: CapSet,
    /// What it may take.
    pub permitted: CapSet,
    /// What programs with file capabilities may keep.
    pub inheritable: CapSet,
    /// What plain programs keep.
    pub ambient: CapSet,
}

/// A container start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `CLONE_NEW*` bits of init.
    pub namespaces: u64,
    /// What init does, in order.
    pub steps: Vec<Step>,
}

impl ProcessSpec {
    /// The container's main process.
    #[must_use]
    pub fn main(config: &ContainerConfig) -> Self {
        Self {
            argv: config.argv.clone(),
            env: environment(&config.env, &config.hostname, config.tty),
            cwd: config.cwd.clone(),
            makes_cwd: !config.cwd_required,
            user: config.user.clone(),
            group_add: config.group_add.clone(),
            tty: config.tty,
            caps: if config.privileged {
                CapSet::ALL
            } else {
                config.caps
            },
            no_new_privileges: config.no_new_privileges,
            seccomp: match config.seccomp {
                Seccomp::Default if config.privileged => Seccomp::Unconfined,
                asked @ (Seccomp::Default | Seccomp::Profile | Seccomp::Unconfined) => asked,
            },
            squash: config.id_map.only().is_some(),
            init: config.init,
            preserved_fds: 0,
            exact: None,
        }
    }
}

/// Variables that processes have without being given them.
pub const GIVEN_VARIABLES: [&str; 3] = ["PATH", "HOSTNAME", "TERM"];

/// The environment Docker gives: those of [`GIVEN_VARIABLES`] come first, `TERM` with a terminal only. A line
/// that is a name alone takes the variable away.
#[must_use]
pub fn environment(env: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut lines: Vec<String> = Vec::with_capacity(env.len() + 3);
    let has = |key: &str| env.iter().any(|line| line.split('=').next() == Some(key));
    if !has("PATH") {
        lines.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    if !hostname.is_empty() && !has("HOSTNAME") {
        lines.push(format!("HOSTNAME={hostname}"));
    }
    if tty && !has("TERM") {
        lines.push("TERM=xterm".to_owned());
    }
    for (position, line) in env.iter().enumerate() {
        let key = line.split('=').next();
        let later = env
            .iter()
            .skip(position + 1)
            .any(|other| other.split('=').next() == key);
        if line.contains('=') && !later {
            lines.push(line.clone());
        }
    }
    lines
}

/// The `CLONE_NEW*` bits of a container's first process. The cgroup namespace is not among them:
/// it is made when the groups were entered.
pub(crate) fn namespaces(config: &ContainerConfig) -> u64 {
    let mut flags = sys::CLONE_NEWNS;
    for (shared, flag) in [
        (config.host.pid, sys::CLONE_NEWPID),
        (config.host.ipc, sys::CLONE_NEWIPC),
        (config.host.uts, sys::CLONE_NEWUTS),
        (matches!(config.network, Network::Host), sys::CLONE_NEWNET),
    ] {
        if !shared {
            flags |= flag;
        }
    }
    if config.has_user_namespace() {
        flags |= sys::CLONE_NEWUSER;
    }
    flags
}

impl Plan {
    /// Computes what starting `config` on this host does. Pure: touches nothing.
    #[must_use]
    pub fn new(config: &ContainerConfig, host: &HostFacts) -> Self {
        let own_network = config.network != Network::Host;
        let mut steps = first_steps(config);
        push_system_mounts(&mut steps, config, host, own_network);
        let mut mounts = config.mounts.clone();
        mounts.sort_by_key(|mount| mount.target.components().count());
        steps.extend(mounts.into_iter().map(Step::Mount));
        if config.read_only {
            steps.push(Step::ReadOnlyRoot);
        }
        steps.push(Step::PivotRoot);
        if own_network {
            steps.push(Step::LoopbackUp);
        }
        if !config.hostname.is_empty() && !config.host.uts {
            steps.push(Step::SetHostname(config.hostname.clone()));
        }
        if !config.domainname.is_empty() && !config.host.uts {
            let name = config.domainname.clone();
            steps.push(Step::Bundle(BundleStep::SetDomainname(name)));
        }
        steps.extend(config.rlimits.iter().cloned().map(Step::SetRlimit));
        if config.network == Network::Private {
            steps.push(Step::AwaitNetwork);
        }
        steps.push(Step::Execute(ProcessSpec::main(config)));
        Self {
            namespaces: namespaces(config) & !joined(config),
            steps,
        }
    }

    /// Whether init mounts FUSE and so needs a server.
    #[must_use]
    pub fn needs_server(&self) -> bool {
        self.steps.iter().any(|step| {
            matches!(
                step,
                Step::MountRoot(RootSource::Fuse | RootSource::Overlay(_), _)
            )
        })
    }
}

/// Up to the root file system.
fn first_steps(config: &ContainerConfig) -> Vec<Step> {
    let source = match &config.root {
        Root::Dir(path) => RootSource::Dir(path.clone()),
        Root::Fuse { overlay: None, .. } => RootSource::Fuse,
        Root::Fuse {
            overlay: Some(dialect),
            ..
        } => RootSource::Overlay(*dialect),
    };
    let nodes = if config.bars_devices() {
        DeviceNodes::Barred
    } else {
        DeviceNodes::Work
    };
    let root = Step::MountRoot(source, nodes);
    let enter = Step::EnterCgroups {
        own_namespace: !config.host.cgroup,
    };
    let spreads = |mount: &&Mount| match &mount.kind {
        MountKind::Bind { propagation, .. } => *propagation != Propagation::Private,
        MountKind::Device { .. } | MountKind::Tmpfs { .. } => false,
    };
    let spreading: Vec<Mount> = config.mounts.iter().filter(spreads).cloned().collect();
    let mut steps = Vec::new();
    if config.has_user_namespace() {
        // Other groups than the caller's may only be entered by the caller.
        steps.extend([enter.clone(), Step::BecomeMappedRoot]);
    }
    if !spreading.is_empty() {
        steps.push(Step::OpenSpreading(spreading));
    }
    steps.extend([Step::MakeMountsPrivate, root]);
    if !config.has_user_namespace() {
        // The device of FUSE is not among those that containers may use.
        steps.push(enter);
    }
    steps
}

fn push_system_mounts(
    steps: &mut Vec<Step>,
    config: &ContainerConfig,
    host: &HostFacts,
    own_network: bool,
) {
    let user_namespace = config.has_user_namespace();
    let read_only = !config.privileged;
    steps.push(Step::MountProc {
        // Without a process namespace of its own a user namespace may mount no new one.
        bind_host: config.host.pid && user_namespace,
    });
    for (key, value) in &config.sysctls {
        steps.push(Step::Bundle(BundleStep::Sysctl(key.clone(), value.clone())));
    }
    // In another's PID namespace it was set before that was joined.
    if let Some(score) = config.oom_score_adj.filter(|_| config.joins.pid.is_none()) {
        steps.push(Step::Bundle(BundleStep::OomScore(score)));
    }
    steps.push(Step::MountSys {
        bind_host: user_namespace && !own_network,
        read_only,
    });
    if host.unified_cgroups {
        steps.push(Step::MountCgroup {
            read_only: read_only && !config.service_manager,
        });
    }
    steps.push(Step::MountDev {
        bind_nodes: user_namespace,
        nodes: DEVICES
            .iter()
            .map(|(n, major, minor)| ((*n).to_owned(), *major, *minor))
            .collect(),
        links: LINKS
            .iter()
            .map(|(n, to)| ((*n).to_owned(), (*to).to_owned()))
            .collect(),
        tty_gid: config.id_map.only().is_none().then_some(5),
        shm: config.shm,
        shm_size_bytes: config.shm_size_bytes,
    });
    if config.privileged && !user_namespace {
        steps.push(Step::HostDevices {
            consoles: !config.service_manager,
        });
    }
    if config.tty {
        steps.push(Step::OpenTerminal);
    }
    if !config.privileged && !config.bare_system {
        steps.extend(
            MASKED
                .iter()
                .map(|(place, path)| Step::Mask(*place, (*path).to_owned())),
        );
        steps.extend(
            READ_ONLY
                .iter()
                .map(|(place, path)| Step::ReadOnly(*place, (*path).to_owned())),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IdMap;

    fn host() -> HostFacts {
        HostFacts {
            euid: 1000,
            egid: 1000,
            unified_cgroups: false,
        }
    }

    #[test]
    fn a_plan_pivots_once_and_executes_last() {
        let config = ContainerConfig {
            id_map: IdMap::Squash,
            ..ContainerConfig::default()
        };
        let plan = Plan::new(&config, &host());
        assert_eq!(plan.steps.get(1), Some(&Step::BecomeMappedRoot));
        assert_eq!(
            plan.steps
                .iter()
                .filter(|s| matches!(s, Step::PivotRoot))
                .count(),
            1
        );
        assert!(matches!(plan.steps.last(), Some(Step::Execute(_))));
        assert!(plan.namespaces & sys::CLONE_NEWUSER != 0);
    }

    #[test]
    fn root_needs_no_user_namespace_and_privileged_masks_nothing() {
        let config = ContainerConfig {
            id_map: IdMap::Root,
            privileged: true,
            network: Network::Host,
            ..ContainerConfig::default()
        };
        let plan = Plan::new(&config, &host());
        assert_eq!(
            plan.namespaces & (sys::CLONE_NEWUSER | sys::CLONE_NEWNET),
            0
        );
        assert!(
            !plan
                .steps
                .iter()
                .any(|s| matches!(s, Step::Mask(..) | Step::LoopbackUp))
        );
    }

    #[test]
    fn user_mounts_go_from_the_outside_in() {
        let mount = |target: &str| Mount {
            target: target.into(),
            kind: crate::config::MountKind::Tmpfs {
                options: Vec::new(),
            },
            read_only: false,
        };
        let config = ContainerConfig {
            mounts: vec![mount("/a/b/c"), mount("/a")],
            ..ContainerConfig::default()
        };
        let plan = Plan::new(&config, &host());
        let targets: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|s| {
                if let Step::Mount(m) = s {
                    m.target.to_str()
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(targets, ["/a", "/a/b/c"]);
    }

    #[test]
    fn later_environment_lines_win() {
        let env = ["A=1", "B=2", "A=3", "junk"].map(str::to_owned);
        let lines = environment(&env, "box", true);
        assert_eq!(
            lines.get(1..).unwrap(),
            ["HOSTNAME=box", "TERM=xterm", "B=2", "A=3"]
        );
        let env = ["PATH", "TERM", "A=1"].map(str::to_owned);
        assert_eq!(environment(&env, "box", true), ["HOSTNAME=box", "A=1"]);
    }
}
