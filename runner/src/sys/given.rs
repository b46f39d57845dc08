//! Descriptors that whoever executed this process left it.

use std::os::fd::RawFd;

/// Whether descriptor `fd` is open and was left by whoever executed this process: all that it opens
/// itself would be closed by the next `execve(2)`.
///
/// Source: `F_GETFD(2const)`.
pub(crate) fn is_given(fd: RawFd) -> bool {
    // SAFETY: an integer call; it fails with EBADF on a closed descriptor.
    let ret = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    ret >= 0 && ret & libc::FD_CLOEXEC == 0
}
