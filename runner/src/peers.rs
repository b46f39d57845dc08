//! The processes a container consists of besides its own, when one of them was stopped.
//!
//! A stopped process answers nobody, and whoever asks it would wait for ever. It is not dead either:
//! it holds its lock and its sockets.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Failure, RunnerError};
use crate::monitor::wait_readable;
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
    // A state that cannot be read is told by whoever needs it.
    state::read_claim(dir)?;
    stopped_part(dir).map_or(Ok(()), |failure| Err(RunnerError::Failed(failure)))
}

/// The monitor or the server of a container, when it is stopped, as what to say of it.
pub(crate) fn stopped_part(dir: &Path) -> Option<Failure> {
    let state = state::read_claim(dir).ok()?;
    let stopped = |(_, pid, start): &(&str, i32, u64)| {
        *pid > 0 && is_stopped(*pid) && state::start_time(*pid) == *start
    };
    let (name, pid, _) = parts(&state).into_iter().take(2).find(stopped)?;
    Some(Failure::setup(format!(
        "the {name} of container {} is stopped: let it go on with 'kill -CONT {pid}'",
        crate::container::id_of(dir)
    )))
}

/// The first of a process and those it has made that is stopped, as what to say of it.
pub(crate) fn stopped_in_family(pid: i32) -> Option<Failure> {
    let pid = family(pid).into_iter().find(|pid| is_stopped(*pid))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Failure::setup(format!(
        "process {pid} ({}) is stopped: let it go on with 'kill -CONT {pid}'",
        name.trim_end()
    )))
}

/// The first process that this one has made that is stopped, as what to say of it.
pub(crate) fn stopped_child() -> Option<Failure> {
    stopped_in_family(rustix::process::getpid().as_raw_nonzero().get())
}

/// Generations looked at below a process: the monitor's helpers start programs that do.
const GENERATIONS_MAX: usize = 4;

/// A process and its descendants.
fn family(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut youngest = vec![pid];
    for _ in 0..GENERATIONS_MAX {
        youngest = youngest
            .into_iter()
            .flat_map(crate::container::children)
            .collect();
        found.extend(&youngest);
    }
    found
}

/// Lets a process and its descendants go on.
pub(crate) fn wake_family(pid: i32) {
    for pid in family(pid) {
        let _ended = sys::kill(pid, libc::SIGCONT);
    }
}

/// Time between two looks at those somebody waits for, in milliseconds.
const LOOK_MS: u32 = 1000;
/// Looks in turn at which one must be found stopped to be given up. With [`LOOK_MS`] it takes less
/// than the five seconds a command may wait; a program that is stopped and goes on at once is not
/// noticed.
const LOOKS: u32 = 3;

/// Waits until `line` has something to say, as long as nobody it depends on is found stopped.
///
/// # Errors
///
/// What `stopped` found.
pub(crate) fn hear(
    line: BorrowedFd<'_>,
    stopped: impl Fn() -> Option<Failure>,
) -> Result<(), RunnerError> {
    let mut seen = 0;
    while !wait_readable(line, LOOK_MS) {
        let Some(failure) = stopped() else {
            seen = 0;
            continue;
        };
        seen += 1;
        if seen == LOOKS {
            return Err(RunnerError::Failed(failure));
        }
    }
    Ok(())
}

/// Waits for the end of a child as [`hear`] does.
///
/// # Errors
///
/// What `stopped` found.
pub(crate) fn await_end(
    child: u32,
    stopped: impl Fn() -> Option<Failure>,
) -> Result<(), RunnerError> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let opened = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    match opened {
        Some(Ok(pidfd)) => hear(pidfd.as_fd(), stopped),
        // It has ended.
        Some(Err(_)) | None => Ok(()),
    }
}

/// Whether a process does something, between one look and the next.
#[derive(Debug)]
pub(crate) struct Progress {
    pid: i32,
    ticks: u64,
}

impl Progress {
    /// Looks for the first time.
    pub(crate) fn of(pid: i32) -> Self {
        Self {
            pid,
            ticks: used(pid).map_or(0, |(ticks, _)| ticks),
        }
    }

    /// Whether it used a processor since the last look, or waits for a disk.
    pub(crate) fn goes_on(&mut self) -> bool {
        let Some((ticks, waits)) = used(self.pid) else {
            return false;
        };
        let moved = ticks != self.ticks;
        self.ticks = ticks;
        moved || waits
    }
}

/// Clock ticks of processor time that all threads of a process used, and whether one of them waits
/// for a disk; `None` when there is no such process.
///
/// Source: `proc_pid_stat(5)`, fields 3, 14 and 15.
fn used(pid: i32) -> Option<(u64, bool)> {
    let (mut ticks, mut waits) = (0_u64, false);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read(thread.ok()?.path().join("stat")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        waits |= fields.next() == Some("D");
        let numbers = fields.skip(10).take(2);
        ticks += numbers
            .filter_map(|field| field.parse::<u64>().ok())
            .sum::<u64>();
    }
    Some((ticks, waits))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_works_makes_progress_and_whoever_is_gone_does_not() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut progress = Progress::of(own);
        let began = std::time::Instant::now();
        // More than one tick of the slowest clock, 10 ms.
        while began.elapsed() < std::time::Duration::from_millis(100) {
            std::hint::black_box(0);
        }
        assert!(progress.goes_on());
        assert!(!Progress::of(-1).goes_on());
    }
}
