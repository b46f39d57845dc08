//! The start of a container's file-system server.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::forked::{self, PartBody};
use super::{Child, SERVER_LOG};
use crate::config::{ContainerConfig, Root};
use crate::error::{At, RunnerError};
use crate::{channel, sys};

/// The descriptor on which an executed server finds its line.
const LINE_FD: i32 = 3;

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
    body: Option<&PartBody>,
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
            Ok(sys::Fork::Child) => {
                let streams = sys::dup_onto(log.as_fd(), 2);
                forked::go_on(dir, theirs, streams, (server_argv, body))
            }
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
