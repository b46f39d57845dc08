//! A container's start as its starter sees it: a monitor that gets ready, and is told to begin.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{LINE_FD, SERVER_LOG, StartOptions, clear_stopped, last_line};
use crate::channel::{self, Message};
use crate::error::{At, Failure, RunnerError};
use crate::{peers, seal, state, sys};

/// A monitor that has not been told to start its container, which need not exist yet. Dropped, it
/// ends: so it does when its starter is killed.
#[derive(Debug)]
pub struct Waiting {
    line: OwnedFd,
    pid: i32,
}

/// Runs `monitor_argv` in a session of its own. It executes while its container is being made.
///
/// # Errors
///
/// When no process can be made, or its program cannot be executed.
pub fn prepare(monitor_argv: &[OsString]) -> Result<Waiting, RunnerError> {
    let program = Path::new(monitor_argv.first().map_or("".as_ref(), OsString::as_os_str));
    let (line, theirs) = channel::pair().at("make a line to the monitor", program)?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.at("open", "/dev/null")?;
    let fds = [
        (null.as_fd(), 0),
        (null.as_fd(), 1),
        (null.as_fd(), 2),
        (theirs.as_fd(), LINE_FD),
    ];
    let spawn = sys::Spawn {
        argv: monitor_argv,
        fds: &fds,
        session: true,
    };
    let pid = match seal::program() {
        Some(sealed) => sys::spawn_program(sealed.path().as_os_str(), &spawn, None),
        None => sys::spawn(&spawn),
    }
    .at("start the monitor", program)?;
    let pid = pid.as_raw_nonzero().get();
    Ok(Waiting { line, pid })
}

impl Waiting {
    /// Lets it start the container in `dir`, the one it was prepared for, and waits until that runs
    /// or has failed to. Yields the attached stream when one was asked for, and what could not be
    /// honoured.
    ///
    /// # Errors
    ///
    /// When the container cannot be started; the exit code is Docker's.
    pub fn start(
        self,
        dir: &Path,
        options: &StartOptions,
    ) -> Result<(Option<OwnedFd>, Vec<String>), RunnerError> {
        clear_stopped(dir);
        let attached = if options.attach {
            let kind = SocketType::STREAM;
            let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
            Some(pair.at("make a stream to", dir)?)
        } else {
            None
        };
        let log = File::options()
            .append(true)
            .create(true)
            .open(dir.join(SERVER_LOG));
        let log = log.at("open the log of", dir)?;
        {
            let far = attached.iter().map(|(_, far)| far.as_fd());
            let rights: Vec<BorrowedFd<'_>> = std::iter::once(log.as_fd()).chain(far).collect();
            let start = Message::Start(options.clone());
            channel::send(self.line.as_fd(), &start, &rights)
                .at("write to the monitor of", dir)?;
        }
        peers::hear(self.line.as_fd(), || peers::stopped_in_family(self.pid))?;
        match channel::receive(&self.line).at("hear from the monitor of", dir)? {
            Some((Message::Started { warnings }, _)) => {
                Ok((attached.map(|(near, _)| near), warnings))
            }
            Some((Message::Failed(failure), _)) => Err(RunnerError::Failed(failure)),
            Some(_) | None => {
                let text = last_line(&dir.join(SERVER_LOG))
                    .unwrap_or_else(|| "the monitor ended without a word".to_owned());
                Err(RunnerError::Failed(Failure::setup(text)))
            }
        }
    }
}

/// Starts the container in `dir` with a monitor that is `monitor_argv`; as [`Waiting::start`].
///
/// # Errors
///
/// When the container runs already or cannot be started; the exit code is Docker's.
pub fn start(
    dir: &Path,
    monitor_argv: &[OsString],
    options: &StartOptions,
) -> Result<(Option<OwnedFd>, Vec<String>), RunnerError> {
    if state::monitor_alive(dir)? {
        return Err(RunnerError::Running(crate::container::id_of(dir)));
    }
    prepare(monitor_argv)?.start(dir, options)
}
