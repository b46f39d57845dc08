//! Staying with a process of a container after the command that made it has returned: for its
//! terminal, and for the supervisor that answers its calls.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use super::CHUNK_BYTES;
use crate::config::ContainerConfig;
use crate::error::{At, RunnerError};
use crate::monitor::{Child, start_supervisor};
use crate::{process, sys};

/// What keeps a process going that nobody watches.
#[derive(Debug)]
pub(super) struct Held {
    /// A descriptor of the process.
    pub(super) process: OwnedFd,
    /// Its terminal, both sides.
    pub(super) terminal: Option<(OwnedFd, OwnedFd)>,
    /// Whose calls are to be answered, by a supervisor of this process's own, and a descriptor of
    /// the container's first process.
    pub(super) listener: Option<(OwnedFd, OwnedFd)>,
}

/// Leaves the caller's session, terminal and streams.
pub(super) fn leave() -> std::io::Result<()> {
    process::leave_session()?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for number in 0..3 {
        sys::dup_onto(null.as_fd(), number)?;
    }
    Ok(())
}

/// Makes a process that has left the caller's session and stays with `held`.
///
/// # Errors
///
/// Those of `fork(2)`.
pub(super) fn keep(config: &ContainerConfig, held: &Held) -> Result<(), RunnerError> {
    match sys::fork(0).at("stay with a process of", &config.id)? {
        sys::Fork::Parent(_) => Ok(()),
        sys::Fork::Child => {
            // Whoever made this process waits for nothing that could fail here.
            let _left = leave();
            stay(config, held);
            sys::exit_now(0);
        }
    }
}

/// Reads what the process writes to its terminal, until it ends.
pub(super) fn stay(config: &ContainerConfig, held: &Held) {
    let supervisor = held.listener.as_ref().and_then(|(listener, init)| {
        let started = start_supervisor(config, listener, init.as_fd());
        started.ok()
    });
    let mut master = held.terminal.as_ref().map(|(master, _)| master);
    loop {
        let mut fds = vec![PollFd::new(&held.process, PollFlags::IN)];
        fds.extend(master.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            break;
        }
        if ready.get(1) == Some(&true)
            && let Some(fd) = master
        {
            let mut buffer = vec![0_u8; CHUNK_BYTES];
            match rustix::io::read(fd, &mut buffer) {
                Ok(count) if count > 0 => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => master = None,
            }
        }
    }
    end(supervisor);
}

/// Ends a supervisor that has nobody left to answer.
pub(super) fn end(supervisor: Option<Child>) {
    if let Some(supervisor) = supervisor {
        supervisor.signal(libc::SIGKILL);
        supervisor.reap();
    }
}
