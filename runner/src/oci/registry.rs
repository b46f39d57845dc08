//! The containers made from bundles: one directory each, and what is true of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::spec::Spec;
use crate::cgroup;
use crate::error::{At, Failure, RunnerError};
use crate::monitor::wait_readable;
use crate::state as process_state;

/// Largest `state.json` read, in bytes: annotations may be long.
const RECORD_BYTES_MAX: u64 = 16 << 20;
/// Longest id, so that it fits a file name.
const ID_BYTES_MAX: usize = 255;
/// The socket on which a created process waits; gone once it was started.
const GATE: &str = "start";
/// The configuration as it was when the container was created.
const CONFIG: &str = "config.json";
/// Processes that may wait to start one container; one is right.
const BACKLOG: i32 = 1;

/// Where a container is in its life, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Being made.
    Creating,
    /// Made, waiting to be started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process ended.
    Stopped,
}

impl Stage {
    /// The specification's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What is remembered of a container, in `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Version of the specification.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Host id of its process; 0 before there is one.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot.
    pub pid_start: u64,
    /// Host id of the runtime that creates it; 0 once it is created.
    pub creator: i32,
    /// Start time of that runtime.
    pub creator_start: u64,
    /// Which boot of the host this is about.
    pub boot_id: String,
    /// Its bundle's directory.
    pub bundle: PathBuf,
    /// Its root directory.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// The bundle's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its control groups.
    pub cgroups: Vec<PathBuf>,
    /// The socket of a service manager that waits until it is ready; empty without one.
    pub notify_socket: String,
}

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    /// Its directory.
    dir: PathBuf,
    /// What is remembered of it.
    pub record: Record,
}

/// The directory of all containers.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

impl Registry {
    /// The containers in `root`, which need not exist.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn dir(&self, id: &str) -> Result<PathBuf, RunnerError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let plain = !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(good);
        if !plain || id == "." || id == ".." {
            let text = format!("invalid character in container ID {id:?}");
            return Err(RunnerError::Failed(Failure::setup(text)));
        }
        Ok(self.root.join(id))
    }

    /// Takes an id for a new container.
    pub(crate) fn reserve(&self, record: Record, config: &[u8]) -> Result<Container, RunnerError> {
        let dir = self.dir(&record.id)?;
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let made = match builder.create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let all = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o711)
                    .create(&self.root);
                all.at("make", &self.root)?;
                builder.create(&dir)
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let text = format!("container with id {} exists already", record.id);
                return Err(RunnerError::Failed(Failure::setup(text)));
            }
            other => other.at("make", &dir)?,
        }
        let container = Container { dir, record };
        let written = crate::files::write_atomic(&container.dir, CONFIG, config)
            .and_then(|()| container.save());
        if written.is_err() {
            container.forget();
        }
        written.map(|()| container)
    }

    /// Finds a container.
    ///
    /// # Errors
    ///
    /// When there is none of this id, or what is remembered of it is damaged.
    pub fn load(&self, id: &str) -> Result<Container, RunnerError> {
        let dir = self.dir(id)?;
        let path = dir.join("state.json");
        let bytes = match crate::files::read_bounded(&path, RECORD_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The words that engines look for.
                let text = format!("container {id} does not exist");
                return Err(RunnerError::Failed(Failure::setup(text)));
            }
            other => other.at("read the container state", &path)?,
        };
        let record = super::spec::parse(&path, &bytes)?;
        Ok(Container { dir, record })
    }

    /// Removes what there is of a container that cannot be loaded.
    pub(crate) fn clear(&self, id: &str) -> Result<(), RunnerError> {
        let dir = self.dir(id)?;
        if dir.is_dir() {
            crate::tree::remove(&dir).at("remove", dir)?;
        }
        Ok(())
    }

    /// The ids of all containers, sorted.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn ids(&self) -> Result<Vec<String>, RunnerError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at("list", &self.root)?,
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<String> = names
            .filter(|id| {
                self.dir(id)
                    .is_ok_and(|dir| dir.join("state.json").is_file())
            })
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

impl Container {
    /// Writes what is remembered.
    pub(crate) fn save(&self) -> Result<(), RunnerError> {
        let path = self.dir.join("state.json");
        let bytes = serde_json::to_vec(&self.record).map_err(|error| RunnerError::Malformed {
            path,
            reason: error.to_string(),
        })?;
        crate::files::write_atomic(&self.dir, "state.json", &bytes)
    }

    /// Its configuration as it was when the container was created.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn spec(&self) -> Result<Spec, RunnerError> {
        Ok(Spec::load(&self.dir.join(CONFIG))?.0)
    }

    /// Opens its process, if that lives.
    pub(crate) fn open(&self) -> Option<(Pid, OwnedFd)> {
        if self.record.boot_id != process_state::boot_id() {
            return None;
        }
        let (pid, pidfd) = process_state::open_process(self.record.pid, self.record.pid_start)?;
        // A process nobody has waited for yet is still there, but has ended.
        (!wait_readable(pidfd.as_fd(), 0)).then_some((pid, pidfd))
    }

    /// Where it is in its life.
    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.record.creator != 0 {
            let creator = (self.record.creator, self.record.creator_start);
            return match process_state::open_process(creator.0, creator.1) {
                Some(_) if self.record.boot_id == process_state::boot_id() => Stage::Creating,
                _ => Stage::Stopped,
            };
        }
        if self.open().is_none() {
            return Stage::Stopped;
        }
        if self.gate().try_exists().unwrap_or(false) {
            return Stage::Created;
        }
        if cgroup::frozen(&self.record.cgroups) {
            return Stage::Paused;
        }
        Stage::Running
    }

    /// Its state in the specification's form, with what crun and runc say besides.
    #[must_use]
    pub fn state(&self, stage: Stage) -> serde_json::Value {
        let record = &self.record;
        let pid = if stage == Stage::Stopped {
            0
        } else {
            record.pid
        };
        json!({
            "ociVersion": record.oci_version,
            "id": record.id,
            "status": stage.word(),
            "pid": pid,
            "bundle": record.bundle,
            "rootfs": record.rootfs,
            "created": record.created,
            "owner": owner_name(record.owner),
            "annotations": record.annotations,
        })
    }

    fn gate(&self) -> PathBuf {
        self.dir.join(GATE)
    }

    /// Makes the socket on which the process will wait.
    pub(crate) fn make_gate(&self) -> io::Result<OwnedFd> {
        let socket = gate_socket()?;
        let (_dir, address) = self.gate_address()?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Connects to the process that waits.
    pub(crate) fn knock(&self) -> io::Result<OwnedFd> {
        let socket = gate_socket()?;
        let (_dir, address) = self.gate_address()?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }

    /// Removes the socket: the container was started.
    pub(crate) fn close_gate(&self) {
        // Gone when a second `start` was faster.
        let _gone = std::fs::remove_file(self.gate());
    }

    /// The socket's address; by descriptor, as its path may be longer than an address.
    fn gate_address(&self) -> io::Result<(OwnedFd, SocketAddrUnix)> {
        use rustix::fs::{CWD, Mode, OFlags, openat};
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &self.dir, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{GATE}", dir.as_raw_fd());
        let address = SocketAddrUnix::new(path)?;
        Ok((dir, address))
    }

    /// A file of its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes its directory.
    pub(crate) fn forget(&self) {
        // What cannot be removed shows in `list`, and can be deleted again.
        let _left = crate::tree::remove(&self.dir);
    }
}

fn gate_socket() -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// The user's name in `/etc/passwd`, or the number.
fn owner_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names_and_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(dir.path().join("root"));
        let record = |id: &str| Record {
            id: id.to_owned(),
            ..Record::default()
        };
        for id in ["", ".", "..", "a/b", "a b"] {
            assert!(registry.reserve(record(id), b"{}").is_err(), "input {id:?}");
        }
        assert_eq!(registry.ids().unwrap(), Vec::<String>::new());
        let one = registry.reserve(record("one"), b"{}").unwrap();
        assert!(registry.reserve(record("one"), b"{}").is_err());
        assert_eq!(registry.ids().unwrap(), ["one"]);
        assert_eq!(registry.load("one").unwrap().stage(), Stage::Stopped);
        one.forget();
        assert!(registry.load("one").is_err());
    }
}
