//! Device nodes in the container's own `/dev`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};

use crate::mounts;

pub(super) fn make(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    let device = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device) {
        Err(rustix::io::Errno::PERM) => bind(dev, name, major, minor),
        other => Ok(other?),
    }
}

/// Makes device nodes unusable in a directory of our own but for these, each of which becomes a
/// mount of its own on itself. They are the container's, not the host's: their modes and owners may
/// be changed inside.
pub(super) fn only_these<'n>(
    dev: &OwnedFd,
    names: impl Iterator<Item = &'n str>,
) -> io::Result<()> {
    let mut copies = Vec::new();
    for name in names {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat(dev, name, flags, Mode::empty())?;
        copies.push((mounts::copy(node.as_fd(), false)?, node));
    }
    mounts::bar_devices(dev)?;
    for (copy, node) in &copies {
        mounts::attach(copy.as_fd(), node.as_fd())?;
    }
    Ok(())
}

pub(super) fn bind(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(CWD, Path::new("/dev").join(name), flags, Mode::empty())?;
    check(&source, major, minor)?;
    let copy = mounts::copy(source.as_fd(), false)?;
    mounts::set_device(&copy)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(dev, name, flags, Mode::from_raw_mode(0o666))?);
    let point = openat(dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mounts::attach(copy.as_fd(), point.as_fd())
}

pub(super) fn check(fd: &OwnedFd, want_major: u32, want_minor: u32) -> io::Result<()> {
    let stat = fstat(fd)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if device && major(stat.st_rdev) == want_major && minor(stat.st_rdev) == want_minor {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
}
