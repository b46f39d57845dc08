//! The processes a container consists of besides its own, when one of them was stopped.
//!
//! A stopped process answers nobody, and whoever asks it would wait for ever. It is not dead either:
//! it holds its lock and its sockets.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Failure, RunnerError};
use crate::state::{self, State};
use crate::sys;

/// Name, id and start time of each part that runs.
fn parts(state: &State) -> [(&'static str, i32, u64); 3] {
    let net = &state.network;
    [
        ("monitor", state.monitor_pid, state.monitor_start),
        ("file-system server", state.server_pid, state.server_start),
        ("network helper", net.helper_pid, net.helper_start),
    ]
}

/// Whether a process is stopped, by a signal or a debugger.
///
/// Source: `proc_pid_stat(5)`, field 3.
fn is_stopped(pid: i32) -> bool {
    let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    matches!(after.trim_start().chars().next(), Some('T' | 't'))
}

/// Fails when the monitor or the server cannot answer, naming it and what helps.
///
/// # Errors
///
/// The one that is stopped; that the state cannot be read.
pub(crate) fn answer(dir: &Path) -> Result<(), RunnerError> {
    let state = state::read_claim(dir)?;
    for (name, pid, start) in parts(&state).into_iter().take(2) {
        if pid > 0 && is_stopped(pid) && state::start_time(pid) == start {
            return Err(RunnerError::Failed(Failure::setup(format!(
                "the {name} of container {} is stopped: let it go on with 'kill -CONT {pid}'",
                crate::container::id_of(dir)
            ))));
        }
    }
    Ok(())
}

/// Lets the parts of a container that is to end go on, so that it can. One that is about to stop
/// does not look like it yet, and SIGCONT takes a SIGSTOP back.
pub(crate) fn wake(state: &State) {
    for (_, pid, start) in parts(state) {
        if let Some((_, pidfd)) = state::open_process(pid, start) {
            let _ended = sys::pidfd_signal(pidfd.as_fd(), libc::SIGCONT);
        }
    }
}
