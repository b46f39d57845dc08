//! The raw system calls of filters and supervisors.
#![allow(unsafe_code, reason = "seccomp and its listener have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_ulong, sock_filter, sock_fprog};

/// One call that waits for the supervisor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    /// Names the waiting call.
    pub(crate) id: u64,
    /// The thread, in our own process id namespace.
    pub(crate) tid: u32,
    /// The system call number.
    pub(crate) number: u32,
    /// Its arguments.
    pub(crate) args: [u64; 6],
}

/// What `poll` said of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// A call waits.
    Waiting,
    /// No process is left under the filter.
    Over,
    /// Neither; try again.
    Nothing,
}

/// Installs a filter without a listener.
///
/// Source: `seccomp(2)`.
pub(crate) fn install(code: &[sock_filter], flags: c_ulong) -> io::Result<()> {
    set_filter(code, flags).map(drop)
}

/// Installs a filter with a listener.
///
/// A supervised thread ignores non-fatal signals once the supervisor has its call where the kernel
/// can do that (5.19), so that Go programs' preemption signals do not restart the call for ever.
///
/// Source: `seccomp_unotify(2)`.
pub(crate) fn install_with_listener(code: &[sock_filter], flags: c_ulong) -> io::Result<OwnedFd> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | flags;
    let ret = match set_filter(
        code,
        listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(code, listener)?,
        other => other?,
    };
    let fd = RawFd::try_from(ret).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: with NEW_LISTENER the kernel returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `seccomp(SECCOMP_SET_MODE_FILTER)`.
fn set_filter(code: &[sock_filter], flags: c_ulong) -> io::Result<libc::c_long> {
    let len = u16::try_from(code.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = sock_fprog {
        len,
        filter: code.as_ptr().cast_mut(),
    };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` points at `len` instructions that live through the call, and the kernel
    // only reads them.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Asks the kernel to switch straight between caller and supervisor, which they gain from as only
/// one of them ever runs. A kernel before 6.6 does not know this; nothing is lost then.
///
/// Source: `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, `linux/seccomp.h`.
pub(crate) fn switch_directly(listener: BorrowedFd<'_>) {
    /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
    const SYNC_WAKE_UP: c_ulong = 1;
    let fd = listener.as_raw_fd();
    // SAFETY: this request takes its flags as the argument itself, no memory is involved.
    let _unsupported =
        unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Waits until a call waits or all supervised processes are gone.
///
/// Source: `poll(2)`.
pub(crate) fn wait(listener: BorrowedFd<'_>) -> io::Result<Readiness> {
    let mut entry = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid `pollfd` is passed with a count of one.
    let ret = unsafe { libc::poll(&raw mut entry, 1, -1) };
    if ret < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(Readiness::Nothing);
        }
        return Err(error);
    }
    if entry.revents & libc::POLLIN != 0 {
        return Ok(Readiness::Waiting);
    }
    let over = entry.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
    Ok(if over {
        Readiness::Over
    } else {
        Readiness::Nothing
    })
}

/// Takes the next waiting call.
///
/// # Errors
///
/// `ENOENT` when its thread was killed meanwhile.
///
/// Source: `seccomp_unotify(2)`.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    let mut notif = libc::seccomp_notif {
        id: 0,
        pid: 0,
        flags: 0,
        data: libc::seccomp_data {
            nr: 0,
            arch: 0,
            instruction_pointer: 0,
            args: [0; 6],
        },
    };
    let fd = listener.as_raw_fd();
    // SAFETY: the request number encodes the size of `seccomp_notif`, which `notif` has; it is
    // zeroed as the kernel demands and outlives the call.
    let ret = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notif) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = u32::try_from(notif.data.nr).unwrap_or(u32::MAX);
    Ok(Notification {
        id: notif.id,
        tid: notif.pid,
        number,
        args: notif.data.args,
    })
}

/// Answers a waiting call with 0 or an errno.
///
/// # Errors
///
/// `ENOENT` when its thread is gone.
///
/// Source: `seccomp_unotify(2)`.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, errno: i32) -> io::Result<()> {
    let mut resp = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: errno.wrapping_neg(),
        flags: 0,
    };
    let fd = listener.as_raw_fd();
    // SAFETY: the request number encodes the size of `seccomp_notif_resp`, which `resp` has.
    let ret = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut resp) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether the waiting call, and so its thread, still exists.
///
/// Source: `seccomp_unotify(2)`.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    let fd = listener.as_raw_fd();
    // SAFETY: the kernel reads the eight bytes of `id`, which outlives the call.
    let ret = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) };
    ret == 0
}

/// Joins namespaces: `fd` is a namespace file, or a pidfd when `kinds` has several flags.
///
/// Source: `setns(2)`.
pub(crate) fn join(fd: BorrowedFd<'_>, kinds: c_int) -> io::Result<()> {
    // SAFETY: the call takes two integers and no pointers.
    let ret = unsafe { libc::setns(fd.as_raw_fd(), kinds) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes the kernel kill us when our parent ends, and keeps others from attaching to us.
///
/// Source: `PR_SET_PDEATHSIG(2const)`, `PR_SET_DUMPABLE(2const)`.
pub(crate) fn seal() -> io::Result<()> {
    // SAFETY: both arguments are integers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both arguments are integers.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
