//! Decode, call the union, encode. One function per operation; no decisions.

use std::fs::File;

use rrun_core::{Errno, Time};
use rrun_union::{
    Caller, Entry, FlagRules, Ino, OnWrite, RenameMode, SetAttr, SetTime, SpaceMode, Union,
    WriteWhere, XattrMode,
};

use crate::negotiate::Session;
use crate::options::{OpenMode, ServeOptions};
use crate::passthrough::Passthrough;
use crate::wire::{Body, Reply, Request, decode_device, is_regular, op};

/// Whether the kernel waits for a reply.
pub(crate) enum Answer {
    /// It does; the body is in the reply unless this is an error.
    Reply(Result<(), Errno>),
    /// It does not.
    Silence,
}

/// `FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR`. Source: `include/uapi/linux/fuse.h`.
const KEEP_CACHE: u32 = (1 << 1) | (1 << 3);

/// `FOPEN_DIRECT_IO`. Source: as above.
const DIRECT_IO: u32 = 1;

struct Call<'a, 'b> {
    union: &'a Union,
    context: Context<'a>,
    ino: Ino,
    caller: Caller,
    body: Body<'b>,
    reply: &'a mut Reply,
    /// Called before the answer has to wait for a disk.
    waits: &'a mut dyn FnMut(),
}

/// What a connection is made of, as far as answers depend on it.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) union: &'a Union,
    pub(crate) options: &'a ServeOptions,
    pub(crate) session: Session,
    pub(crate) device: &'a File,
    pub(crate) passthrough: &'a Passthrough,
}

impl Context<'_> {
    /// Whether a file's attributes change without our doing.
    fn is_fleeting(&self, ino: Ino) -> bool {
        self.session.passthrough && self.passthrough.changes_by_itself(ino)
    }
}

pub(crate) fn dispatch(
    context: Context<'_>,
    request: &Request<'_>,
    reply: &mut Reply,
    waits: &mut dyn FnMut(),
) -> Answer {
    let (union, session) = (context.union, context.session);
    let caller = Caller {
        uid: request.uid,
        gid: request.gid,
        umask: 0,
    };
    let mut call = Call {
        union,
        context,
        ino: Ino(request.node),
        caller,
        body: request.body,
        reply,
        waits,
    };
    let result = match request.opcode {
        op::FORGET => {
            if let Ok(count) = call.body.u64() {
                union.forget(call.ino, count);
            }
            return Answer::Silence;
        }
        op::BATCH_FORGET => {
            call.batch_forget();
            return Answer::Silence;
        }
        op::INTERRUPT => return Answer::Silence,
        op::LOOKUP => call.lookup(),
        op::GETATTR => call.getattr(),
        op::SETATTR => call.setattr(),
        op::READLINK => call.readlink(),
        op::SYMLINK => call.symlink(),
        op::MKNOD => call.mknod(),
        op::MKDIR => call.mkdir(),
        op::UNLINK => call.by_name(Union::unlink),
        op::RMDIR => call.by_name(Union::rmdir),
        op::RENAME => call.rename(false),
        op::RENAME2 => call.rename(true),
        op::LINK => call.link(),
        op::OPEN | op::OPENDIR if context.options.open_mode == OpenMode::Silent => {
            Err(Errno::ENOSYS)
        }
        op::OPEN => call.open(),
        op::OPENDIR => {
            call.reply.open_out(KEEP_CACHE);
            Ok(())
        }
        op::READ => call.read(),
        op::WRITE => call.write(),
        op::STATFS => call.statfs(),
        op::RELEASE => call.release(),
        op::RELEASEDIR | op::DESTROY => Ok(()),
        op::FSYNC | op::FSYNCDIR => call.fsync(),
        op::SYNCFS => union.syncfs(),
        op::SETXATTR => call.setxattr(session),
        op::GETXATTR => call.getxattr(),
        op::LISTXATTR => call.listxattr(),
        op::REMOVEXATTR => call.by_name(Union::removexattr),
        op::READDIR => call.readdir(false),
        op::READDIRPLUS => call.readdir(true),
        op::FALLOCATE => call.fallocate(),
        op::LSEEK => call.lseek(),
        op::COPY_FILE_RANGE => call.copy_file_range(),
        op::TMPFILE => call.tmpfile(),
        op::STATX => call.statx(),
        op::IOCTL => call.ioctl(),
        // CREATE: the kernel then sends MKNOD, and needs no RELEASE. FLUSH, ACCESS and the rest
        // are asked once and then left out.
        _ => Err(Errno::ENOSYS),
    };
    Answer::Reply(result)
}

/// Offset and size of `struct fuse_read_in`, both in bytes.
pub(crate) fn read_place(mut body: Body<'_>) -> Result<(u64, usize), Errno> {
    body.skip(8)?;
    let offset = body.u64()?;
    let size = usize::try_from(body.u32()?).map_err(|_| Errno::EINVAL)?;
    Ok((offset, size))
}

impl Call<'_, '_> {
    fn batch_forget(&mut self) {
        let Ok(count) = self.body.u32() else { return };
        if self.body.skip(4).is_err() {
            return;
        }
        for _ in 0..count {
            let (Ok(node), Ok(lookups)) = (self.body.u64(), self.body.u64()) else {
                return;
            };
            self.union.forget(Ino(node), lookups);
        }
    }

    /// What takes a node and a name and answers nothing.
    fn by_name(
        &mut self,
        run: impl FnOnce(&Union, Ino, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        run(self.union, self.ino, self.body.name()?)
    }

    fn give(&mut self, entry: Result<Entry, Errno>) -> Result<(), Errno> {
        let entry = entry?;
        let fleeting = self.context.is_fleeting(entry.ino);
        self.reply.entry_out(&entry, fleeting);
        Ok(())
    }

    /// What a change of contents does to setuid and setgid bits. Where the protocol does not say
    /// whether the caller may keep them, root may and nobody else.
    fn effect(&self, kills: bool) -> OnWrite {
        if kills {
            OnWrite::DropPrivileges {
                gid: self.caller.gid,
            }
        } else {
            OnWrite::Keep
        }
    }

    fn lookup(&mut self) -> Result<(), Errno> {
        match self.union.lookup(self.ino, self.body.name()?) {
            Err(Errno::ENOENT) => {
                self.reply.no_entry();
                Ok(())
            }
            entry => self.give(entry),
        }
    }

    fn getattr(&mut self) -> Result<(), Errno> {
        let attr = self.union.getattr(self.ino)?;
        let fleeting = self.context.is_fleeting(self.ino);
        self.reply.attr_out(&attr, fleeting);
        Ok(())
    }

    fn statx(&mut self) -> Result<(), Errno> {
        let attr = self.union.getattr(self.ino)?;
        let fleeting = self.context.is_fleeting(self.ino);
        self.reply.statx_out(&attr, fleeting);
        Ok(())
    }

    /// `struct fuse_setattr_in`.
    fn setattr(&mut self) -> Result<(), Errno> {
        let valid = self.body.u32()?;
        self.body.skip(12)?;
        let size = self.body.u64()?;
        self.body.skip(8)?;
        let (atime, mtime) = (self.body.u64()?, self.body.u64()?);
        self.body.skip(8)?;
        let (atime_nanos, mtime_nanos) = (self.body.u32()?, self.body.u32()?);
        self.body.skip(4)?;
        let mode = self.body.u32()?;
        self.body.skip(4)?;
        let (uid, gid) = (self.body.u32()?, self.body.u32()?);
        let has = |bit: u32| valid & (1 << bit) != 0;
        let time = |set: u32, now: u32, secs: u64, nanos: u32| {
            if !has(set) {
                None
            } else if has(now) {
                Some(SetTime::Now)
            } else {
                Some(SetTime::At(Time {
                    secs: secs.cast_signed(),
                    nanos,
                }))
            }
        };
        // The kernel says so of every chown; that root keeps a setgid without execution, as in
        // chown(2), it leaves to us.
        let by_root = self.caller.uid == 0 && (has(1) || has(2)) && !has(3);
        let set = SetAttr {
            perm: has(0).then_some(mode & 0o7777),
            uid: has(1).then_some(uid),
            gid: has(2).then_some(gid),
            size: has(3).then_some(size),
            atime: time(4, 7, atime, atime_nanos),
            mtime: time(5, 8, mtime, mtime_nanos),
            effect: self.effect(has(11) && !by_root),
        };
        let attr = self.union.setattr(self.ino, &set)?;
        let fleeting = self.context.is_fleeting(self.ino);
        self.reply.attr_out(&attr, fleeting);
        Ok(())
    }

    fn readlink(&mut self) -> Result<(), Errno> {
        let target = self.union.readlink(self.ino)?;
        self.reply.raw(&target);
        Ok(())
    }

    fn symlink(&mut self) -> Result<(), Errno> {
        let name = self.body.name()?;
        let target = self.body.name()?;
        let entry = self.union.symlink(self.ino, name, target, &self.caller);
        self.give(entry)
    }

    fn mknod(&mut self) -> Result<(), Errno> {
        let mode = self.body.u32()?;
        let rdev = decode_device(self.body.u32()?);
        self.caller.umask = self.body.u32()?;
        self.body.skip(4)?;
        let name = self.body.name()?;
        let entry = self.union.mknod(self.ino, name, mode, rdev, &self.caller);
        self.give(entry)
    }

    fn mkdir(&mut self) -> Result<(), Errno> {
        let mode = self.body.u32()?;
        self.caller.umask = self.body.u32()?;
        let name = self.body.name()?;
        let entry = self.union.mkdir(self.ino, name, mode, &self.caller);
        self.give(entry)
    }

    /// `struct fuse_create_in`.
    fn tmpfile(&mut self) -> Result<(), Errno> {
        self.body.skip(4)?;
        let mode = self.body.u32()?;
        self.caller.umask = self.body.u32()?;
        if !is_regular(mode) {
            return Err(Errno::EINVAL);
        }
        let entry = self.union.tmpfile(self.ino, mode, &self.caller)?;
        if self.context.session.passthrough {
            self.context.passthrough.made(entry.ino);
        }
        self.give(Ok(entry))?;
        self.reply.open_out(KEEP_CACHE);
        Ok(())
    }

    fn rename(&mut self, long: bool) -> Result<(), Errno> {
        const NOREPLACE: u32 = 1;
        const EXCHANGE: u32 = 2;
        let to = Ino(self.body.u64()?);
        let mut mode = RenameMode::Replace;
        if long {
            mode = match self.body.u32()? {
                0 => RenameMode::Replace,
                NOREPLACE => RenameMode::NoReplace,
                EXCHANGE => RenameMode::Exchange,
                // RENAME_WHITEOUT: refused, as kernel overlayfs does.
                _ => return Err(Errno::EINVAL),
            };
            self.body.skip(4)?;
        }
        let from_name = self.body.name()?;
        let to_name = self.body.name()?;
        self.union
            .rename((self.ino, from_name), (to, to_name), mode)
    }

    fn link(&mut self) -> Result<(), Errno> {
        let from = Ino(self.body.u64()?);
        let name = self.body.name()?;
        let entry = self.union.link(from, self.ino, name);
        self.give(entry)
    }

    /// `struct fuse_open_in`.
    fn open(&mut self) -> Result<(), Errno> {
        const ACCESS_MODE: u32 = 3;
        /// `O_RDWR`.
        const READ_WRITE: u32 = 2;
        /// `O_APPEND`.
        const APPEND: u32 = 0o2000;
        /// `O_NOATIME`.
        const NO_ACCESS_TIME: u32 = 0o1_000_000;
        let flags = self.body.u32()?;
        if flags & ACCESS_MODE != 0 {
            let place = if flags & APPEND != 0 {
                WriteWhere::AtEnd
            } else {
                WriteWhere::Anywhere
            };
            if self.union.prepare_write(self.ino, place)? {
                // The cache writes whole pages, not what was added.
                self.reply.open_out(DIRECT_IO);
                return Ok(());
            }
        }
        let Context {
            device,
            passthrough,
            session,
            ..
        } = self.context;
        // What is read from the cache does not reach us. Who also writes may never read.
        if flags & ACCESS_MODE == 0
            && flags & NO_ACCESS_TIME == 0
            && self.union.accessed(self.ino) == Ok(true)
        {
            crate::seek::attributes_changed(device, self.ino)?;
        }
        let backing = session
            .passthrough
            .then(|| passthrough.open(device, self.union, self.ino));
        match backing.flatten() {
            Some(backing) => {
                // Who may read and write may do so by a mapping, which not even the kernel's FUSE
                // sees: what it knew before would stay.
                if flags & ACCESS_MODE == READ_WRITE
                    && let Err(error) = crate::seek::attributes_changed(device, self.ino)
                {
                    passthrough.release(device, self.ino)?;
                    return Err(error);
                }
                self.reply.open_out_passthrough(backing);
            }
            None => self.reply.open_out(KEEP_CACHE),
        }
        Ok(())
    }

    fn release(&self) -> Result<(), Errno> {
        if self.context.session.passthrough {
            self.context
                .passthrough
                .release(self.context.device, self.ino)?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Errno> {
        let (offset, size) = read_place(self.body)?;
        let space = self.reply.space(size);
        let count = self
            .union
            .read_telling(self.ino, offset, space, self.waits)?;
        self.reply.shrink(count);
        Ok(())
    }

    /// `struct fuse_write_in`.
    fn write(&mut self) -> Result<(), Errno> {
        const KILL_SUIDGID: u32 = 1 << 2;
        self.body.skip(8)?;
        let offset = self.body.u64()?;
        let size = self.body.u32()?;
        let flags = self.body.u32()?;
        self.body.skip(16)?;
        let data = self
            .body
            .bytes(usize::try_from(size).map_err(|_| Errno::EINVAL)?)?;
        let effect = self.effect(flags & KILL_SUIDGID != 0);
        let count = self.union.write(self.ino, offset, data, effect)?;
        self.reply.u32(u32::try_from(count).unwrap_or(0));
        self.reply.u32(0);
        Ok(())
    }

    /// `struct fuse_kstatfs`.
    fn statfs(&mut self) -> Result<(), Errno> {
        let space = self.union.statfs()?;
        self.reply.u64(space.blocks);
        self.reply.u64(space.blocks_free);
        self.reply.u64(space.blocks_available);
        self.reply.u64(space.files);
        self.reply.u64(space.files_free);
        self.reply.u32(space.block_size);
        self.reply.u32(space.name_max);
        self.reply.u32(space.block_size);
        self.reply.zeros(28);
        Ok(())
    }

    fn fsync(&mut self) -> Result<(), Errno> {
        self.body.skip(8)?;
        let data_only = self.body.u32()? & 1 != 0;
        self.union.fsync(self.ino, data_only)
    }

    fn setxattr(&mut self, session: Session) -> Result<(), Errno> {
        const ACL_KILL_SGID: u32 = 1;
        let size = usize::try_from(self.body.u32()?).map_err(|_| Errno::EINVAL)?;
        let flags = self.body.u32()?;
        let mut extra = 0;
        if session.setxattr_ext {
            extra = self.body.u32()?;
            self.body.skip(4)?;
        }
        let name = self.body.name()?;
        let value = self.body.bytes(size)?;
        let mode = match flags {
            0 => XattrMode::Set,
            1 => XattrMode::Create,
            2 => XattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        self.union.setxattr(self.ino, name, value, mode)?;
        if extra & ACL_KILL_SGID != 0 {
            self.union.drop_setgid(self.ino)?;
        }
        Ok(())
    }

    /// Answers a value, or its size when asked with size 0.
    fn value(&mut self, size: u32, value: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
        if size == 0 {
            self.reply.u32(len);
            self.reply.u32(0);
            return Ok(());
        }
        if len > size {
            return Err(Errno::ERANGE);
        }
        self.reply.raw(value);
        Ok(())
    }

    fn getxattr(&mut self) -> Result<(), Errno> {
        let size = self.body.u32()?;
        self.body.skip(4)?;
        let value = self.union.getxattr(self.ino, self.body.name()?)?;
        self.value(size, &value)
    }

    fn listxattr(&mut self) -> Result<(), Errno> {
        let size = self.body.u32()?;
        let mut list = Vec::new();
        for name in self.union.listxattr(self.ino)? {
            list.extend_from_slice(&name);
            list.push(0);
        }
        self.value(size, &list)
    }

    fn readdir(&mut self, plus: bool) -> Result<(), Errno> {
        self.body.skip(8)?;
        let cookie = self.body.u64()?;
        let limit = usize::try_from(self.body.u32()?).map_err(|_| Errno::EINVAL)?;
        let (reply, context) = (&mut *self.reply, self.context);
        self.union.readdir(self.ino, cookie, plus, &mut |listed| {
            let entry = listed.entry.as_ref();
            let fleeting = entry.is_some_and(|entry| context.is_fleeting(entry.ino));
            reply.dirent(listed, plus.then_some(fleeting), limit)
        })
    }

    fn fallocate(&mut self) -> Result<(), Errno> {
        const KEEP_SIZE: u32 = 0x01;
        self.body.skip(8)?;
        let (offset, len) = (self.body.u64()?, self.body.u64()?);
        let mode = match self.body.u32()? {
            0 => SpaceMode::Reserve,
            KEEP_SIZE => SpaceMode::ReserveKeepSize,
            0x03 => SpaceMode::PunchHole,
            0x08 => SpaceMode::Collapse,
            0x10 => SpaceMode::Zero,
            0x11 => SpaceMode::ZeroKeepSize,
            0x20 => SpaceMode::Insert,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let effect = self.effect(self.caller.uid != 0);
        self.union.fallocate(self.ino, offset, len, mode, effect)
    }

    fn ioctl(&mut self) -> Result<(), Errno> {
        // What the kernel holds back would be refused when it comes.
        let rules = match self.context.options.open_mode {
            OpenMode::KeepCache | OpenMode::Passthrough if !self.context.session.writeback => {
                FlagRules::All
            }
            OpenMode::Silent | OpenMode::KeepCache | OpenMode::Passthrough => FlagRules::Harmless,
        };
        let changed = crate::flags::ioctl(
            self.union,
            self.ino,
            &self.caller,
            rules,
            self.body,
            self.reply,
        )?;
        if changed {
            // The kernel does not expect the time of change to change by this.
            crate::seek::attributes_changed(self.context.device, self.ino)?;
        }
        Ok(())
    }

    fn lseek(&mut self) -> Result<(), Errno> {
        let (offset, what) = crate::seek::arguments(self.body)?;
        let found = self.union.seek(self.ino, offset, what)?;
        self.reply.u64(found);
        Ok(())
    }

    /// `struct fuse_copy_file_range_in`.
    fn copy_file_range(&mut self) -> Result<(), Errno> {
        self.body.skip(8)?;
        let from = self.body.u64()?;
        let to_ino = Ino(self.body.u64()?);
        self.body.skip(8)?;
        let (to, len) = (self.body.u64()?, self.body.u64()?);
        let effect = self.effect(self.caller.uid != 0);
        let count = self
            .union
            .copy_range((self.ino, from), (to_ino, to), len, effect)?;
        self.reply.u32(u32::try_from(count).unwrap_or(0));
        self.reply.u32(0);
        Ok(())
    }
}
