//! Runs processes in namespaces: plan, spawn, monitor.
//!
//! One direction: a [`ContainerConfig`] is written by [`container::create`]; [`start`] runs the
//! monitor (`rrun __monitor`, whose body is [`monitor::run`]), which computes a [`Plan`] and makes
//! the first process, which carries it out. [`attach::run`] speaks to the monitor.

pub mod attach;
mod caps;
mod cgroup;
mod channel;
mod config;
pub mod container;
mod error;
pub mod exec;
mod files;
mod filters;
mod host_devices;
pub mod ids;
mod init;
mod join;
mod limits;
mod log;
pub mod memory;
pub mod monitor;
mod mounts;
pub mod names;
pub mod net;
pub mod oci;
pub mod overlay;
mod peers;
mod plan;
mod preserved;
mod process;
mod protocol;
mod reaper;
mod rooted;
mod rootfs;
pub mod seal;
pub mod seccomp;
mod signals;
mod staging;
mod state;
pub mod subid;
mod sys;
mod terminal;
pub mod time;
mod title;
mod tree;
pub mod userns;
mod users;

pub use caps::{CapSet, UnknownCapability};
pub use config::{
    ContainerConfig, HealthCheck, HostNamespaces, IdMap, Joins, LogConfig, LogDriver, Mount,
    MountKind, Network, Propagation, RestartPolicy, Rlimit, Root, Seccomp, Shm,
};
pub use container::Container;
pub use error::{Failure, FailureClass, RunnerError};
pub use filters::compile as compile_seccomp;
pub use limits::Limits;
pub use log::{LOG_FILE, Record, Stream};
pub use monitor::{StartOptions, start};
pub use plan::{
    DeviceNodes, Exact, GIVEN_VARIABLES, HostFacts, Place, Plan, ProcessSpec, RootSource, Step,
    environment,
};
pub use preserved::{PRESERVED_FDS_MAX, check as check_preserved};
pub use signals::parse as parse_signal;
pub use state::{Health, Probe, State, Status, monitor_alive, read as read_state};
pub use terminal::size as terminal_size;
pub use users::{Identity, resolve as resolve_user};
