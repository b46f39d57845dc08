//! The system calls that have no safe wrapper.
#![allow(unsafe_code, reason = "the crate's system calls")]

pub(crate) mod uring;

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

/// `FUSE_DEV_IOC_BACKING_OPEN`: `_IOW(229, 1, struct fuse_backing_map)`. Source: as above.
const FUSE_DEV_IOC_BACKING_OPEN: libc::Ioctl = 0x4010_e501;
/// `FUSE_DEV_IOC_BACKING_CLOSE`: `_IOW(229, 2, uint32_t)`. Source: as above.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Hands a file to the kernel; gives the number it then has.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN` in the initial user namespace; `ELOOP` when the file is itself
/// on a stacked file system.
///
/// Source: `fuse_backing_open` in `fs/fuse/backing.c`.
pub(crate) fn open_backing(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<i32> {
    let map = BackingMap {
        fd: file.as_raw_fd(),
        flags: 0,
        padding: 0,
    };
    // SAFETY: the request reads one `fuse_backing_map` through the pointer, which is to a live
    // local of that layout.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            FUSE_DEV_IOC_BACKING_OPEN,
            &raw const map,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes back a file.
///
/// # Errors
///
/// `ENOENT` when the number is unknown.
///
/// Source: `fuse_backing_close` in `fs/fuse/backing.c`.
pub(crate) fn close_backing(device: BorrowedFd<'_>, backing: i32) -> io::Result<()> {
    // SAFETY: the request reads one u32 through the pointer, which is to a live local.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            FUSE_DEV_IOC_BACKING_CLOSE,
            &raw const backing,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
