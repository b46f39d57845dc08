//! Ending what runs in a container, within a bounded time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{id_of, unpause};
use crate::config::ContainerConfig;
use crate::error::{At, RunnerError};
use crate::monitor::wait_readable;
use crate::peers::{self, Progress};
use crate::state::{self, State, Status};
use crate::sys;

/// How long a killed process may take to end before it is asked why: with [`SERVER_MAX`] less
/// than the five seconds that a command may wait for one that does not answer.
pub(super) const KILLED_MAX: Duration = Duration::from_millis(2500);
/// How long it may take after the file-system server was killed too.
const SERVER_MAX: Duration = Duration::from_secs(2);
/// How long a server that is seen to work may take to write what a killed container left in
/// memory: minutes of a slow disk, and an end.
const WRITE_BACK_MAX: Duration = Duration::from_secs(300);

/// How long a monitor may take to write its name into the lock it has: two system calls.
const SIGNING_MAX: Duration = Duration::from_millis(500);
/// How long a monitor that waits to start its container again may take to end.
const RESTARTING_MAX: Duration = Duration::from_millis(500);

pub(super) fn kill_server(state: &State) {
    if let Some((_, pidfd)) = state::open_process(state.server_pid, state.server_start) {
        let _ended = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
    }
}

/// Waits for the end of a container's process that was killed; false when it does not come. What it
/// had in memory is written to the file-system server first, which is killed when it does nothing:
/// a process that waits for a file system that does not answer cannot be killed.
pub(super) fn wait_killed(state: &State, process: BorrowedFd<'_>) -> bool {
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let began = Instant::now();
    let mut progress = Progress::of(state.server_pid);
    while !wait_readable(process, millis(KILLED_MAX)) {
        if began.elapsed() > WRITE_BACK_MAX || !progress.goes_on() {
            kill_server(state);
            return wait_readable(process, millis(SERVER_MAX));
        }
    }
    true
}

/// Signals by which users end containers, besides each one's own.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGKILL, libc::SIGTERM];

/// Sends a signal to the container's first process. One that is meant to end it also keeps its
/// restart policy from starting it again.
///
/// # Errors
///
/// When it does not run.
pub fn kill(dir: &Path, signal: i32) -> Result<(), RunnerError> {
    let own = || ContainerConfig::load(dir).ok()?.stop_signal_number();
    if ENDING.contains(&signal) || own() == Some(signal) {
        crate::monitor::mark_stopped(dir);
        crate::peers::wake(&state::read_claim(dir)?);
    }
    let state = state::read(dir)?;
    let not_running = || RunnerError::NotRunning(id_of(dir));
    if !matches!(state.status, Status::Running | Status::Paused) {
        return Err(not_running());
    }
    let (_, pidfd) = state::open_init(&state).ok_or_else(not_running)?;
    // Under a version 1 freezer even SIGKILL waits.
    if signal == libc::SIGKILL && state.status == Status::Paused {
        unpause(dir)?;
    }
    match sys::pidfd_signal(pidfd.as_fd(), signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
        other => other.at("send a signal to", dir),
    }
}

/// How a container was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It ended when it was asked, or did not run.
    Asked,
    /// It did not, and was killed.
    Killed,
}

/// The file that says which process has asked the container to end and waits.
const STOPPING: &str = "stopping";

/// A stop that is under way; the note about it goes with this.
struct UnderWay<'a> {
    dir: &'a Path,
    text: String,
}

impl<'a> UnderWay<'a> {
    fn note(dir: &'a Path) -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let text = format!("{pid} {}", state::start_time(pid));
        // Without the note nobody is told, and all else goes its way.
        let _unwritten = std::fs::write(dir.join(STOPPING), &text);
        Self { dir, text }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let path = self.dir.join(STOPPING);
        // It may be another's by now, or gone with the container.
        if std::fs::read_to_string(&path).is_ok_and(|text| text == self.text) {
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Whether somebody has asked the container to end and waits for it.
#[must_use]
pub fn is_stopping(dir: &Path) -> bool {
    let text = std::fs::read_to_string(dir.join(STOPPING)).unwrap_or_default();
    let who = text.split_once(' ');
    let who = who.and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
    who.is_some_and(|(pid, start)| state::open_process(pid, start).is_some())
}

/// Asks the container to end with `signal`, else with its stop signal, and makes it end after
/// `timeout`.
///
/// Does nothing when it does not run.
///
/// # Errors
///
/// When it still runs at the end.
pub fn stop(dir: &Path, timeout: Duration, signal: Option<i32>) -> Result<Stopped, RunnerError> {
    let config = ContainerConfig::load(dir)?;
    let signal = signal.or_else(|| config.stop_signal_number());
    let signal = signal.unwrap_or(libc::SIGTERM);
    crate::monitor::mark_stopped(dir);
    let claim = state::read_claim(dir)?;
    crate::peers::wake(&claim);
    if claim.status == Status::Restarting
        && let Some((_, monitor)) = state::open_process(claim.monitor_pid, claim.monitor_start)
    {
        // Between two runs there is only the monitor; during one it passes the signal on.
        let _ended = sys::pidfd_signal(monitor.as_fd(), libc::SIGTERM);
        if wait_end(dir, Some(RESTARTING_MAX))? {
            return Ok(Stopped::Asked);
        }
    }
    let ended = |error: RunnerError| {
        if matches!(error, RunnerError::NotRunning(_)) {
            Ok(())
        } else {
            Err(error)
        }
    };
    let under_way = (!timeout.is_zero()).then(|| UnderWay::note(dir));
    kill(dir, signal).or_else(ended)?;
    if wait_end(dir, Some(timeout))? {
        return Ok(Stopped::Asked);
    }
    drop(under_way);
    let state = state::read_claim(dir)?;
    kill(dir, libc::SIGKILL).or_else(ended)?;
    await_killed(dir, &state)?;
    Ok(Stopped::Killed)
}

/// Kills the container's first process and waits until the container has ended, as Docker does.
///
/// # Errors
///
/// When it does not run, or still runs at the end.
pub fn end(dir: &Path) -> Result<(), RunnerError> {
    // Read first: it may remove itself at its end.
    let state = state::read_claim(dir)?;
    kill(dir, libc::SIGKILL)?;
    await_killed(dir, &state)
}

fn await_killed(dir: &Path, state: &State) -> Result<(), RunnerError> {
    match monitor(state) {
        Some(monitor) if !wait_killed(state, monitor.as_fd()) => {
            Err(RunnerError::Running(id_of(dir)))
        }
        _ => Ok(()),
    }
}

/// Waits until the container has ended and returns its exit code.
///
/// # Errors
///
/// When its state cannot be read.
pub fn wait(dir: &Path) -> Result<i32, RunnerError> {
    wait_end(dir, None)?;
    match state::read(dir) {
        Ok(state) => Ok(state.exit_code),
        Err(error) => Err(error),
    }
}

/// Waits for the monitor's end, since it writes the last state; true when there is none any more.
pub(super) fn wait_end(dir: &Path, timeout: Option<Duration>) -> Result<bool, RunnerError> {
    let Some(monitor) = monitor(&state::read_claim(dir)?) else {
        return Ok(true);
    };
    let millis = timeout.map_or(u32::MAX, |t| {
        u32::try_from(t.as_millis()).unwrap_or(u32::MAX)
    });
    Ok(wait_readable(monitor.as_fd(), millis))
}

/// The monitor that a state names, if it lives.
fn monitor(state: &State) -> Option<OwnedFd> {
    let found = state::open_process(state.monitor_pid, state.monitor_start);
    found.map(|(_, monitor)| monitor)
}

/// Ends a start that is under way, or hangs.
pub(super) fn end_starting(dir: &Path) -> Result<(), RunnerError> {
    let claim = state::read_claim(dir)?;
    if claim.status != Status::Created {
        return stop(dir, Duration::ZERO, None).map(drop);
    }
    peers::wake(&claim);
    kill_server(&claim);
    let began = Instant::now();
    let (pid, monitor) = loop {
        // Who has the lock is said in it.
        let holder = state::lock_holder(dir);
        if let Some(found) = holder.and_then(|(pid, start)| state::open_process(pid, start)) {
            break found;
        }
        if began.elapsed() > SIGNING_MAX || !state::monitor_alive(dir)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    peers::wake_family(pid.as_raw_nonzero().get());
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    if wait_readable(monitor.as_fd(), millis(KILLED_MAX)) {
        return Ok(());
    }
    let _ended = sys::pidfd_signal(monitor.as_fd(), libc::SIGKILL);
    wait_readable(monitor.as_fd(), millis(SERVER_MAX));
    Ok(())
}
