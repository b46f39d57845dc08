//! Mounting, where we may.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::server::Connection;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

/// A mounted connection: unmounts when dropped.
#[derive(Debug)]
pub struct Mountpoint {
    path: PathBuf,
    device: OwnedFd,
}

/// How a mount appears.
fn data(device: &OwnedFd) -> String {
    let fd = device.as_raw_fd();
    let ids = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    format!(
        "fd={fd},rootmode=40000,user_id={},group_id={},allow_other,default_permissions",
        ids.0, ids.1
    )
}

/// Opens `/dev/fuse` and mounts it on `path` with `mount(2)`: needs `CAP_SYS_ADMIN` in the user
/// namespace that owns the mount namespace. `name` shows as the source, `rrun` as the subtype;
/// `flags` are those of `mount(2)`, such as `MS_RDONLY` and `MS_NOSUID`.
///
/// # Errors
///
/// `EPERM` without the capability; `ENOENT` without `/dev/fuse`; those of `mount(2)`.
pub fn mount(path: &Path, name: &str, flags: MountFlags) -> io::Result<Mountpoint> {
    let access = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", access, Mode::empty())?;
    let text = std::ffi::CString::new(data(&device))?;
    rustix::mount::mount(name, path, "fuse.rrun", flags, &*text)?;
    Ok(Mountpoint {
        path: path.to_owned(),
        device,
    })
}

impl Mountpoint {
    /// The connection, to be given to [`serve`](crate::serve).
    ///
    /// # Errors
    ///
    /// `EMFILE`.
    pub fn connection(&self) -> io::Result<Connection> {
        let device = self.device.as_fd().try_clone_to_owned()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Connection {
            device: File::from(device),
            proc: rustix::fs::open("/proc", flags, Mode::empty()).ok(),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the mount in place: it goes with its namespace or by hand.
    pub fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // It may be gone already.
            let _gone = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}
