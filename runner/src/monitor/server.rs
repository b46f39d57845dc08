//! The start of a container's file-system server.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{Child, SERVER_LOG};
use crate::config::{ContainerConfig, Root};
use crate::error::{At, RunnerError};
use crate::{channel, sys, title};

/// What a file-system server does, given the container's directory and the line on which the
/// device comes; its exit code.
pub type ServerBody = Box<dyn Fn(&Path, OwnedFd) -> i32>;

/// The descriptor on which an executed server finds its line.
const LINE_FD: i32 = 3;
/// The exit code of a server that could not begin.
const UNREADY: i32 = 125;

/// The file-system server, and the line on which init hands it the device.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) child: Child,
    pub(crate) line: OwnedFd,
}

/// Starts the server of a container that has one.
///
/// With a `body` it is a fork of this process, which must have one thread: executing a program of
/// our size costs a millisecond and memory of its own. Without, the program of the configuration
/// is executed.
pub(crate) fn start(
    dir: &Path,
    config: &ContainerConfig,
    body: Option<&ServerBody>,
) -> Result<Option<Server>, RunnerError> {
    let Root::Fuse { server_argv, .. } = &config.root else {
        return Ok(None);
    };
    let (ours, theirs) = channel::pair().at("make a line to the server of", dir)?;
    let log = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join(SERVER_LOG));
    let log = log.at("open the server log of", dir)?;
    let begun = match body {
        // We have the first process to make meanwhile.
        Some(body) => match sys::apart::fork_apart() {
            Ok(sys::Fork::Child) => become_server(dir, theirs, &log, server_argv, body),
            Ok(sys::Fork::Parent(pid)) => Ok(pid),
            Err(error) => Err(error),
        },
        None => sys::spawn(&sys::Spawn {
            argv: server_argv,
            fds: &[(log.as_fd(), 2), (theirs.as_fd(), LINE_FD)],
            session: false,
        }),
    };
    let pid = begun.at("start the file-system server of", dir)?;
    let child = Child::new(pid).at("watch the server of", dir)?;
    Ok(Some(Server { child, line: ours }))
}

/// The child's side: keeps nothing of the monitor's but its memory.
fn become_server(dir: &Path, line: OwnedFd, log: &File, argv: &[OsString], body: &ServerBody) -> ! {
    let alone = sys::dup_onto(log.as_fd(), 2).and_then(|()| sys::close_all_but(line.as_fd()));
    sys::unblock_signals();
    title::set(argv);
    let code = match alone {
        Ok(()) => body(dir, line),
        Err(_) => UNREADY,
    };
    sys::exit_now(code)
}
