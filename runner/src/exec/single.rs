//! Another user than the one whose id is the only one of a container.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::error::{Failure, Step as _};
use crate::plan::ProcessSpec;
use crate::{process, sys};

/// Opens the host's `/proc`, for [`become_user`].
///
/// # Errors
///
/// Those of `open(2)`.
pub(super) fn open_procfs() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, "/proc", flags, Mode::empty())?)
}

/// Makes this process, which has joined a container with a single id, the user that `spec` names,
/// when that is another: in a user namespace below the container's, in which the same id has that
/// user's number. What it makes belongs to the container's id.
///
/// To be called before the process that can be seen inside is made: for a moment this one can be
/// looked at, or it could not write its own map.
///
/// # Errors
///
/// When there is no such user, or no further user namespace.
///
/// Source: `user_namespaces(7)`, "Defining user and group ID mappings".
pub(super) fn become_user(spec: &ProcessSpec, procfs: &OwnedFd) -> Result<(), Failure> {
    let identity = process::identify(spec)?;
    let (uid, gid) = process::own_ids();
    if (uid, gid) == (identity.uid, identity.gid) {
        return Ok(());
    }
    sys::unshare(sys::CLONE_NEWUSER).step("make a user namespace for another user")?;
    set_dumpable_behavior(DumpableBehavior::Dumpable).step("reach the maps")?;
    let written = write_maps(procfs, (identity.uid, uid), (identity.gid, gid));
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("protect the process")?;
    written.step("write the maps of another user")
}

/// Writes the maps of the current user namespace: of users and groups, the id inside and the one
/// in the namespace above.
fn write_maps(procfs: &OwnedFd, uids: (u32, u32), gids: (u32, u32)) -> io::Result<()> {
    for (file, text) in [
        ("self/setgroups", "deny".to_owned()),
        ("self/uid_map", format!("{} {} 1\n", uids.0, uids.1)),
        ("self/gid_map", format!("{} {} 1\n", gids.0, gids.1)),
    ] {
        let file = openat(
            procfs,
            file,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::io::write(&file, text.as_bytes())?;
    }
    Ok(())
}
