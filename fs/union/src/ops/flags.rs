//! Inode flags, as chattr(1) sets them: kept by the upper file system, which also obeys them.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rrun_core::{Errno, FileType};
use rustix::fs::{self as rfs, IFlags};

use super::copy_up::Need;
use crate::fds::Source;
use crate::node::{Node, Where};
use crate::sys::{self, FSXATTR};
use crate::types::{Caller, FlagRules, Ino};
use crate::union::{Found, Union};
use crate::upper::errno;

/// `FS_IMMUTABLE_FL | FS_APPEND_FL`: what keeps others from changing a file.
const PROTECTING: u32 = 0x10 | 0x20;
/// The same in `struct fsxattr`: `FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND`.
const X_PROTECTING: u32 = 0x08 | 0x10;
/// `FS_EXTENT_FL | FS_INDEX_FL | FS_HUGE_FILE_FL | FS_INLINE_DATA_FL`: how the upper file system
/// stores the file, not what anybody wants of it.
const STORAGE: u32 = 0x8_0000 | 0x1000 | 0x4_0000 | 0x1000_0000;

impl Union {
    /// The flags that `FS_IOC_GETFLAGS` reads.
    ///
    /// # Errors
    ///
    /// `ENOTTY` for what is neither a regular file nor a directory, and where the file system
    /// keeps no flags.
    pub fn flags(&self, ino: Ino) -> Result<u32, Errno> {
        match self.flagged(&self.find(ino)?)? {
            Some(file) => Ok(rfs::ioctl_getflags(&*file).map_err(errno)?.bits()),
            None => Ok(0),
        }
    }

    /// Sets them as `caller`.
    ///
    /// # Errors
    ///
    /// `EPERM` for one who may not; `EOPNOTSUPP` for flags that `rules` exclude or the upper file
    /// system does not know.
    pub fn set_flags(
        &self,
        ino: Ino,
        flags: u32,
        caller: &Caller,
        rules: FlagRules,
    ) -> Result<(), Errno> {
        let found = self.find(ino)?;
        let old = self.flags(ino)?;
        self.may_flag(&found, (old ^ flags) & PROTECTING != 0, caller, rules)?;
        self.flag(&found, flags & PROTECTING != 0, |file| {
            let now = rfs::ioctl_getflags(file).map_err(errno)?.bits();
            let wanted = (flags & !STORAGE) | (now & STORAGE);
            if wanted == now {
                return Ok(());
            }
            rfs::ioctl_setflags(file, IFlags::from_bits_retain(wanted)).map_err(errno)
        })
    }

    /// What `FS_IOC_FSGETXATTR` reads: a `struct fsxattr`.
    ///
    /// # Errors
    ///
    /// As [`Union::flags`].
    pub fn extended_flags(&self, ino: Ino) -> Result<[u8; FSXATTR], Errno> {
        match self.flagged(&self.find(ino)?)? {
            Some(file) => Ok(sys::get_fsxattr(file.as_fd())?),
            None => Ok([0; FSXATTR]),
        }
    }

    /// Sets it as `caller`.
    ///
    /// # Errors
    ///
    /// As [`Union::set_flags`].
    pub fn set_extended_flags(
        &self,
        ino: Ino,
        value: &[u8; FSXATTR],
        caller: &Caller,
        rules: FlagRules,
    ) -> Result<(), Errno> {
        let found = self.find(ino)?;
        let changed = x_flags(&self.extended_flags(ino)?) ^ x_flags(value);
        self.may_flag(&found, changed & X_PROTECTING != 0, caller, rules)?;
        let protects = x_flags(value) & X_PROTECTING != 0;
        self.flag(&found, protects, |file| {
            Ok(sys::set_fsxattr(file.as_fd(), value)?)
        })
    }

    /// The kernel has asked the same since 5.13; before, it passed on whatever a program sent.
    fn may_flag(
        &self,
        found: &Found,
        protecting: bool,
        caller: &Caller,
        rules: FlagRules,
    ) -> Result<(), Errno> {
        self.upper()?;
        let owner = self.shown(self.true_attr(found)?).uid;
        match (caller.uid, protecting, rules) {
            (0, false, _) | (0, true, FlagRules::All) => Ok(()),
            (0, true, FlagRules::Harmless) => Err(Errno::EOPNOTSUPP),
            (uid, false, _) if uid == owner => Ok(()),
            (_, _, _) => Err(Errno::EPERM),
        }
    }

    /// The file whose flags are asked for; `None` when there is only a lower directory.
    fn flagged(&self, found: &Found) -> Result<Option<Arc<File>>, Errno> {
        match self.kind(found)? {
            FileType::Regular => match &*self.source(found, false)? {
                Source::Upper { file, .. } | Source::Guarded { file, .. } => {
                    Ok(Some(Arc::clone(file)))
                }
                source @ Source::Lower { .. } => match source.whole() {
                    Some(file) => Ok(Some(Arc::new(file.try_clone()?))),
                    None => Ok(None),
                },
            },
            FileType::Directory => {
                let Found::Own(node) = found else {
                    return Ok(None);
                };
                self.flagged_dir(node)
            }
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => Err(Errno::ENOTTY),
        }
    }

    fn flagged_dir(&self, node: &Node) -> Result<Option<Arc<File>>, Errno> {
        let state = node.lock();
        if matches!(state.place, Where::Lower) {
            return Ok(None);
        }
        let dir = self.dir_fd_in(node, &state)?;
        Ok(Some(Arc::new(File::from(dir.try_clone()?))))
    }

    /// Brings a file up, complete if it will be protected, and changes its flags.
    fn flag(
        &self,
        found: &Found,
        protects: bool,
        change: impl FnOnce(&File) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let node = self.copy_up(found, Need::Metadata)?;
        let found = Found::Own(Arc::clone(&node));
        if protects && node.kind == FileType::Regular {
            // Missing contents could not be brought any more.
            self.bring_all(&node)?;
        }
        let file = self.flagged(&found)?.ok_or(Errno::EIO)?;
        let _still = node.lock();
        change(&file)?;
        // How it is open depends on the flags.
        self.fds.remove(node.id);
        Ok(())
    }
}

fn x_flags(value: &[u8; FSXATTR]) -> u32 {
    let [a, b, c, d, ..] = *value;
    u32::from_le_bytes([a, b, c, d])
}
