//! What a container is doing: a claim on disk, checked against the lock its monitor holds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{At, RunnerError};
use crate::sys;

/// Largest `state.json` read, in bytes; ours are below 2 KiB.
const STATE_BYTES_MAX: u64 = 1 << 20;

/// Exit code of a container that the host went down with. Source: moby daemon, `restore`.
const EXIT_CODE_OF_REBOOT: i32 = 255;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Never started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process ended and its monitor waits to start it again.
    Restarting,
    /// Its process ended.
    Exited,
}

/// The content of `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Host id of its first process; 0 when not running.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot.
    pub pid_start: u64,
    /// Host id of the monitor.
    pub monitor_pid: i32,
    /// Start time of the monitor.
    pub monitor_start: u64,
    /// Host id of the file-system server; 0 without one.
    pub server_pid: i32,
    /// Start time of the server.
    pub server_start: u64,
    /// Which boot of the host this is about.
    pub boot_id: String,
    /// When it was started last, RFC 3339; empty when never.
    pub started_at: String,
    /// When it ended last, RFC 3339; empty when never.
    pub finished_at: String,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Whether the kernel killed it for lack of memory.
    pub oom_killed: bool,
    /// Why it ended or did not start, when not by itself.
    pub error: String,
    /// What its network is.
    pub network: crate::net::NetState,
    /// Times the monitor started it again since it was started by hand.
    pub restart_count: u32,
    /// What its checks said; `None` without checks.
    pub health: Option<Health>,
    /// Its control groups, as directories; for `stats`, `pause` and clean-up.
    pub cgroups: Vec<std::path::PathBuf>,
}

/// Checks kept in a state. Source: Docker.
pub(crate) const PROBES_MAX: usize = 5;

/// What a container's health checks said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<Probe>,
}

/// One health check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// -1 when it took too long.
    pub exit_code: i32,
    /// What it printed, cut short.
    pub output: String,
}

/// Reads the state of a container directory and corrects it by what is true now. Takes no lock.
///
/// # Errors
///
/// When the directory does not exist or its state is not readable.
pub fn read(dir: &Path) -> Result<State, RunnerError> {
    let mut state = read_claim(dir)?;
    let lives = |status| {
        matches!(
            status,
            Status::Running | Status::Paused | Status::Restarting
        )
    };
    let claims_life = lives(state.status);
    if claims_life && !(monitor_alive(dir)? && state.boot_id == boot_id()) {
        // The monitor may have written the end between our two looks.
        state = read_claim(dir)?;
        if state.status == Status::Restarting {
            state.status = Status::Exited;
        } else if lives(state.status) && state.boot_id != boot_id() {
            // The host went down with it; when, only the next boot bounds.
            state.status = Status::Exited;
            state.exit_code = EXIT_CODE_OF_REBOOT;
            state.finished_at = boot_time();
        } else if lives(state.status) {
            state.status = Status::Exited;
            state.exit_code = 137;
            "the monitor ended before the container".clone_into(&mut state.error);
        }
    }
    if state.status == Status::Running {
        state.cgroups.extend(crate::cgroup::front::late(dir));
        if crate::cgroup::frozen(&state.cgroups) {
            state.status = Status::Paused;
        }
    }
    Ok(state)
}

/// Reads the state as it was claimed.
pub(crate) fn read_claim(dir: &Path) -> Result<State, RunnerError> {
    let path = dir.join("state.json");
    match crate::files::read_bounded(&path, STATE_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| RunnerError::Malformed {
            path,
            reason: error.to_string(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(error).at("read the container state", path),
    }
}

/// Replaces the state.
pub(crate) fn write(dir: &Path, state: &State) -> Result<(), RunnerError> {
    let path = dir.join("state.json");
    let bytes = serde_json::to_vec(state).map_err(|error| RunnerError::Malformed {
        path,
        reason: error.to_string(),
    })?;
    crate::files::write_atomic(dir, "state.json", &bytes)
}

fn open_lock(dir: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("lock"))
}

/// Whether some process holds the container's lock.
///
/// # Errors
///
/// When the lock file cannot be opened.
pub fn monitor_alive(dir: &Path) -> Result<bool, RunnerError> {
    let path = dir.join("lock");
    match File::options().read(true).write(true).open(&path) {
        Ok(file) => sys::ofd_locked(file.as_fd()).at("ask for the lock", path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("open the lock", path),
    }
}

/// Takes the container's lock for as long as the file is open; `None` when another has it.
pub(crate) fn take_lock(dir: &Path) -> Result<Option<File>, RunnerError> {
    let path = dir.join("lock");
    let file = open_lock(dir).at("open the lock", &path)?;
    Ok(sys::ofd_lock(file.as_fd())
        .at("take the lock", path)?
        .then_some(file))
}

/// Writes into a lock that this process has who that is.
pub(crate) fn sign_lock(lock: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let text = format!("{pid} {}\n", start_time(pid));
    lock.set_len(0)?;
    lock.write_all_at(text.as_bytes(), 0)
}

/// Process id and start time of whoever wrote into the lock last; the process may be gone.
pub(crate) fn lock_holder(dir: &Path) -> Option<(i32, u64)> {
    let bytes = crate::files::read_bounded(&dir.join("lock"), STATE_BYTES_MAX).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (pid, start) = text.trim().split_once(' ')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// Which boot of the host this is; empty when the kernel does not say.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// When the host booted, RFC 3339; empty when the kernel does not say.
///
/// Source: `proc_stat(5)`.
fn boot_time() -> String {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    let seconds = line.and_then(|seconds| seconds.trim().parse().ok());
    seconds.map_or_else(String::new, |seconds| crate::time::format(seconds, 0))
}

/// Start time of a process in clock ticks since boot; 0 when there is none.
///
/// Source: `proc_pid_stat(5)`, field 22.
pub(crate) fn start_time(pid: i32) -> u64 {
    let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // The command name, field 2, may itself hold spaces and parentheses.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    after
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}

/// Opens the container's first process, sure that it is the one the state means.
pub(crate) fn open_init(state: &State) -> Option<(Pid, OwnedFd)> {
    open_process(state.pid, state.pid_start)
}

/// Opens the process that had this id and start time, if it still is there.
pub(crate) fn open_process(raw: i32, start: u64) -> Option<(Pid, OwnedFd)> {
    let pid = Pid::from_raw(raw)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    // Checked after opening: if it is the right one now, the descriptor is right for ever.
    (start != 0 && start_time(raw) == start).then_some((pid, pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_claim_without_a_monitor_is_an_exit() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), State::default());
        let claim = State {
            status: Status::Running,
            pid: 1,
            boot_id: boot_id(),
            ..State::default()
        };
        write(dir.path(), &claim).unwrap();
        let state = read(dir.path()).unwrap();
        assert_eq!((state.status, state.exit_code), (Status::Exited, 137));
        let lock = take_lock(dir.path()).unwrap().unwrap();
        assert!(take_lock(dir.path()).unwrap().is_none());
        assert_eq!(read(dir.path()).unwrap().status, Status::Running);
        drop(lock);
        assert_eq!(read(dir.path()).unwrap().status, Status::Exited);
    }

    #[test]
    fn a_claim_of_another_boot_is_the_exit_docker_tells() {
        let dir = tempfile::tempdir().unwrap();
        let claim = State {
            status: Status::Running,
            boot_id: "another".to_owned(),
            ..State::default()
        };
        write(dir.path(), &claim).unwrap();
        // A lock that somebody holds is not of that boot.
        let _lock = take_lock(dir.path()).unwrap().unwrap();
        let state = read(dir.path()).unwrap();
        assert_eq!((state.status, state.exit_code), (Status::Exited, 255));
        assert!(state.error.is_empty() && !state.finished_at.is_empty());
    }

    #[test]
    fn our_own_start_time_is_known() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(pid) > 0);
        assert_eq!(start_time(-5), 0);
    }
}
