//! A monitor that gets ready while its container is made.
//!
//! It begins before there is a container, on another processor, while the command does its own part.
//! It holds nothing until it is told to start: no lock, no file of the container. When the line to
//! it closes before, it ends without a word, so a command that is killed leaves nothing.
//!
//! A program of our size takes one to two milliseconds until its first line, so the monitor is a
//! fork of the command, unless the program must be kept from containers: then it is executed from
//! its sealed copy.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::forked::{self, PartBody};
use super::{Child, LINE_FD, SERVER_LOG, StartOptions, clear_stopped, last_line};
use crate::channel::{self, Message};
use crate::error::{At, Failure, RunnerError};
use crate::seal::{self, Sealed};
use crate::{peers, preserved, state, sys};

/// What is run as the monitor of a container.
pub struct MonitorProgram {
    /// The command line that leads to [`super::run`].
    pub argv: Vec<OsString>,
    /// The same, to be run in a fork of the command, which must have one thread. Without it the
    /// command line is executed.
    pub body: Option<PartBody>,
}

impl std::fmt::Debug for MonitorProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("MonitorProgram");
        shown.field("argv", &self.argv).finish_non_exhaustive()
    }
}

/// How long a monitor that is not needed may take to end what it began, in milliseconds.
const END_MS: u32 = 500;

/// A monitor whose container is not there yet; dropping it ends it.
#[derive(Debug)]
pub struct Waiting {
    dir: PathBuf,
    line: OwnedFd,
    /// What it runs from. To let go of the mount waits for all processors, so it is held until the
    /// container starts without us.
    sealed: Option<Sealed>,
    /// Until it was told to start, from when on it lives as long as its container.
    monitor: Option<Child>,
}

/// Runs `program`, the monitor of the container that will be in `dir`, in a session of its own.
///
/// # Errors
///
/// When it cannot be executed.
pub fn prepare(dir: &Path, program: &MonitorProgram) -> Result<Waiting, RunnerError> {
    let (line, theirs) = channel::pair().at("make a line to the monitor of", dir)?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.at("open", "/dev/null")?;
    let sealed = seal::program();
    let monitor = match (&sealed, &program.body) {
        (None, Some(body)) => match sys::apart::fork_apart() {
            Ok(sys::Fork::Child) => {
                // There is no log yet.
                let streams = (0..=2).try_for_each(|fd| sys::dup_onto(null.as_fd(), fd));
                // Fails only for the leader of a group, which a new process is not.
                let _led = rustix::process::setsid();
                forked::go_on(dir, theirs, streams, (&program.argv, body))
            }
            Ok(sys::Fork::Parent(pid)) => Ok(pid),
            Err(error) => Err(error),
        },
        _ => execute(sealed.as_ref(), &program.argv, &null, &theirs),
    };
    let monitor = monitor.and_then(Child::new);
    let monitor = monitor.at("start the monitor of", dir)?;
    Ok(Waiting {
        dir: dir.to_owned(),
        line,
        sealed,
        monitor: Some(monitor),
    })
}

/// Executes a monitor, from the sealed copy of this program where there is one.
fn execute(
    sealed: Option<&Sealed>,
    argv: &[OsString],
    null: &File,
    line: &OwnedFd,
) -> std::io::Result<Pid> {
    // There is no log yet.
    let fds = [
        (null.as_fd(), 0),
        (null.as_fd(), 1),
        (null.as_fd(), 2),
        (line.as_fd(), LINE_FD),
    ];
    let spawn = sys::Spawn {
        argv,
        fds: &fds,
        session: true,
    };
    let program = match sealed {
        Some(sealed) => sealed.path().into_os_string(),
        None => argv.first().cloned().unwrap_or_default(),
    };
    sys::apart::spawn_apart(&program, &spawn, |error| {
        let text = format!(
            "could not execute {}: {error}",
            Path::new(&program).display()
        );
        // Who is gone needs no telling.
        let _gone = channel::send(line.as_fd(), &Message::Failed(Failure::setup(text)), &[]);
    })
}

/// Starts the container in `dir`: runs its monitor in a session of its own and waits until the
/// container runs or has failed to. Yields the attached stream when one was asked for, and what
/// could not be honoured.
///
/// # Errors
///
/// When the container runs already or cannot be started; the exit code is Docker's.
pub fn start(
    dir: &Path,
    monitor: &MonitorProgram,
    options: &StartOptions,
) -> Result<(Option<OwnedFd>, Vec<String>), RunnerError> {
    check_free(dir)?;
    prepare(dir, monitor)?.go(options)
}

fn check_free(dir: &Path) -> Result<(), RunnerError> {
    if state::monitor_alive(dir)? {
        return Err(RunnerError::Running(crate::container::id_of(dir)));
    }
    Ok(())
}

impl Waiting {
    /// Starts the container, which has been made meanwhile; as [`start`].
    ///
    /// # Errors
    ///
    /// As [`start`].
    pub fn start(
        self,
        options: &StartOptions,
    ) -> Result<(Option<OwnedFd>, Vec<String>), RunnerError> {
        check_free(&self.dir)?;
        self.go(options)
    }

    fn go(mut self, options: &StartOptions) -> Result<(Option<OwnedFd>, Vec<String>), RunnerError> {
        let dir = self.dir.as_path();
        clear_stopped(dir);
        let log = File::options()
            .append(true)
            .create(true)
            .open(dir.join(SERVER_LOG));
        let log = log.at("open the log of", dir)?;
        let (near, far) = if options.attach {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
            let pair = socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            );
            let (near, far) = pair.at("make a stream to", dir)?;
            (Some(near), Some(far))
        } else {
            (None, None)
        };
        let preserved = preserved::take(options.preserved_fds);
        let preserved = preserved.at("preserve descriptors for", dir)?;
        let rights: Vec<BorrowedFd<'_>> = [log.as_fd()]
            .into_iter()
            .chain(far.iter().map(AsFd::as_fd))
            .chain(preserved.iter().map(AsFd::as_fd))
            .collect();
        let started = Message::Start(options.clone());
        if let Err(error) = channel::send(self.line.as_fd(), &started, &rights) {
            // One that is gone may have said why.
            if let Ok(Some((Message::Failed(failure), _))) = channel::receive(&self.line) {
                return Err(RunnerError::Failed(failure));
            }
            return Err(error).at("write to the monitor of", dir);
        }
        // Ours would keep the stream open after the monitor's end.
        drop((far, preserved));
        drop(self.sealed.take());
        let monitor = self.monitor.take().map(|child| child.pid);
        let monitor = monitor.map_or(0, |pid| pid.as_raw_nonzero().get());
        peers::hear(self.line.as_fd(), || peers::stopped_in_family(monitor))?;
        match channel::receive(&self.line).at("hear from the monitor of", dir)? {
            Some((Message::Started { warnings }, _)) => Ok((near, warnings)),
            Some((Message::Failed(failure), _)) => Err(RunnerError::Failed(failure)),
            Some(_) | None => {
                let text = last_line(&dir.join(SERVER_LOG))
                    .unwrap_or_else(|| "the monitor ended without a word".to_owned());
                Err(RunnerError::Failed(Failure::setup(text)))
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(monitor) = self.monitor.take() {
            let _closed = rustix::net::shutdown(&self.line, rustix::net::Shutdown::Both);
            // It may be stopped, and would not see that the line is closed.
            if monitor.wait(END_MS).is_none() {
                monitor.signal(libc::SIGKILL);
                monitor.reap();
            }
        }
    }
}
