//! The ids of a container: which of the host's its user namespace has.
//!
//! An ordinary user's ranges are written by `newuidmap(1)` and `newgidmap(1)`, two programs that
//! take longer than all else before the first process. So the monitor starts them while it waits
//! for its container, for a namespace in which nothing is but a process that waits. The first
//! process is made in it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal};

use super::Child;
use crate::channel::{self, Message};
use crate::config::{ContainerConfig, IdMap};
use crate::error::{At, Failure, RunnerError};
use crate::plan::HostFacts;
use crate::subid::{IdRange, map_lines};
use crate::{join, sys};

/// A user namespace whose map is being written; dropping it ends who waits in it.
#[derive(Debug)]
pub(super) struct IdSpace {
    /// What is written.
    map: IdMap,
    keeper: Child,
    /// The keeper ends when this is closed.
    #[expect(dead_code, reason = "held for what it does, not read")]
    line: OwnedFd,
    writers: Vec<Writer>,
}

/// A program that writes a map, by name.
type Writer = (&'static str, Child);

impl IdSpace {
    /// Begins to map the ids that a container will most likely have. What fails here fails again
    /// in [`IdSpace::of`], where it is told.
    pub(super) fn guess(ids: &IdMap) -> Option<Self> {
        Self::begin(ids).ok().flatten()
    }

    /// The user namespace of a container that is to have ranges of an ordinary user's: the guessed
    /// one, if that was guessed right.
    ///
    /// # Errors
    ///
    /// When no user namespace can be made, or the programs cannot be started.
    pub(super) fn of(
        config: &ContainerConfig,
        guessed: Option<Self>,
    ) -> Result<Option<Self>, RunnerError> {
        if join::joined(config) & sys::CLONE_NEWUSER != 0 {
            return Ok(None);
        }
        match guessed {
            Some(space) if space.map == config.id_map => Ok(Some(space)),
            _ => Self::begin(&config.id_map),
        }
    }

    fn begin(map: &IdMap) -> Result<Option<Self>, RunnerError> {
        let IdMap::Range { uids, gids } = map else {
            return Ok(None);
        };
        let host = HostFacts::detect();
        if host.euid == 0 {
            return Ok(None);
        }
        let (line, theirs) = channel::pair().at("make a line into", "the user namespace")?;
        let forked = sys::fork(sys::CLONE_NEWUSER).at("make", "a user namespace")?;
        let keeper = match forked {
            sys::Fork::Child => keep(theirs.as_fd()),
            sys::Fork::Parent(pid) => Child::new(pid).at("watch", "the user namespace"),
        }?;
        let mut space = Self {
            map: map.clone(),
            keeper,
            line,
            writers: Vec::new(),
        };
        start_writers(&host, space.keeper.pid, uids, gids, &mut space.writers)?;
        Ok(Some(space))
    }

    /// A process in the namespace.
    pub(super) fn process(&self) -> BorrowedFd<'_> {
        self.keeper.pidfd.as_fd()
    }

    /// Waits until the map is written, and tells it to the first process, on `line`.
    ///
    /// # Errors
    ///
    /// When a program fails.
    pub(super) fn finish(
        &mut self,
        config: &ContainerConfig,
        line: BorrowedFd<'_>,
    ) -> Result<(), RunnerError> {
        finish_writers(&mut self.writers)?;
        tell(config, line)
    }
}

impl Drop for IdSpace {
    fn drop(&mut self) {
        for child in self.writers.iter().map(|(_, writer)| writer) {
            child.signal(libc::SIGKILL);
            child.reap();
        }
        self.keeper.signal(libc::SIGKILL);
        self.keeper.reap();
    }
}

/// The keeper's side: waits until nobody is at the other end, with nothing else open. It allocates
/// nothing, as its parent may have had other threads.
fn keep(line: BorrowedFd<'_>) -> ! {
    let _outlives = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if sys::close_all_but(line).is_ok() {
        let _end = rustix::io::read(line, &mut [0_u8; 1]);
    }
    sys::exit_now(0)
}

/// Sees to it that the new process's user namespace has its ids, and tells it so.
pub(crate) fn write_id_map(
    config: &ContainerConfig,
    host: &HostFacts,
    (pid, line): (Pid, BorrowedFd<'_>),
) -> Result<(), RunnerError> {
    match &config.id_map {
        IdMap::Root => return Ok(()),
        // The user namespace is the other container's, and has its map.
        _ if join::joined(config) & sys::CLONE_NEWUSER != 0 => {}
        IdMap::Range { uids, gids } => write_ranges(host, pid, uids, gids)?,
        IdMap::Squash | IdMap::Single { .. } => {
            let (uid, gid) = config.id_map.only().unwrap_or_default();
            let pid = pid.as_raw_nonzero();
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("{uid} {} 1\n", host.euid)),
                ("gid_map", format!("{gid} {} 1\n", host.egid)),
            ] {
                let path = format!("/proc/{pid}/{file}");
                std::fs::write(&path, text).at("write", path)?;
            }
        }
    }
    tell(config, line)
}

fn tell(config: &ContainerConfig, line: BorrowedFd<'_>) -> Result<(), RunnerError> {
    channel::send(line, &Message::IdMapWritten, &[]).at("start the first process of", &config.id)
}

fn write_ranges(
    host: &HostFacts,
    pid: Pid,
    uids: &[IdRange],
    gids: &[IdRange],
) -> Result<(), RunnerError> {
    if host.euid != 0 {
        let mut writers = Vec::new();
        let started = start_writers(host, pid, uids, gids, &mut writers);
        let finished = finish_writers(&mut writers);
        return started.and(finished);
    }
    for (file, own, ranges) in [("uid_map", host.euid, uids), ("gid_map", host.egid, gids)] {
        let lines = map_lines(own, ranges);
        let text: String = lines
            .iter()
            .map(|[a, b, c]| format!("{a} {b} {c}\n"))
            .collect();
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        std::fs::write(&path, text).at("write", path)?;
    }
    Ok(())
}

/// Starts the programs that write the map of a process; both at once, as each costs a start.
fn start_writers(
    host: &HostFacts,
    pid: Pid,
    uids: &[IdRange],
    gids: &[IdRange],
    writers: &mut Vec<Writer>,
) -> Result<(), RunnerError> {
    let wanted = [
        ("newuidmap", host.euid, uids),
        ("newgidmap", host.egid, gids),
    ];
    for (program, own, ranges) in wanted {
        let mut argv: Vec<OsString> = vec![program.into(), pid.as_raw_nonzero().to_string().into()];
        let numbers = map_lines(own, ranges);
        argv.extend(numbers.iter().flatten().map(|id| id.to_string().into()));
        let spawn = sys::Spawn {
            argv: &argv,
            fds: &[],
            session: false,
        };
        let child = sys::spawn(&spawn).and_then(Child::new).at("run", program)?;
        writers.push((program, child));
    }
    Ok(())
}

/// Waits for the programs that write a map.
fn finish_writers(writers: &mut Vec<Writer>) -> Result<(), RunnerError> {
    let mut outcome = Ok(());
    for (program, child) in writers.drain(..) {
        let code = child.reap();
        if code != 0 && outcome.is_ok() {
            let text = format!(
                "{program} ended with {code}: are the ranges in /etc/subuid and /etc/subgid ours?"
            );
            outcome = Err(RunnerError::Failed(Failure::setup(text)));
        }
    }
    outcome
}
