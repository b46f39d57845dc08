//! Running a program of ours as root of a user namespace, for files of subordinate ids.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use crate::channel::{self, Message};
use crate::config::{ContainerConfig, IdMap};
use crate::error::{At, RunnerError};
use crate::monitor::{Child, write_id_map};
use crate::plan::HostFacts;
use crate::{init, sys};

/// Runs `argv` where `map` holds, waits for its end and returns its exit code.
///
/// The calling process must be single-threaded.
///
/// # Errors
///
/// When the namespace cannot be made.
pub fn run(map: &IdMap, argv: &[OsString]) -> Result<i32, RunnerError> {
    let Some(program) = argv.first() else {
        return Ok(0);
    };
    run_in(map, Path::new(program), || run_here(argv))
}

/// Removes `dir` and all below it where `map` holds.
///
/// # Errors
///
/// When the namespace cannot be made, or something is left.
pub(crate) fn remove_tree(map: &IdMap, dir: &Path) -> Result<(), RunnerError> {
    let code = run_in(map, dir, || {
        let removed = crate::tree::remove(dir);
        removed.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
    })?;
    match code {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code)).at("remove", dir),
    }
}

/// Runs `work` in a child where `map` holds, as its root; `object` is what errors name.
fn run_in(map: &IdMap, object: &Path, work: impl FnOnce() -> i32) -> Result<i32, RunnerError> {
    let config = ContainerConfig {
        id_map: map.clone(),
        ..ContainerConfig::default()
    };
    let (ours, theirs) = channel::pair().at("make a line to", object)?;
    let child = match sys::fork(sys::CLONE_NEWUSER).at("make a user namespace for", object)? {
        sys::Fork::Child => {
            drop(ours);
            let ready = matches!(
                channel::receive(&theirs),
                Ok(Some((Message::IdMapWritten, _)))
            );
            if !ready || init::become_root().is_err() {
                sys::exit_now(125);
            }
            drop(theirs);
            sys::exit_now(work());
        }
        sys::Fork::Parent(pid) => Child::new(pid).at("watch", object)?,
    };
    drop(theirs);
    let written = write_id_map(&config, &HostFacts::detect(), (child.pid, ours.as_fd()));
    if let Err(error) = written {
        child.signal(libc::SIGKILL);
        child.reap();
        return Err(error);
    }
    Ok(child.reap())
}

/// Starts the program from the child, which is root of the namespace, and waits for it.
fn run_here(argv: &[OsString]) -> i32 {
    let spawned = sys::spawn(&sys::Spawn {
        argv,
        fds: &[],
        session: false,
    });
    spawned
        .and_then(Child::new)
        .map_or(125, |child| child.reap())
}
