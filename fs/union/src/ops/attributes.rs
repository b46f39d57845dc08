//! Looking names up, reading and setting attributes.

use std::sync::Arc;
use std::time::Instant;

use rrun_core::{Attr, Errno, FileType, NAME_MAX};
use rustix::fs::{self as rfs, XattrFlags};

use super::copy_up::Need;
use crate::acl;
use crate::meta::{OVERRIDE_STAT, Virtual};
use crate::node::{Node, State, Where};
use crate::options::IdStore;
use crate::types::{Entry, Ino, OnWrite, SetAttr, SetTime, SpaceInfo};
use crate::union::{Found, Union};
use crate::upper::{At, errno};

/// The locator of no lower node: no name has a NUL, and no number either.
const NO_LOWER: &[u8] = b"\0";

pub(crate) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_MAX {
        Err(Errno::ENAMETOOLONG)
    } else {
        Ok(())
    }
}

impl Union {
    /// Finds a name; counts a reference.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, Errno> {
        // The kernel asks so for a node it knows by number only, from a file handle: first by ".",
        // then, below overlayfs, by "/", the name of an entry of its cache that has none.
        if name != b"/" {
            check_name(name)?;
        }
        let found = match name {
            b"." | b"/" => self.find(parent)?,
            b".." => self.find(Ino(self.parent_id(&self.find(parent)?)))?,
            _ => self.find_child(parent, name)?.ok_or(Errno::ENOENT)?,
        };
        let entry = self.entry(&found)?;
        self.refer(entry.ino.0);
        Ok(entry)
    }

    /// The attributes of a file.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the number is unknown.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        Ok(self.shown(self.true_attr(&self.find(ino)?)?))
    }

    /// The number of the image layer a file comes from; `None` when it is in the upper directory.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the number is unknown.
    pub fn layer(&self, ino: Ino) -> Result<Option<u32>, Errno> {
        match self.find(ino)? {
            Found::Plain(node) => self.lower.layer(node).map(Some),
            Found::Own(node) => match (&node.lock().place, node.lower) {
                (Where::Lower, Some(lower)) => self.lower.layer(lower).map(Some),
                (Where::Lower | Where::Upper | Where::Pinned(_), _) => Ok(None),
            },
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is none.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let node = match self.find(ino)? {
            Found::Plain(lower) => return self.lower.readlink(lower),
            Found::Own(node) => node,
        };
        if node.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let state = node.lock();
        if matches!(state.place, Where::Lower) {
            return self.lower.readlink(node.lower.ok_or(Errno::EIO)?);
        }
        let at = self.at(&state)?;
        let disk = at.stat()?.attr;
        if disk.kind == FileType::Symlink {
            return at.readlink();
        }
        let mut target = vec![0; usize::try_from(disk.size).unwrap_or(0).min(4096)];
        let count = crate::fds::read_file(&at.open(false)?, 0, &mut target)?;
        target.truncate(count);
        Ok(target)
    }

    /// Space left where changes are written.
    ///
    /// # Errors
    ///
    /// Those of `statfs(2)`.
    pub fn statfs(&self) -> Result<SpaceInfo, Errno> {
        let Some(upper) = &self.upper else {
            return Ok(SpaceInfo {
                block_size: 4096,
                blocks: 0,
                blocks_free: 0,
                blocks_available: 0,
                files: 0,
                files_free: 0,
                name_max: 255,
            });
        };
        let st = rfs::fstatvfs(&upper.root).map_err(errno)?;
        Ok(SpaceInfo {
            block_size: u32::try_from(st.f_bsize).unwrap_or(4096),
            blocks: st.f_blocks,
            blocks_free: st.f_bfree,
            blocks_available: st.f_bavail,
            files: st.f_files,
            files_free: st.f_ffree,
            name_max: u32::try_from(st.f_namemax).unwrap_or(255).min(255),
        })
    }

    /// Changes attributes; returns the new ones.
    ///
    /// # Errors
    ///
    /// Those of `chmod(2)`, `chown(2)`, `truncate(2)` and `utimensat(2)`; the caller has checked
    /// permissions.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, Errno> {
        let found = self.find(ino)?;
        if let Some(attr) = self.forgotten_times(&found, set)? {
            return Ok(self.shown(attr));
        }
        let need = set.size.map_or(Need::Metadata, Need::Truncated);
        let only_mode = SetAttr {
            perm: set.perm,
            ..SetAttr::default()
        };
        let perm = set.perm.filter(|_| *set == only_mode);
        let (node, done) = self.copy_up_as(&found, need, perm.map(|perm| perm & 0o7777))?;
        if done {
            return Ok(self.shown(self.attr_of(&node, &node.lock())?));
        }
        if node.kind == FileType::Directory && set.size.is_some() {
            return Err(Errno::EISDIR);
        }
        if let Some(size) = set.size {
            self.truncate(&node, size)?;
        }
        let mut state = node.lock();
        let at = self.at(&state)?;
        let drops = set.effect != OnWrite::Keep;
        let kills = drops || set.size.is_some();
        if set.uid.is_some() || set.gid.is_some() || set.perm.is_some() || drops {
            self.set_owner(&node, &mut state, &at, set)?;
        }
        if kills || set.uid.is_some() || set.gid.is_some() {
            self.drop_capability(&mut state, &at)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            match (at.set_times(set.atime, set.mtime), set.atime) {
                // Of a file that may only grow the times may be set to now. The kernel, which
                // keeps the time of modification while it holds writes back, gives it in numbers.
                (Err(Errno::EPERM), Some(SetTime::Now)) => {
                    at.set_times(Some(SetTime::Now), Some(SetTime::Now))?;
                }
                (done, _) => done?,
            }
            if set.mtime.is_some() {
                state.dated = Some(Instant::now());
                if let Some((_, kept)) = &mut state.held {
                    *kept = Some(at.stat()?.attr.mtime);
                }
            }
        }
        Ok(self.shown(self.attr_of(&node, &state)?))
    }

    /// The kernel writes back the times of a lower file that was just unlinked. Nobody will read
    /// them from disk: they are not worth a copy.
    fn forgotten_times(&self, found: &Found, set: &SetAttr) -> Result<Option<Attr>, Errno> {
        let only_times = SetAttr {
            atime: set.atime,
            mtime: set.mtime,
            ..SetAttr::default()
        };
        let Found::Own(node) = found else {
            return Ok(None);
        };
        let state = node.lock();
        if *set != only_times || !state.unlinked || !matches!(state.place, Where::Lower) {
            return Ok(None);
        }
        let mut attr = self.attr_of(node, &state)?;
        for (to, from) in [(&mut attr.atime, set.atime), (&mut attr.mtime, set.mtime)] {
            if let Some(SetTime::At(time)) = from {
                *to = time;
            }
        }
        Ok(Some(attr))
    }

    fn truncate(&self, node: &Arc<Node>, size: u64) -> Result<(), Errno> {
        let source = self.source(&Found::Own(Arc::clone(node)), true)?;
        let (file, fill) = source.writable()?;
        rfs::ftruncate(file, size).map_err(errno)?;
        if let Some(fill) = fill
            && size < fill.valid()
        {
            fill.truncate(size);
            let state = node.lock();
            let at = self.at(&state)?;
            let upper = self.upper()?;
            if let Some(lower) = node.lower
                && let Ok(locator) = self.lower.locator(lower)
            {
                upper.marks.set_fill(&at, size, &locator)?;
            }
        }
        Ok(())
    }

    /// Sets owner and mode, with the side effects chown has on setuid bits and ACLs.
    fn set_owner(
        &self,
        node: &Node,
        state: &mut State,
        at: &At,
        set: &SetAttr,
    ) -> Result<(), Errno> {
        let attr = self.attr_of(node, state)?;
        let mut what = Virtual::of(&attr);
        what.uid = set.uid.unwrap_or(what.uid);
        what.gid = set.gid.unwrap_or(what.gid);
        if let Some(perm) = set.perm {
            what.perm = perm & 0o7777;
        }
        let chowned = set.uid.is_some() || set.gid.is_some();
        if node.kind != FileType::Directory && set.perm.is_none() {
            match set.effect {
                OnWrite::DropPrivileges { gid } => what.perm = after_write(&attr, gid),
                OnWrite::Keep if chowned => what.perm = without_set_id(what.perm),
                OnWrite::Keep => {}
            }
        }
        self.write_owner(state, at, &attr, &what)?;
        if set.perm.is_some() && node.kind != FileType::Symlink {
            self.chmod_acl(at, what.perm)?;
        }
        Ok(())
    }

    /// Records a file's new owner and mode.
    pub(crate) fn write_owner(
        &self,
        state: &mut State,
        at: &At,
        old: &Attr,
        what: &Virtual,
    ) -> Result<(), Errno> {
        match self.options.ids {
            IdStore::Real => {
                let uid = (what.uid != old.uid).then_some(what.uid);
                let gid = (what.gid != old.gid).then_some(what.gid);
                if uid.is_some() || gid.is_some() {
                    at.chown(uid, gid)?;
                }
                if (uid.is_some() || gid.is_some() || what.perm != old.perm)
                    && what.kind != FileType::Symlink
                {
                    at.chmod(what.perm)?;
                }
                Ok(())
            }
            IdStore::Virtual => self.write_pretend(state, at, what),
        }
    }

    fn write_pretend(&self, state: &mut State, at: &At, what: &Virtual) -> Result<(), Errno> {
        // Only these two are always kept as what they are.
        let disk = match what.kind {
            FileType::Regular | FileType::Directory => what.kind,
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => at.stat()?.attr.kind,
        };
        if disk == FileType::Symlink {
            if !what.is_plain() {
                self.symlink_to_file(state, at, what)?;
            }
            return Ok(());
        }
        let mut what = *what;
        if let Some(old) = state.pretend
            && old.kind.is_device()
            && what.kind == FileType::Regular
        {
            // a device made by record_device, still shown as the file it was
            (what.kind, what.rdev) = (old.kind, old.rdev);
        }
        if !what.is_plain() || state.pretend.is_some() {
            let text = what.encode();
            at.set_xattr(
                OVERRIDE_STAT.as_bytes(),
                text.as_bytes(),
                XattrFlags::empty(),
            )?;
            state.pretend = Some(what);
        }
        if disk == what.kind {
            at.chmod(what.disk_perm())?;
        }
        Ok(())
    }

    /// Lets a symbolic link that gets one more name be given an owner later: only while it has one
    /// name can it become a file that holds it.
    pub(crate) fn hold_attributes(
        &self,
        node: &Node,
        state: &mut State,
        at: &At,
    ) -> Result<(), Errno> {
        if self.options.ids == IdStore::Real
            || node.kind != FileType::Symlink
            || at.stat()?.attr.kind != FileType::Symlink
        {
            return Ok(());
        }
        let what = Virtual::of(&self.attr_of(node, state)?);
        match self.symlink_to_file(state, at, &what) {
            // An upper directory of before, or of another program, with several names already.
            Err(Errno::EOPNOTSUPP) => Ok(()),
            done => done,
        }
    }

    /// A symbolic link cannot hold the attribute: it becomes a regular file that says it is one.
    fn symlink_to_file(&self, state: &mut State, at: &At, what: &Virtual) -> Result<(), Errno> {
        let upper = self.upper()?;
        let At::Name(dir, name) = at else {
            return Err(Errno::EOPNOTSUPP);
        };
        let times = at.stat()?.attr;
        // Other names, also those not met yet, would keep the old file.
        if times.nlink > 1 + u32::from(state.indexed) {
            return Err(Errno::EOPNOTSUPP);
        }
        let temporary = upper.write_symlink_file(&at.readlink()?, what)?;
        let new = At::Name(Arc::clone(upper.work()?), temporary.clone().into());
        upper.marks.set_origin(&new, times.ino, NO_LOWER)?;
        // A link called like a whiteout was no regular file, and needed no mark, until now.
        upper.marks.set_plain(&new, name)?;
        state.kept_ino = Some(times.ino);
        new.set_times(
            Some(SetTime::At(times.atime)),
            Some(SetTime::At(times.mtime)),
        )?;
        let dir_at = At::Name(Arc::clone(dir), b".".as_slice().into());
        let before = dir_at.stat()?.attr;
        upper.place_temporary(
            &temporary,
            std::os::fd::AsFd::as_fd(dir),
            name,
            crate::upper::Place::Free,
        )?;
        dir_at.set_times(
            Some(SetTime::At(before.atime)),
            Some(SetTime::At(before.mtime)),
        )?;
        state.pretend = Some(*what);
        Ok(())
    }

    /// Keeps an access ACL in step with the mode, where the file system does not do it itself.
    fn chmod_acl(&self, at: &At, perm: u32) -> Result<(), Errno> {
        let upper = self.upper()?;
        if self.options.ids == IdStore::Real || !upper.may_have_acls() {
            return Ok(());
        }
        let name = upper.marks.disk_name(acl::ACCESS, true);
        let Some(value) = at.xattr(&name)? else {
            return Ok(());
        };
        let Some(mut acl) = acl::Acl::decode(&value) else {
            return Ok(());
        };
        acl.chmod(perm);
        at.set_xattr(&name, &acl.encode(), XattrFlags::empty())
    }

    /// Removes `security.capability`, as every change of contents or owner does.
    pub(crate) fn drop_capability(&self, state: &mut State, at: &At) -> Result<(), Errno> {
        if state.capable == Some(false) {
            return Ok(());
        }
        let virtual_ids = self.options.ids == IdStore::Virtual;
        let name = self
            .upper()?
            .marks
            .disk_name(b"security.capability", virtual_ids);
        match at.remove_xattr(&name) {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => {}
            Err(error) => return Err(error),
        }
        state.capable = Some(false);
        Ok(())
    }

    /// Drops setuid and setgid as a write by one of group `gid` without `CAP_FSETID` does.
    pub(crate) fn drop_set_id(
        &self,
        node: &Node,
        state: &mut State,
        at: &At,
        gid: u32,
    ) -> Result<(), Errno> {
        let attr = self.attr_of(node, state)?;
        let perm = after_write(&attr, gid);
        if perm == attr.perm {
            return Ok(());
        }
        let mut what = Virtual::of(&attr);
        what.perm = perm;
        self.write_owner(state, at, &attr, &what)
    }

    /// Records what a program in a container with one id asked for: owner or device.
    pub(crate) fn record(&self, ino: Ino, change: impl FnOnce(&mut Virtual)) -> Result<(), Errno> {
        let node = self.copy_up(&self.find(ino)?, Need::Metadata)?;
        let mut state = node.lock();
        let at = self.at(&state)?;
        let attr = self.attr_of(&node, &state)?;
        let mut what = Virtual::of(&attr);
        change(&mut what);
        if node.kind == FileType::Regular && (what.uid, what.gid) != (attr.uid, attr.gid) {
            what.perm = without_set_id(what.perm);
        }
        if self.options.ids == IdStore::Real {
            return self.write_owner(&mut state, &at, &attr, &what);
        }
        self.write_pretend(&mut state, &at, &what)
    }

    /// Answers from now on that files may have ACLs.
    pub(crate) fn note_acl(&self) {
        if let Some(upper) = &self.upper {
            upper.expect_acls();
        }
    }
}

/// Source: `chown(2)`, `inode(7)`: setgid goes only when the group may execute.
pub(crate) fn without_set_id(perm: u32) -> u32 {
    let perm = perm & !0o4000;
    if perm & 0o010 != 0 {
        perm & !0o2000
    } else {
        perm
    }
}

/// The mode after a write by one of group `gid` without `CAP_FSETID`.
///
/// Source: `setattr_should_drop_sgid` in `fs/attr.c`.
fn after_write(attr: &Attr, gid: u32) -> u32 {
    let perm = without_set_id(attr.perm);
    if gid == attr.gid {
        perm
    } else {
        perm & !0o2000
    }
}

impl Union {
    /// Drops setgid, as setting an ACL by one outside the group does.
    ///
    /// # Errors
    ///
    /// Those of `chmod(2)`.
    pub fn drop_setgid(&self, ino: Ino) -> Result<(), Errno> {
        let attr = self.true_attr(&self.find(ino)?)?;
        if attr.perm & 0o2000 == 0 {
            return Ok(());
        }
        let set = SetAttr {
            perm: Some(attr.perm & !0o2000),
            ..SetAttr::default()
        };
        self.setattr(ino, &set).map(|_| ())
    }
}
