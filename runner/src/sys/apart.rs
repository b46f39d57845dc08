//! Starting a process beside this one: on another processor, while we go on.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::{
    Fork, Spawn, dup_onto, execve, exit_now, fork, invalid, reset_signal, unblock_signals,
};

/// What a process ends with that could not execute its program. Source: `sh(1p)`.
const NOT_EXECUTED: i32 = 127;

/// Starts `program` as [`super::spawn_program`] does, by its path, without waiting until it is
/// executed; when that fails `failed` is called in its process.
///
/// Whoever waits, as posix_spawn(3) does, is woken on the processor that the program starts on, and
/// waits on until that pauses: the scheduler sends nobody to a processor that a virtual machine's
/// host has taken away, which is each that is idle for long.
///
/// The caller must be single-threaded.
///
/// # Errors
///
/// Those of `clone(2)`; `EINVAL` for an embedded NUL.
pub(crate) fn spawn_apart(
    program: &OsStr,
    spawn: &Spawn<'_>,
    failed: impl FnOnce(&io::Error),
) -> io::Result<Pid> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| invalid());
    let program = text(program.as_bytes())?;
    let argv = spawn.argv.iter().map(|word| text(word.as_bytes()));
    let argv = argv.collect::<io::Result<Vec<CString>>>()?;
    let variables = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(&name.into_vec())
    });
    let environment = variables.collect::<io::Result<Vec<CString>>>()?;
    // A source must not sit on a number that an earlier step of the list overwrites.
    let above = spawn.fds.iter().map(|(_, to)| to + 1).max().unwrap_or(0);
    let places = spawn.fds.iter();
    let places = places.map(|(fd, to)| Ok((rustix::io::fcntl_dupfd_cloexec(fd, above)?, *to)));
    let places = places.collect::<io::Result<Vec<(OwnedFd, RawFd)>>>()?;
    match fork_apart()? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let placed = places.iter();
            let placed = placed.map(|(from, to)| dup_onto(from.as_fd(), *to));
            let error = match placed.collect::<io::Result<()>>() {
                Ok(()) => {
                    if spawn.session {
                        // Fails only for the leader of a group, which a new process is not.
                        let _led = rustix::process::setsid();
                    }
                    reset_signal(libc::SIGPIPE);
                    unblock_signals();
                    execve(&program, &argv, &environment)
                }
                Err(error) => error,
            };
            failed(&error);
            exit_now(NOT_EXECUTED)
        }
    }
}

/// Makes a copy of this process, as [`super::fork`], that runs elsewhere.
///
/// The caller must be single-threaded.
///
/// # Errors
///
/// Those of `clone(2)`.
pub(crate) fn fork_apart() -> io::Result<Fork> {
    let forked = fork(0)?;
    if let Fork::Parent(pid) = forked {
        send_away(pid);
    }
    Ok(forked)
}

/// Has a process that waits behind this one run elsewhere, now; later it may run anywhere.
fn send_away(pid: Pid) {
    let Ok(all) = sched_getaffinity(None) else {
        return;
    };
    let mut others = all;
    others.unset(sched_getcpu());
    // Where there is no other, or no right, it stays.
    if others.count() > 0 && sched_setaffinity(Some(pid), &others).is_ok() {
        let _stays = sched_setaffinity(Some(pid), &all);
    }
}
