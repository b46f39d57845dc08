//! Starting a container in the network of another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::config::ContainerConfig;
use crate::error::{At, Failure, RunnerError};
use crate::monitor::Child;
use crate::plan::joined;
use crate::state::{self, Status};
use crate::sys::{self, Fork};

/// Forks the first process of the container in `dir`, with new namespaces as `flags` say and in
/// those of the container whose network it shares.
///
/// # Errors
///
/// When the other container does not run, or the namespaces are not allowed.
pub(crate) fn fork(dir: &Path, config: &ContainerConfig, flags: u64) -> Result<Fork, RunnerError> {
    let Some(id) = &config.net.join else {
        return sys::fork(flags).at("make the namespaces of", dir);
    };
    let other = dir.with_file_name(id);
    let not_running = || {
        RunnerError::Failed(Failure::setup(format!(
            "cannot join network of a non running container: {id}"
        )))
    };
    let state = state::read(&other).map_err(|_| not_running())?;
    if !matches!(state.status, Status::Running | Status::Paused) {
        return Err(not_running());
    }
    let (_, process) = state::open_init(&state).ok_or_else(not_running)?;
    fork_into(process.as_fd(), joined(config), flags).at("join the network of", other)
}

/// Like [`sys::fork`], but first in the namespaces `join` of another process: a process between
/// joins them, makes the child as its own sibling and ends.
fn fork_into(process: BorrowedFd<'_>, join: u64, flags: u64) -> io::Result<Fork> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let between = match sys::fork(0)? {
        Fork::Parent(pid) => Child::new(pid)?,
        Fork::Child => {
            let made =
                sys::setns(process, join).and_then(|()| sys::fork(sys::CLONE_PARENT | flags));
            let word = match made {
                Ok(Fork::Child) => return Ok(Fork::Child),
                Ok(Fork::Parent(pid)) => pid.as_raw_nonzero().get(),
                Err(error) => -error.raw_os_error().unwrap_or(libc::EPERM),
            };
            // A monitor that is gone needs no telling.
            let _gone = rustix::io::write(&tell, word.to_string().as_bytes());
            sys::exit_now(0)
        }
    };
    drop(tell);
    between.reap();
    let mut text = [0_u8; 16];
    let count = rustix::io::read(&told, &mut text)?;
    let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default()).into_owned();
    let word: i32 = text
        .parse()
        .map_err(|_| io::Error::from_raw_os_error(libc::EPROTO))?;
    match Pid::from_raw(word).filter(|_| word > 0) {
        Some(pid) => Ok(Fork::Parent(pid)),
        None => Err(io::Error::from_raw_os_error(-word)),
    }
}
