//! The id supervisor: makes `chown` and `mknod` succeed where only one id exists.
//!
//! In a user namespace that maps a single id the kernel refuses every other owner and every
//! device. The filter of [`crate::seccomp::squash_filter`] hands such calls to this supervisor,
//! which does on the caller's behalf what is possible: it writes down the wanted owner or device
//! in an extended attribute, which our file system stores with the file and which commit and
//! export read. On other file systems (a tmpfs, a bind mount) nothing remembers it and the call
//! succeeds all the same, as under `fakeroot`.
//!
//! # Where it runs
//!
//! One process per listener, in the container's user and mount namespaces (so that it has
//! `CAP_SYS_CHROOT` and `CAP_SYS_PTRACE` over the container and sees its mounts) but in the host's
//! process id namespace, with a descriptor of a host `/proc`. [`enter_and_supervise`] does all of
//! it for a process that starts on the host as the container's owner; it must be single-threaded.
//!
//! # What it trusts
//!
//! Nothing from the caller: paths are resolved by the kernel below the caller's own root, with our
//! root changed to it, from the caller's own directories. `/proc/TID` is opened once and checked
//! against the waiting call, after that everything goes through that descriptor, so a recycled
//! process id cannot be confused. The caller must have `CAP_CHOWN` or `CAP_MKNOD`.
//!
//! # Known differences from the kernel
//!
//! Path permissions are checked with our capabilities rather than the caller's. Below
//! `/proc/self` only `fd/N` is understood, and `/dev/stdout` and the like: we have no process id
//! in the container, and anything more general could lead from the host's `/proc` to its files.
//! A device on a file system that does not keep our attributes stays an empty file.

mod caller;
mod error;
mod perform;
mod request;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{CLONE_NEWNS, CLONE_NEWUSER};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;

use crate::seccomp;
use crate::seccomp::sys::{self, Notification, Readiness};

use caller::Caller;

pub use error::IdsError;

/// The attribute by which our file system is told an owner that does not exist in the container:
/// `UID:GID` in decimal, -1 for one that stays.
pub const OWNER: &str = "security.rrun.owner";

/// How to get into the container.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A pidfd of a process of the container.
    Process(BorrowedFd<'a>),
    /// Its namespace files (`/proc/PID/ns/user`, `/proc/PID/ns/mnt`).
    Namespaces {
        /// The user namespace.
        user: BorrowedFd<'a>,
        /// The mount namespace.
        mount: BorrowedFd<'a>,
    },
}

/// Enters the container and supervises until its last process under the filter is gone.
///
/// The calling process must be single-threaded, have the host's process id namespace, and be the
/// container's owner (or root). It is killed when its parent thread ends. `procfs` is a directory
/// descriptor of the host's `/proc`, opened beforehand.
///
/// # Errors
///
/// When a namespace cannot be joined, or as [`supervise`].
pub fn enter_and_supervise(
    entry: &Entry<'_>,
    listener: OwnedFd,
    procfs: OwnedFd,
) -> Result<(), IdsError> {
    sys::seal().map_err(|source| IdsError::at("protect the supervisor", source))?;
    match entry {
        Entry::Process(process) => patiently(|| sys::join(*process, CLONE_NEWUSER | CLONE_NEWNS)),
        Entry::Namespaces { user, mount } => {
            sys::join(*user, CLONE_NEWUSER).and_then(|()| sys::join(*mount, CLONE_NEWNS))
        }
    }
    .map_err(|source| IdsError::at("join the namespaces", source))?;
    // Joining changed our credentials, which may have reset both.
    sys::seal().map_err(|source| IdsError::at("protect the supervisor", source))?;
    supervise(listener, procfs)
}

/// Times a process that hides itself is looked at again.
const HIDDEN_ROUNDS_MAX: u32 = 400;
/// Time between two looks; with [`HIDDEN_ROUNDS_MAX`] two seconds in all.
const HIDDEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Does something with a process that is not to be looked at until it has executed its program,
/// as is one that joins another container's PID namespace.
pub(crate) fn patiently<T>(mut act: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let hidden =
        |error: &std::io::Error| matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    for _ in 0..HIDDEN_ROUNDS_MAX {
        match act() {
            Err(error) if hidden(&error) => std::thread::sleep(HIDDEN_PAUSE),
            other => return other,
        }
    }
    act()
}

/// How long to let the file-system server finish what a sync handed it: it answers a small write
/// in microseconds, and the question after the pause comes behind every large one.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(5);

/// Makes the kernel hand all unwritten file contents of a container to its file-system server.
///
/// Runs in a process of its own, which joins the container's user and mount namespaces: nobody
/// outside may ask its root file system for anything. Single-threaded.
///
/// # Errors
///
/// When a namespace cannot be joined or the root not be synced.
pub fn enter_and_sync(process: BorrowedFd<'_>) -> Result<(), IdsError> {
    sys::seal().map_err(|source| IdsError::at("protect the helper", source))?;
    let joined = match sys::join(process, CLONE_NEWUSER | CLONE_NEWNS) {
        // A container of root's has no user namespace of its own.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => sys::join(process, CLONE_NEWNS),
        joined => joined,
    };
    joined.map_err(|source| IdsError::at("join the namespaces", source))?;
    let root = std::fs::File::open("/").map_err(|source| IdsError::at("open the root", source))?;
    let failed = |source: rustix::io::Errno| IdsError::at("sync the root", source.into());
    rustix::fs::syncfs(&root).map_err(failed)?;
    for _ in 0..2 {
        // The kernel does not wait for a FUSE server's writes (fs/fuse/inode.c, writeback).
        rustix::fs::fstatvfs(&root).map_err(failed)?;
        std::thread::sleep(SETTLE);
    }
    Ok(())
}

/// Serves `listener` until the last process under its filter is gone.
///
/// Runs in the container's user and mount namespaces and in the process id namespace of `procfs`;
/// changes the process's root, working directory and file creation mask. Single-threaded.
///
/// # Errors
///
/// When the listener fails; a caller that dies or asks nonsense is no error.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the listener must be closed when we return"
)]
pub fn supervise(listener: OwnedFd, procfs: OwnedFd) -> Result<(), IdsError> {
    // The caller's mask is applied by hand, ours must not add to it.
    umask(Mode::empty());
    let (listener, procfs) = (listener.as_fd(), procfs.as_fd());
    sys::switch_directly(listener);
    loop {
        match sys::wait(listener).map_err(|source| IdsError::at("wait for calls", source))? {
            Readiness::Over => return Ok(()),
            Readiness::Nothing => continue,
            Readiness::Waiting => {}
        }
        let call = match sys::receive(listener) {
            Ok(call) => call,
            Err(error) if passes(&error) => continue,
            Err(source) => return Err(IdsError::at("receive a call", source)),
        };
        let errno = serve(listener, procfs, &call)
            .err()
            .map_or(0, Errno::raw_os_error);
        match sys::answer(listener, call.id, errno) {
            Err(error) if !passes(&error) => return Err(IdsError::at("answer a call", error)),
            _ => {}
        }
    }
}

/// Whether an error of the listener only means that a caller is gone.
fn passes(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EINTR | libc::ENOTCONN)
    )
}

/// Does what a waiting call asks for.
fn serve(
    listener: BorrowedFd<'_>,
    procfs: BorrowedFd<'_>,
    call: &Notification,
) -> Result<(), Errno> {
    let request = request::parse(seccomp::name_of(call.number), call.args)?;
    let caller = Caller::open(procfs, call.tid).map_err(|_| Errno::SRCH)?;
    if !sys::still_waits(listener, call.id) {
        return Err(Errno::SRCH);
    }
    perform::perform(procfs, &caller, request)
}
