//! The process that lives as long as its container: starts it, carries its streams, ends it.

mod forked;
mod health;
mod id_space;
mod launch;
mod orphans;
mod prepare;
mod restart;
mod serve;
mod server;

pub use forked::PartBody;
pub(crate) use id_space::write_id_map;
pub(crate) use launch::start_supervisor;
pub use prepare::{MonitorProgram, Waiting, prepare, start};
pub(crate) use restart::{clear_stopped, mark_stopped, stopped_by_hand};
pub(crate) use server::start as start_server;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::channel::{self, Message};
use crate::config::{ContainerConfig, IdMap};
use crate::error::{At, Failure, RunnerError};
use crate::{state, sys};

/// The descriptor on which the monitor is told what to do and answers.
pub(crate) const LINE_FD: i32 = 3;
/// The file with what the server and the id supervisor print.
pub(crate) const SERVER_LOG: &str = "server.log";
/// The attach socket in the container directory.
pub(crate) const SOCKET: &str = "attach.sock";

/// What the caller of a start decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartOptions {
    /// Lines of the terminal; 0 leaves the size alone.
    pub rows: u16,
    /// Columns of the terminal.
    pub columns: u16,
    /// Whether a client is attached from the beginning.
    pub attach: bool,
    /// Descriptors of the caller's that the container's process gets, from 3 on.
    pub preserved_fds: u32,
}

/// Something that happens to a container under its monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorEvent {
    /// Its process runs.
    Start,
    /// Its process ended.
    Die,
    /// The kernel killed something in it for lack of memory.
    OutOfMemory,
    /// Its health is another than before.
    Health,
    /// It was removed, as it was asked for.
    Destroy,
}

/// Called with what the container is, its state and what happened.
pub type EventHook = Box<dyn Fn(&ContainerConfig, &state::State, MonitorEvent)>;

/// What the caller of [`run`] decides.
#[derive(Default)]
pub struct MonitorOptions {
    /// Called when something happened, after the state was written.
    pub on_event: Option<EventHook>,
    /// The ids that the container will most likely have; whether it has them is seen when it is
    /// there. They are mapped meanwhile.
    pub expected_ids: Option<IdMap>,
    /// The file-system server, to be run in a fork; without it the configuration's program is
    /// executed.
    pub server: Option<PartBody>,
}

impl MonitorOptions {
    fn tell(&self, running: &launch::Running, event: MonitorEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(&running.config, &running.state, event);
        }
    }
}

impl std::fmt::Debug for MonitorOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MonitorOptions").finish_non_exhaustive()
    }
}

/// A child process and its descriptor.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

impl Child {
    pub(crate) fn new(pid: Pid) -> std::io::Result<Self> {
        Ok(Self {
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }

    /// Sends a signal; a process that has ended does not mind.
    pub(crate) fn signal(&self, signal: i32) {
        let _ended = sys::pidfd_signal(self.pidfd.as_fd(), signal);
    }

    /// Waits until it ends, at most `timeout_ms`; its exit code, 128+n for a signal.
    pub(crate) fn wait(&self, timeout_ms: u32) -> Option<i32> {
        wait_readable(self.pidfd.as_fd(), timeout_ms).then(|| self.reap())
    }

    /// Collects the exit code of a child that has ended.
    pub(crate) fn reap(&self) -> i32 {
        use rustix::process::{WaitOptions, waitpid};
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    let signal = status.terminating_signal().map(|signal| 128 + signal);
                    return status.exit_status().or(signal).unwrap_or(255);
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return 255,
            }
        }
    }
}

/// Waits until `fd` is readable or at its end; false after `timeout_ms`.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout_ms: u32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec {
        tv_sec: i64::from(timeout_ms / 1000),
        tv_nsec: i64::from(timeout_ms % 1000 * 1_000_000),
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Runs the container in `dir` to its end: the body of `rrun __monitor`.
///
/// Expects the line of [`prepare`] on descriptor 3, and a process with one thread. Waits there for
/// the container to be made; when the line closes instead there is nothing to do.
///
/// # Errors
///
/// When the container cannot be started; the starter was told the same.
pub fn run(dir: &Path, options: &MonitorOptions) -> Result<(), RunnerError> {
    crate::seal::take_name();
    let line = sys::inherited(LINE_FD).at("take over the start line of", dir)?;
    run_on(dir, line, options)
}

/// As [`run`], in a fork of the command, with the line at hand.
///
/// # Errors
///
/// As [`run`].
pub fn run_on(dir: &Path, line: OwnedFd, options: &MonitorOptions) -> Result<(), RunnerError> {
    let guessed = options.expected_ids.as_ref();
    let guessed = guessed.and_then(id_space::IdSpace::guess);
    let Some(start) = launch::await_start(dir, &line)? else {
        return Ok(());
    };
    match launch::launch(dir, start, guessed, options) {
        Ok(mut container) => {
            let warnings = std::mem::take(&mut container.warnings);
            // The starter may be gone already; the container runs on.
            let _gone = channel::send(line.as_fd(), &Message::Started { warnings }, &[]);
            drop(line);
            live(container, options)
        }
        Err(error) => {
            let failure = failure_of(&error);
            let _gone = channel::send(line.as_fd(), &Message::Failed(failure), &[]);
            Err(error)
        }
    }
}

/// An error as what to tell the process at the other end of a line.
fn failure_of(error: &RunnerError) -> Failure {
    match error {
        RunnerError::Failed(failure) => failure.clone(),
        RunnerError::Io { .. }
        | RunnerError::Malformed { .. }
        | RunnerError::NoSuchContainer(_)
        | RunnerError::Ambiguous(_)
        | RunnerError::NameInUse { .. }
        | RunnerError::BadName(_)
        | RunnerError::NotRunning(_)
        | RunnerError::Running(_)
        | RunnerError::Unsupported(_) => Failure::setup(error.to_string()),
    }
}

/// Serves a container from start to end, and again where its policy says so.
fn live(mut running: launch::Running, options: &MonitorOptions) -> Result<(), RunnerError> {
    let mut restarts = restart::Restarts::default();
    loop {
        options.tell(&running, MonitorEvent::Start);
        let began = std::time::Instant::now();
        let mut clients = serve::serve(&mut running, options)?;
        // Name and policy may have been changed meanwhile.
        if let Ok(config) = ContainerConfig::load(&running.dir) {
            running.config = config;
        }
        let by_hand = restart::stopped_by_hand(&running.dir) || running.config.auto_remove;
        let code = running.state.exit_code;
        let wait = restarts.after(&running.config.restart, code, began.elapsed(), by_hand);
        running.state.restart_count = restarts.count;
        running.state.status = match wait {
            Some(_) => state::Status::Restarting,
            None => state::Status::Exited,
        };
        // Readers see an exit without it too: the lock will be free. Where everything goes it would
        // be for nobody.
        if !running.config.auto_remove {
            let _unwritten = state::write(&running.dir, &running.state);
        }
        if running.state.oom_killed {
            options.tell(&running, MonitorEvent::OutOfMemory);
        }
        options.tell(&running, MonitorEvent::Die);
        if running.config.auto_remove {
            if crate::container::remove_files(&running.dir, &running.config).is_err() {
                let _unwritten = state::write(&running.dir, &running.state);
            }
            options.tell(&running, MonitorEvent::Destroy);
        }
        clients.tell_end(&running.state);
        let Some(wait) = wait else { return Ok(()) };
        if !restart::pause(&running, wait) {
            running.state.status = state::Status::Exited;
            return state::write(&running.dir, &running.state);
        }
        running = launch::again(running, options)?;
    }
}

/// Runs the id supervisor: the body of `rrun __ids`. Expects what [`run`] leaves: the listener on
/// descriptor 3, the host's `/proc` on 4, a pid descriptor of the container on 5.
///
/// # Errors
///
/// When the descriptors are not there or the namespaces cannot be joined.
pub fn supervise() -> Result<(), RunnerError> {
    let take = |number: i32| sys::inherited(number).at("take over", "the listener");
    let (listener, procfs, process) = (take(3)?, take(4)?, take(5)?);
    let entry = crate::ids::Entry::Process(process.as_fd());
    crate::ids::enter_and_supervise(&entry, listener, procfs)
        .map_err(|error| RunnerError::Failed(Failure::setup(error.to_string())))
}

/// The last line of a log, for error messages.
pub(crate) fn last_line(path: &Path) -> Option<String> {
    let bytes = crate::files::read_bounded(path, 1 << 20).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(str::to_owned)
}
