//! Our own program file, out of reach of containers (CVE-2019-5736).
//!
//! A process of ours that is about to become a container's has this program as its
//! `/proc/PID/exe`. Where root runs containers without a user namespace, who gets hold of that
//! link in the container could write to the program. So such a process is started from a read-only
//! mount of the file, attached nowhere: the link leads there, and writing fails with `EROFS`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use crate::mounts;

/// What `/proc/PID/exe` of a program reads that was started from its sealed copy: the root of a
/// mount.
const SEALED_LINK: &str = "/";

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

/// Seals this program; `None` where that is not possible, or nothing is to be protected: another
/// user's processes cannot write to it from their user namespaces.
#[must_use]
pub fn program() -> Option<Sealed> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let file = mounts::copy_path(std::path::Path::new("/proc/self/exe")).ok()?;
    mounts::set_read_only(&file, false).ok()?;
    Some(Sealed(file))
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
