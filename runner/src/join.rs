//! Starting a container in namespaces of others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::channel::{self, Message};
use crate::config::{ContainerConfig, Network, Shm};
use crate::error::{At, Failure, RunnerError};
use crate::monitor::Child;
use crate::state::{self, Status};
use crate::sys::{self, Fork};

/// The namespaces a container takes from others: what of, `CLONE_NEW*` bit, whose.
fn wanted(config: &ContainerConfig) -> Vec<(&'static str, u64, &str)> {
    let list = [
        ("network", sys::CLONE_NEWNET, network(config)),
        ("PID", sys::CLONE_NEWPID, config.joins.pid.as_deref()),
        ("IPC", sys::CLONE_NEWIPC, config.joins.ipc.as_deref()),
    ];
    list.into_iter()
        .filter_map(|(what, bit, id)| Some((what, bit, id?)))
        .collect()
}

fn network(config: &ContainerConfig) -> Option<&str> {
    let id = config.net.join.as_deref();
    id.filter(|_| config.network == Network::Container)
}

/// The `CLONE_NEW*` bits of the namespaces that are other containers'. All but the user namespace
/// belong to one, without which nothing could be done in them.
pub(crate) fn joined(config: &ContainerConfig) -> u64 {
    let bits = wanted(config)
        .iter()
        .fold(0, |bits, (_, bit, _)| bits | bit);
    if bits != 0 && config.has_user_namespace() {
        bits | sys::CLONE_NEWUSER
    } else {
        bits
    }
}

/// A process of another container, and what is taken from it.
#[derive(Debug)]
struct Donor {
    pid: i32,
    process: OwnedFd,
    bits: u64,
}

/// Opens the containers whose namespaces are wanted.
fn donors(dir: &Path, config: &ContainerConfig) -> Result<Vec<Donor>, RunnerError> {
    let mut list: Vec<Donor> = Vec::new();
    for (what, bit, id) in wanted(config) {
        let not_running = || {
            RunnerError::Failed(Failure::setup(format!(
                "cannot join {what} of a non running container: {id}"
            )))
        };
        let state = state::read(&dir.with_file_name(id)).map_err(|_| not_running())?;
        if !matches!(state.status, Status::Running | Status::Paused) {
            return Err(not_running());
        }
        let (pid, process) = state::open_init(&state).ok_or_else(not_running)?;
        let pid = pid.as_raw_nonzero().get();
        match list.iter_mut().find(|donor| donor.pid == pid) {
            Some(donor) => donor.bits |= bit,
            None => list.push(Donor {
                pid,
                process,
                bits: bit,
            }),
        }
    }
    let user = |donor: &Donor| std::fs::read_link(format!("/proc/{}/ns/user", donor.pid)).ok();
    if let Some((first, others)) = list.split_first()
        && config.has_user_namespace()
        && others.iter().any(|other| user(other) != user(first))
    {
        let text = "namespaces of two containers cannot be joined where each has a user namespace \
                    of its own: join those of one, or run as root";
        return Err(RunnerError::Failed(Failure::setup(text)));
    }
    Ok(list)
}

/// Forks the first process of the container in `dir`, with new namespaces as `flags` say, in those
/// of the containers whose namespaces it shares and in the user namespace of the process `space`.
///
/// # Errors
///
/// When another container does not run, or the namespaces are not allowed.
pub(crate) fn fork(
    dir: &Path,
    config: &ContainerConfig,
    flags: u64,
    space: Option<BorrowedFd<'_>>,
) -> Result<Fork, RunnerError> {
    let mut donors = donors(dir, config)?;
    if let Some(process) = space {
        let process = process.try_clone_to_owned();
        donors.push(Donor {
            // Only containers are told apart by it.
            pid: 0,
            process: process.at("enter the user namespace of", dir)?,
            bits: sys::CLONE_NEWUSER,
        });
    }
    let flags = flags & !donors.iter().fold(0, |bits, donor| bits | donor.bits);
    if donors.is_empty() {
        return sys::fork(flags).at("make the namespaces of", dir);
    }
    fork_into(&donors, config, flags).at("join the namespaces for", dir)
}

/// Like [`sys::fork`], but first in the namespaces of others: a process between joins them, makes
/// the child as its own sibling and ends.
fn fork_into(donors: &[Donor], config: &ContainerConfig, flags: u64) -> io::Result<Fork> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let between = match sys::fork(0)? {
        Fork::Parent(pid) => Child::new(pid)?,
        Fork::Child => {
            let made = enter(donors, config).and_then(|()| sys::fork(sys::CLONE_PARENT | flags));
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

fn enter(donors: &[Donor], config: &ContainerConfig) -> io::Result<()> {
    if config.joins.pid.is_some() {
        if let Some(score) = config.oom_score_adj {
            // Later it will not be ours to write.
            std::fs::write("/proc/self/oom_score_adj", score.to_string())?;
        }
        // The other container's processes may see this one, and must not reach what it has open
        // or our program's file, until it executes another.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    let user = joined(config) & sys::CLONE_NEWUSER;
    for (number, donor) in donors.iter().enumerate() {
        let user = if number == 0 { user } else { 0 };
        sys::setns(donor.process.as_fd(), donor.bits | user)?;
    }
    Ok(())
}

/// Copies what is mounted on `/dev/shm` of the container whose IPC namespace is joined. A process
/// between takes it from there, as only in that mount namespace it can be copied.
///
/// # Errors
///
/// When the other container does not run or has none.
pub(crate) fn shared_memory(
    dir: &Path,
    config: &ContainerConfig,
) -> Result<Option<OwnedFd>, RunnerError> {
    let (Shm::Joined, Some(id)) = (config.shm, &config.joins.ipc) else {
        return Ok(None);
    };
    let other = dir.with_file_name(id);
    let state = state::read(&other)?;
    let (_, process) =
        state::open_init(&state).ok_or_else(|| RunnerError::NotRunning(id.clone()))?;
    let copy = || -> io::Result<OwnedFd> {
        let (ours, theirs) = channel::pair()?;
        let between = match sys::fork(0)? {
            Fork::Parent(pid) => Child::new(pid)?,
            Fork::Child => {
                let sent = copy_shm(process.as_fd(), config).and_then(|mount| {
                    channel::send(theirs.as_fd(), &Message::Mount, &[mount.as_fd()])
                });
                sys::exit_now(i32::from(sent.is_err()))
            }
        };
        drop(theirs);
        let received = channel::receive(&ours)?;
        between.reap();
        let first = received.and_then(|(_, fds)| fds.into_iter().next());
        first.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    };
    copy().map(Some).at("share /dev/shm of", other)
}

fn copy_shm(process: BorrowedFd<'_>, config: &ContainerConfig) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let user = if config.has_user_namespace() {
        sys::CLONE_NEWUSER
    } else {
        0
    };
    sys::setns(process, sys::CLONE_NEWNS | user)?;
    // What the container's programs put there may be a trap.
    let place = openat2(
        CWD,
        "/dev/shm",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    if sys::filesystem_magic(place.as_fd())? != TMPFS_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    crate::mounts::copy(place.as_fd(), false)
}

/// Magic number of tmpfs. Source: `statfs(2)`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
