//! Our own program file, out of reach of containers (CVE-2019-5736).
//!
//! A process of ours that is about to become a container's has this program as its
//! `/proc/PID/exe`. Who gets hold of that link in the container could write to the program, or
//! change its mode, where the file is that of the container's root: where root runs containers
//! without a user namespace, and where a user runs a program of their own. So such a process is
//! started from a read-only mount of the file, attached nowhere: the link leads there, and both
//! fail with `EROFS`.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, Stat};
use rustix::process::{WaitOptions, waitpid};

use crate::{mounts, sys};

/// What `/proc/PID/exe` of a program reads that was started from its sealed copy: the root of a
/// mount.
const SEALED_LINK: &str = "/";
/// The way to the program that no upgrade of its file changes.
const OWN_LINK: &str = "/proc/self/exe";
/// What a process that sealed the program ends with when it could not.
const NOT_SEALED: i32 = 255;

/// This program's file on a read-only mount of its own.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Where this process can execute it; children that were not started by this very process
    /// cannot.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Seals this program; `None` where that is not possible, or nothing is to be protected: a file
/// that is neither this user's nor writable for them is out of reach of their user namespaces.
///
/// To be called while this process has one thread.
#[must_use]
pub fn program() -> Option<Sealed> {
    if rustix::process::geteuid().is_root() {
        let file = mounts::copy_path(Path::new(OWN_LINK)).ok()?;
        mounts::set_read_only(&file, false).ok()?;
        return Some(Sealed(file));
    }
    let known = rustix::fs::stat(OWN_LINK).ok()?;
    let ours = known.st_uid == rustix::process::geteuid().as_raw();
    let writable = || rustix::fs::accessat(CWD, OWN_LINK, Access::WRITE_OK, AtFlags::EACCESS);
    if !ours && writable().is_err() {
        return None;
    }
    elsewhere(&std::fs::read_link(OWN_LINK).ok()?, &known)
}

/// Has the program sealed by a process in namespaces of its own, where an ordinary user may copy
/// mounts. It shares our table of descriptors, and ends with the number of the mount's.
fn elsewhere(path: &Path, known: &Stat) -> Option<Sealed> {
    let path = rustix::path::Arg::into_c_str(path).ok()?;
    match sys::fork(sys::CLONE_NEWUSER | sys::CLONE_NEWNS | sys::CLONE_FILES).ok()? {
        sys::Fork::Child => sys::exit_now(read_only_copy(&path, known).unwrap_or(NOT_SEALED)),
        sys::Fork::Parent(pid) => {
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).ok()??;
            let number = status.exit_status().filter(|code| *code != NOT_SEALED)?;
            sys::inherited(number).ok().map(Sealed)
        }
    }
}

/// A read-only mount of the file at `path`, if it is the `known` one: found by its path, since a
/// descriptor from before leads to the mount namespace of before. Makes system calls alone.
fn read_only_copy(path: &std::ffi::CStr, known: &Stat) -> Option<i32> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let found = rustix::fs::fstat(&file).ok()?;
    if (found.st_dev, found.st_ino) != (known.st_dev, known.st_ino) {
        return None;
    }
    let copy = mounts::copy(file.as_fd(), false).ok()?;
    mounts::set_read_only(&copy, false).ok()?;
    (copy.as_raw_fd() < NOT_SEALED).then(|| copy.into_raw_fd())
}

/// Gives a process back its name, which was that of a descriptor.
pub fn take_name() {
    let _unnamed = rustix::thread::set_name(c"rrun");
}

/// Whether this process runs from a sealed copy already.
#[must_use]
pub fn is_sealed() -> bool {
    std::fs::read_link("/proc/self/exe").is_ok_and(|link| link.as_os_str() == SEALED_LINK)
}
