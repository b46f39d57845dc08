//! The system calls that have no safe wrapper.
#![allow(unsafe_code, reason = "the crate's system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::options::AccessTimes;

/// Bytes of `struct fsxattr`.
pub(crate) const FSXATTR: usize = 28;

/// `FS_IOC_FSGETXATTR`: `_IOR('X', 31, struct fsxattr)`. Source: `include/uapi/linux/fs.h`.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`: `_IOW('X', 32, struct fsxattr)`. Source: as above.
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;

/// Reads a file's `struct fsxattr`: flags, extent sizes, project.
///
/// # Errors
///
/// `ENOTTY`, `EOPNOTSUPP` where the file system has none.
///
/// Source: `ioctl_xfs_fsgetxattr(2)`.
pub(crate) fn get_fsxattr(file: BorrowedFd<'_>) -> io::Result<[u8; FSXATTR]> {
    let mut value = [0; FSXATTR];
    // SAFETY: the request writes 28 bytes, the size of the local the pointer leads to.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, value.as_mut_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

/// Sets a file's `struct fsxattr`.
///
/// # Errors
///
/// `EPERM` when not the owner or not privileged; as [`get_fsxattr`].
///
/// Source: `ioctl_xfs_fssetxattr(2)`.
pub(crate) fn set_fsxattr(file: BorrowedFd<'_>, value: &[u8; FSXATTR]) -> io::Result<()> {
    // SAFETY: the request reads 28 bytes, the size of what the pointer leads to.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, value.as_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets when reading through a mount sets access times.
///
/// # Errors
///
/// `EPERM` where the flags are locked; `ENOSYS` before Linux 5.12.
///
/// Source: `mount_setattr(2)`.
pub(crate) fn set_access_times(mount: BorrowedFd<'_>, when: AccessTimes) -> io::Result<()> {
    /// `MOUNT_ATTR__ATIME`.
    const ALL: u64 = 0x70;
    let attr = MountAttr {
        set: match when {
            AccessTimes::Relative => 0,
            AccessTimes::Never => 0x10,
            AccessTimes::Strict => 0x20,
        },
        clear: ALL,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a literal with its NUL, the attributes are a live local of the size
    // that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
