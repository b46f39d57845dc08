//! The parts of a running container: programs that rrun starts of itself.
//!
//! They bypass the parsing of arguments, because every start of a container pays for them.

use std::ffi::OsString;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rrun_mount::{ServeOptions, Stats, serve};
use rrun_runner::{ContainerConfig, ids, monitor, net};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{ground, overlayfs};
use crate::failure::{ExitCode, Failure};
use crate::{report, sys};

/// The words that name a hidden program.
const MONITOR: &str = "__monitor";
const SERVE: &str = "__serve";
const IDS: &str = "__ids";
const NET: &str = "__net";
const SYNC: &str = "__sync";

/// Where the runner leaves the descriptors of a hidden program.
const FIRST_FD: i32 = 3;

/// The command lines by which containers start the parts of themselves.
#[derive(Debug)]
pub(crate) struct Parts {
    program: OsString,
}

impl Parts {
    /// Parts that are this very program.
    pub(crate) fn of_self() -> Result<Self, Failure> {
        // The link follows the file when an upgrade replaces it under a running container.
        let program = std::fs::read_link("/proc/self/exe")
            .map_err(|error| Failure::of("could not read /proc/self/exe", &error))?;
        Ok(Self {
            program: program.into_os_string(),
        })
    }

    /// The monitor of the container in `dir`.
    pub(crate) fn monitor(&self, dir: &Path) -> Vec<OsString> {
        vec![self.program.clone(), MONITOR.into(), dir.into()]
    }

    /// Its file-system server.
    pub(crate) fn serve(&self, dir: &Path) -> Vec<OsString> {
        vec![self.program.clone(), SERVE.into(), dir.into()]
    }

    /// Its id supervisor.
    pub(crate) fn ids(&self) -> Vec<OsString> {
        vec![self.program.clone(), IDS.into()]
    }

    /// Its network helper; the container is found by its directory, which is where the monitor works.
    pub(crate) fn net(&self, id: &str) -> Vec<OsString> {
        vec![self.program.clone(), NET.into(), id.into()]
    }

    /// The helper that makes a running container's files complete on disk.
    pub(crate) fn sync(&self) -> Vec<OsString> {
        vec![self.program.clone(), SYNC.into()]
    }
}

/// Runs a hidden program if `argv` names one.
pub(crate) fn run(argv: &[OsString]) -> Option<ExitCode> {
    let program = argv.first().map(PathBuf::from)?;
    if program
        .file_name()
        .is_some_and(|name| name == "rrun-overlayfs")
    {
        return Some(overlayfs::main(&argv[1..]));
    }
    let word = argv.get(1)?;
    let dir = || argv.get(2).map(PathBuf::from).unwrap_or_default();
    let outcome = if word == MONITOR {
        monitor_main(&dir())
    } else if word == SERVE {
        serve_main(&dir())
    } else if word == IDS {
        ids_main()
    } else if word == NET {
        net_main()
    } else if word == SYNC {
        ids::enter_and_sync(std::io::stdin().as_fd()).map_err(Failure::from)
    } else if word == "overlayfs" {
        return Some(overlayfs::main(&argv[2..]));
    } else {
        return None;
    };
    Some(match outcome {
        Ok(()) => ExitCode::OK,
        Err(failure) => {
            // Standard error is the container's server.log, which the starter quotes.
            report::failure(&failure);
            failure.exit_code()
        }
    })
}

fn monitor_main(dir: &Path) -> Result<(), Failure> {
    monitor::run(dir, monitor::MonitorOptions::default())?;
    Ok(())
}

/// Runs the network helper of the container whose directory we are in.
fn net_main() -> Result<(), Failure> {
    let dir = std::env::current_dir()
        .map_err(|error| Failure::of("could not tell the container's directory", &error))?;
    net::serve(&dir, &crate::environment::uplink_programs())?;
    Ok(())
}

/// Serves the container's file system until the kernel says that it is unmounted.
fn serve_main(dir: &Path) -> Result<(), Failure> {
    let line = sys::inherited(FIRST_FD)?;
    let config = ContainerConfig::load(dir)?;
    // Before the device comes: whatever is wrong is then told instead of hanging the start.
    let (union, lease) = ground::writable(dir, &config)?;
    let device = receive_device(&line)?;
    drop(line);
    // Modes come from the kernel with the asker's mask applied.
    rustix::process::umask(rustix::fs::Mode::empty());
    serve(
        &device,
        &union,
        &ServeOptions::default(),
        &Stats::default(),
        &exit_now,
    )?;
    // Held until here: nothing the container reads may be collected.
    drop(lease);
    Ok(())
}

/// Ends the process: everything is on disk, and the kernel releases what is held soonest so.
#[expect(
    clippy::exit,
    reason = "a server has nothing left to do once it is unmounted"
)]
pub(crate) fn exit_now() {
    std::process::exit(0);
}

fn receive_device(line: &OwnedFd) -> Result<File, Failure> {
    let mut byte = [0; 16];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        line.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(File::from(fd));
        }
    }
    Err(Failure::general(
        "the container ended before its root was mounted",
    ))
}

fn ids_main() -> Result<(), Failure> {
    let listener = sys::inherited(FIRST_FD)?;
    let procfs = sys::inherited(FIRST_FD + 1)?;
    let process = sys::inherited(FIRST_FD + 2)?;
    ids::enter_and_supervise(&ids::Entry::Process(process.as_fd()), listener, procfs)?;
    Ok(())
}
