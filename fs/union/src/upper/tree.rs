//! Removing whole trees.

use std::os::fd::{AsFd, BorrowedFd};

use rrun_core::Errno;
use rustix::fs::{self as rfs, AtFlags};

use super::{Upper, errno, read_names};

/// Deepest tree removed by recursion; deeper ones are first lifted to the top of the work
/// directory. Small, because a server thread's stack is.
const REMOVE_DEPTH_MAX: u32 = 64;

/// Removes `name` and everything below it.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8], depth: u32) -> Result<(), Errno> {
    match rfs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(errno(error)),
    }
    match rfs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(errno(error)),
    }
    let own = Upper::open_dir(dir, name)?;
    let mut names = Vec::new();
    read_names(own.as_fd(), |entry, _| {
        names.push(entry.to_vec());
        Ok(())
    })?;
    for (number, entry) in names.iter().enumerate() {
        if depth < REMOVE_DEPTH_MAX {
            remove_tree(own.as_fd(), entry, depth + 1)?;
        } else {
            let lifted = [name, b".", number.to_string().as_bytes()].concat();
            let lifted = &lifted[lifted.len().saturating_sub(rrun_core::NAME_MAX)..];
            rfs::renameat(&own, &**entry, dir, lifted).map_err(errno)?;
            remove_tree(dir, lifted, 0)?;
        }
    }
    rfs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(errno)
}
