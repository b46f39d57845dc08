//! Running a program of ours as root of a user namespace, for files of subordinate ids.

use std::ffi::OsString;
use std::os::fd::AsFd;

use crate::channel::{self, Message};
use crate::config::{ContainerConfig, IdMap};
use crate::error::{At, Failure, RunnerError};
use crate::monitor::{Child, write_id_map};
use crate::plan::HostFacts;
use crate::{init, sys};

/// Runs `argv` where `map` holds, and waits for its end.
///
/// The calling process must be single-threaded.
///
/// # Errors
///
/// When the namespace cannot be made, or the program fails; it has then said why itself.
pub fn run(map: &IdMap, argv: &[OsString]) -> Result<(), RunnerError> {
    let Some(program) = argv.first() else {
        return Ok(());
    };
    let config = ContainerConfig {
        id_map: map.clone(),
        ..ContainerConfig::default()
    };
    let (ours, theirs) = channel::pair().at("make a line to", program)?;
    let child = match sys::fork(sys::CLONE_NEWUSER).at("make a user namespace for", program)? {
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
            sys::exit_now(run_here(argv));
        }
        sys::Fork::Parent(pid) => Child::new(pid).at("watch", program)?,
    };
    drop(theirs);
    let written = write_id_map(&config, &HostFacts::detect(), child.pid, ours.as_fd());
    if let Err(error) = written {
        child.signal(libc::SIGKILL);
        child.reap();
        return Err(error);
    }
    match child.reap() {
        0 => Ok(()),
        code => Err(RunnerError::Failed(Failure::setup(format!(
            "a helper in a user namespace ended with {code}"
        )))),
    }
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
