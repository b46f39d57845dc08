//! Mounting the root of a container to be.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountAttrFlags, UnmountFlags};

use crate::error::{Failure, Step as _};
use crate::init::Line;
use crate::overlay::{self, Dialect, Manner};
use crate::plan::{DeviceNodes, RootSource};
use crate::{channel, mounts};

/// The directory in the container directory on which the root is mounted, in init's namespace.
pub(crate) const MOUNT_POINT: &str = "root";
/// The directories in the container directory that take the writes.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// Mounts what `source` says on the mount point in the container's directory, where we are.
pub(crate) fn mount(
    source: &RootSource,
    nodes: DeviceNodes,
    line: &Line<'_>,
) -> Result<OwnedFd, Failure> {
    let mount = match source {
        RootSource::Dir(path) => mounts::copy_path(path)
            .step(format_args!("use the root directory {}", path.display()))?,
        RootSource::Fuse => mount_fuse(server(line)?, Access::Write)?,
        RootSource::Overlay(dialect) => mount_overlay(server(line)?, *dialect)?,
    };
    if nodes == DeviceNodes::Barred {
        mounts::bar_devices(&mount).step("bar device nodes")?;
    }
    attach_root(&mount)?;
    Ok(mount)
}

fn server<'a>(line: &Line<'a>) -> Result<BorrowedFd<'a>, Failure> {
    line.server
        .ok_or_else(|| Failure::setup("no file-system server was started"))
}

/// Puts a mount on the mount point in the container's directory, where we are.
pub(crate) fn attach_root(mount: &OwnedFd) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let point = openat(CWD, MOUNT_POINT, flags, Mode::empty()).step("open the mount point")?;
    mounts::attach(mount.as_fd(), point.as_fd()).step("attach the root")
}

/// Mounts the kernel's overlayfs on what the server reads. The overlay holds a view of the server's
/// mount for itself, so that one need not stay where it was found.
pub(crate) fn mount_overlay(server: BorrowedFd<'_>, dialect: Dialect) -> Result<OwnedFd, Failure> {
    let tree = mount_fuse(server, Access::Read)?;
    attach_root(&tree)?;
    let mount = overlay::mount([MOUNT_POINT, UPPER, WORK], dialect, Manner::PLAIN)
        .step("mount the kernel's overlayfs (--fs-mode fuse does without)")?;
    rustix::mount::unmount(MOUNT_POINT, UnmountFlags::DETACH).step("take the tree below away")?;
    Ok(mount)
}

/// What a file system is mounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

fn mount_fuse(server: BorrowedFd<'_>, access: Access) -> Result<OwnedFd, Failure> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .step("open /dev/fuse (the kernel module must be loaded and the device writable)")?;
    let number = device.as_raw_fd().to_string();
    // Ids that exist here; the kernel lets this user ask alone, but for `allow_other`.
    let uid = rustix::process::getuid().as_raw().to_string();
    let gid = rustix::process::getgid().as_raw().to_string();
    let mut options = vec![
        ("source", "rrun"),
        ("fd", number.as_str()),
        ("rootmode", "40000"),
        ("user_id", uid.as_str()),
        ("group_id", gid.as_str()),
        ("allow_other", ""),
        ("default_permissions", ""),
    ];
    if access == Access::Read {
        options.push(("ro", ""));
    }
    let mount =
        mounts::new("fuse", &options, MountAttrFlags::empty()).step("mount the file system")?;
    // The server looks up in it where the askers run; refused below a masked /proc.
    let procfs = mounts::new("proc", &[], mounts::INERT).ok();
    let mut fds = vec![device.as_fd()];
    fds.extend(procfs.as_ref().map(AsFd::as_fd));
    channel::send_bytes(server, b"fuse", &fds).step("hand the file system to its server")?;
    Ok(mount)
}
