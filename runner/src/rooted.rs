//! Paths inside a container's root, resolved once to descriptors that never leave it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// Times a path is tried again when a rename raced with its resolution. Source: `openat2(2)`, `EAGAIN`.
const RACE_RETRIES_MAX: usize = 32;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path below `root` without leaving it; symbolic links stay inside too.
///
/// # Errors
///
/// Those of `openat2(2)`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), IN_ROOT) {
            Err(Errno::AGAIN | Errno::INTR) if tries < RACE_RETRIES_MAX => tries += 1,
            other => return Ok(other?),
        }
    }
}

/// Opens a directory below `root`, making what is missing of it with mode 0755.
///
/// # Errors
///
/// `ENOTDIR` when a part is something else; those of `mkdirat(2)`.
pub(crate) fn make_dirs(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, path, directory) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let mut seen = std::path::PathBuf::from("/");
    let mut current = open(root, Path::new("/"), directory)?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            if component == Component::ParentDir {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            continue;
        };
        seen.push(name);
        match open(root, &seen, directory) {
            Ok(fd) => current = fd,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                match mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                current = open(root, &seen, directory)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(current)
}

/// Opens the mount point for a file below `root`, making it and its parents when missing.
///
/// # Errors
///
/// As [`make_dirs`]; `EISDIR` when a directory is there.
pub(crate) fn make_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let parent = make_dirs(root, path.parent().ok_or_else(invalid)?)?;
    let name = path.file_name().ok_or_else(invalid)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open(root, path, OFlags::PATH)
}

/// Opens a top directory that must be a true directory, not a link; makes it when missing.
///
/// # Errors
///
/// `ENOTDIR` or `ELOOP` when the image has something else there.
pub(crate) fn top_dir(root: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(root, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            mkdirat(root, name, Mode::from_raw_mode(0o755))?;
            Ok(openat(root, name, flags, Mode::empty())?)
        }
        other => Ok(other?),
    }
}
