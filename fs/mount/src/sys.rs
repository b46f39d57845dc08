//! The one system call that has no safe wrapper.
#![allow(unsafe_code, reason = "the crate's system calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// `FUSE_DEV_IOC_CLONE`: `_IOR(229, 0, uint32_t)`. Source: `include/uapi/linux/fuse.h`.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500;

/// Opens a second descriptor of a FUSE connection, with its own flags.
///
/// # Errors
///
/// `EACCES`, `ENOENT`: no `/dev/fuse` here; `EINVAL`: `device` is not a connection.
///
/// Source: `fuse_device_clone` in `fs/fuse/dev.c`.
pub(crate) fn clone_nonblocking(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let file = File::from(fd);
    let source = u32::try_from(device.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the request reads one u32 through the pointer, which is to a live local.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const source) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(file.into())
    }
}
