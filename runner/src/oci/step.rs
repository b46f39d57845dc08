//! What starting a bundle does beyond a container of our own, as data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::options::MountOptions;
use super::spec::{Hook, IoPriority, MemoryPolicy, Scheduler};

/// One thing init does for a bundle, after it was made in its namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BundleStep {
    /// Enter the control groups, then a cgroup namespace rooted there when wanted.
    EnterCgroups {
        /// Whether the namespace is our own.
        own_namespace: bool,
    },
    /// Open what only the host's side can reach: its procfs, the root, sources of bind mounts.
    OpenSources {
        /// The root directory.
        root: PathBuf,
        /// Propagation of all mounts in the new mount namespace, as `MS_*` bits.
        propagation: u64,
        /// Sources, by the number the mounts have.
        sources: Vec<Option<Source>>,
    },
    /// Put the root directory on itself, so that it is a mount.
    MountRoot(PathBuf),
    /// One mount of the configuration, with its number.
    Mount(usize, BundleMount),
    /// Make device nodes and, when wanted, Docker's links in `/dev`.
    MakeDevices {
        /// The nodes.
        nodes: Vec<Node>,
        /// Whether `/dev/fd` and so on are made.
        links: bool,
        /// Whether the host's nodes are bound instead.
        bind: bool,
    },
    /// Tell the runtime that the mounts stand, and wait while it runs hooks outside.
    AwaitRuntime,
    /// Run hooks inside the namespaces, outside the root.
    RunHooks(Vec<Hook>),
    /// Make the terminal and send its master side out.
    OpenTerminal,
    /// Make a directory and those above it, where they are missing.
    MakeDirectory(PathBuf),
    /// Hide a path.
    Hide(PathBuf),
    /// Make a path read-only.
    Protect(PathBuf),
    /// Make the root the root directory without a pivot.
    MoveRoot,
    /// Make the root the root directory without a mount namespace.
    ChangeRoot(PathBuf),
    /// Set propagation of the root mount: `MS_*` bits.
    RootPropagation(u64),
    /// Set a kernel parameter.
    Sysctl(String, String),
    /// Set the NIS domain name.
    SetDomainname(String),
    /// Set how gladly the kernel kills the process.
    OomScore(i32),
    /// Set the scheduling policy.
    Schedule(Scheduler),
    /// Set the input and output priority.
    IoPriority(IoPriority),
    /// Say where memory comes from.
    MemoryPolicy(MemoryPolicy),
    /// Set the execution domain.
    Personality(u64),
    /// Write the label of a security module for the next program: file below `attr`, text.
    Label(String, String),
}

/// Where a bind mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Path on the host.
    pub path: PathBuf,
    /// Whether its last part may be a link.
    pub follow: bool,
    /// Whether all mounts below come along.
    pub recursive: bool,
    /// Whether a link is copied instead of followed.
    pub copy_symlink: bool,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleMount {
    /// Path inside.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: BundleMountKind,
    /// How.
    pub options: MountOptions,
}

/// What a [`BundleMount`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BundleMountKind {
    /// The source opened before.
    Bind,
    /// A new file system: type, device.
    New(String, String),
    /// The control groups as the container sees them: version 1 hierarchies as (directory,
    /// options), none for version 2.
    Cgroup {
        /// Version 1 hierarchies: directory names and what is mounted there.
        hierarchies: Vec<Hierarchy>,
        /// Whether there is a cgroup namespace, so that a new mount shows the group as root.
        namespaced: bool,
    },
}

/// A version 1 hierarchy as a container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Name of its directory.
    pub name: String,
    /// Mount options that name its controllers.
    pub options: Vec<String>,
    /// The container's group on the host, bound where there is no cgroup namespace.
    pub group: PathBuf,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Path inside.
    pub path: PathBuf,
    /// `c`, `b` or `p`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
