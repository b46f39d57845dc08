//! Mounting by descriptor: detached mounts, attached to resolved places.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

/// `MOUNT_ATTR_RDONLY` for [`sys::mount_setattr`].
pub(crate) const READ_ONLY: u64 = 0x1;

/// `MOUNT_ATTR_NODEV` for [`sys::mount_setattr`].
const NO_DEVICES: u64 = 0x4;

/// Attributes of a pseudo file system: no devices, no set-user-ID, no programs.
pub(crate) const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes a new file system, mounted nowhere yet.
///
/// # Errors
///
/// Those of `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`.
pub(crate) fn new(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Attaches a detached mount onto what `target` refers to.
///
/// # Errors
///
/// Those of `move_mount(2)`.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Makes a detached copy of what is at `fd`, with all mounts below it when `recursive`.
///
/// # Errors
///
/// Those of `open_tree(2)`.
pub(crate) fn copy(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(fd, "", flags)?)
}

/// Makes a detached copy of a host path, with all mounts below it. Locked flags stay.
///
/// # Errors
///
/// Those of `open_tree(2)`.
pub(crate) fn copy_path(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Keeps what is mounted at `fd`, a device of the host, from being executed.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub(crate) fn set_device(fd: impl AsFd) -> io::Result<()> {
    let bits = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let change = sys::MountChange {
        set: bits.bits().into(),
        ..sys::MountChange::default()
    };
    sys::mount_setattr(fd.as_fd(), change, false)
}

/// Makes the mount at `fd`, and those below it when `recursive`, read-only.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub(crate) fn set_read_only(fd: impl AsFd, recursive: bool) -> io::Result<()> {
    let change = sys::MountChange {
        set: READ_ONLY,
        ..sys::MountChange::default()
    };
    sys::mount_setattr(fd.as_fd(), change, recursive)
}

/// Makes device nodes unusable on the mount at `fd` and those below it.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub(crate) fn bar_devices(fd: impl AsFd) -> io::Result<()> {
    let change = sys::MountChange {
        set: NO_DEVICES,
        ..sys::MountChange::default()
    };
    sys::mount_setattr(fd.as_fd(), change, true)
}

/// Changes how mounts spread to and from the mount at `fd` and those below it: `MS_*` bit.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub(crate) fn set_propagation(fd: impl AsFd, propagation: u64) -> io::Result<()> {
    let change = sys::MountChange {
        propagation,
        ..sys::MountChange::default()
    };
    sys::mount_setattr(fd.as_fd(), change, true)
}

/// Splits `mount -o` words into mount attributes and file system options.
pub(crate) fn split_options(words: &[String]) -> (MountAttrFlags, Vec<(&str, &str)>, bool) {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mut options = Vec::new();
    let mut read_only = false;
    for word in words
        .iter()
        .flat_map(|words| words.split(','))
        .filter(|word| !word.is_empty())
    {
        match word {
            "ro" => read_only = true,
            "rw" | "relatime" | "strictatime" | "async" => {}
            "exec" => attributes -= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "suid" => attributes -= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "dev" => attributes -= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            other => options.push(other.split_once('=').unwrap_or((other, ""))),
        }
    }
    (attributes, options, read_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_words_become_attributes_or_options() {
        let words = [
            "size=64m,exec".to_owned(),
            "ro".to_owned(),
            "mode=1777".to_owned(),
        ];
        let (attributes, options, read_only) = split_options(&words);
        assert!(read_only && !attributes.contains(MountAttrFlags::MOUNT_ATTR_NOEXEC));
        assert!(attributes.contains(MountAttrFlags::MOUNT_ATTR_NOSUID));
        assert_eq!(options, [("size", "64m"), ("mode", "1777")]);
    }
}
