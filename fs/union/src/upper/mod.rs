//! The upper directory on disk: one function per thing done to it. Knows no lower tree.
//!
//! Everything is addressed by a directory descriptor and one name, or by a descriptor alone;
//! symbolic links are never followed.

mod create;
mod marks;
mod open;
mod reap;
mod tree;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rrun_core::{Attr, Device, Errno, FileType, Time};
use rustix::fs::{
    self as rfs, AtFlags, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps,
};

pub(crate) use create::Place;
pub(crate) use marks::{Marks, is_internal, is_opaque, redirect};
pub(crate) use open::copy_mount;
pub(crate) use tree::remove_tree;

use self::reap::Reaper;
use crate::options::IdStore;
use crate::types::SetTime;

/// Set on `st_ino` of files born in the upper directory, so that they never equal a lower one.
const UPPER_INO: u64 = 1 << 56;
/// Most bytes of one extended attribute. Source: `xattr(7)`, `XATTR_SIZE_MAX`.
pub(crate) const XATTR_SIZE_MAX: usize = 65_536;

/// The upper directory and its work directory.
#[derive(Debug)]
pub(crate) struct Upper {
    pub(crate) root: Arc<OwnedFd>,
    /// `None` when read-only.
    work: Option<Arc<OwnedFd>>,
    /// As `work`.
    reaper: Option<Reaper>,
    /// Whom new files on disk belong to.
    own_ids: (u32, u32),
    /// Hard-link groups that were copied up: one link each, named by the lower `st_ino`.
    index: Option<Arc<OwnedFd>>,
    pub(crate) marks: Marks,
    pub(crate) ids: IdStore,
    next_temporary: AtomicU64,
    has_tmpfile: AtomicBool,
    /// Whether a descriptor alone may be linked to a name here.
    links_descriptors: AtomicBool,
    char_whiteouts: AtomicBool,
    /// Whether any file may have an ACL; false saves a question at every create.
    acls: AtomicBool,
    pub(crate) sparse: bool,
    /// Whether a directory that is swapped with a whiteout, or leaves one, gets a new time of
    /// modification, as on XFS.
    pub(crate) moves_touch: bool,
}

/// How an object in the upper directory is reached.
#[derive(Debug, Clone)]
pub(crate) enum At {
    /// By its name in a directory.
    Name(Arc<OwnedFd>, Box<[u8]>),
    /// By a descriptor: it has no name any more, or not yet.
    Fd(Arc<File>),
}

/// What stat says of an object on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskStat {
    pub(crate) attr: Attr,
    /// `st_ino` on disk.
    pub(crate) disk_ino: u64,
    /// Another file system, or part of one, is mounted here.
    pub(crate) mount_root: bool,
}

impl DiskStat {
    pub(crate) fn is_whiteout(&self) -> bool {
        self.attr.kind == FileType::CharDevice && self.attr.rdev == Device::default()
    }
}

pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

fn mode(perm: u32) -> Mode {
    Mode::from_bits_truncate(perm)
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Now => Timespec {
            tv_sec: 0,
            tv_nsec: rfs::UTIME_NOW,
        },
        SetTime::At(Time { secs, nanos }) => Timespec {
            tv_sec: secs,
            tv_nsec: i64::from(nanos),
        },
    }
}

const OMIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: rfs::UTIME_OMIT,
};

/// Reads what stat(2) tells of `name` in `dir` (of `dir` itself for an empty name).
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<DiskStat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let st = rfs::statx(
        dir,
        name,
        flags,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )
    .map_err(errno)?;
    let time = |t: rfs::StatxTimestamp| Time {
        secs: t.tv_sec,
        nanos: t.tv_nsec,
    };
    let kind = FileType::from_mode(u32::from(st.stx_mode)).ok_or(Errno::EIO)?;
    let attr = Attr {
        ino: st.stx_ino | UPPER_INO,
        kind,
        perm: u32::from(st.stx_mode) & 0o7777,
        uid: st.stx_uid,
        gid: st.stx_gid,
        nlink: st.stx_nlink,
        rdev: Device {
            major: st.stx_rdev_major,
            minor: st.stx_rdev_minor,
        },
        size: st.stx_size,
        blocks: st.stx_blocks,
        atime: time(st.stx_atime),
        mtime: time(st.stx_mtime),
        ctime: time(st.stx_ctime),
        btime: time(st.stx_btime),
    };
    let mount_root = st.stx_attributes.contains(rfs::StatxAttributes::MOUNT_ROOT);
    Ok(DiskStat {
        attr,
        disk_ino: st.stx_ino,
        mount_root,
    })
}

/// A path of `name` in `dir`, for the calls that take a path alone.
fn path_of(dir: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Whether a directory is immutable or may only grow.
pub(crate) fn is_protected(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let protecting = rfs::StatxAttributes::IMMUTABLE | rfs::StatxAttributes::APPEND;
    let st = rfs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::empty()).map_err(errno)?;
    Ok(st.stx_attributes.intersects(protecting))
}

/// Calls `each` with every name in a directory but `.` and `..`, and its type if known.
pub(crate) fn read_names(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8], rfs::FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let own = rfs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(errno)?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = rfs::RawDir::new(own, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.file_type())?;
        }
    }
    Ok(())
}

impl At {
    pub(crate) fn stat(&self) -> Result<DiskStat, Errno> {
        match self {
            Self::Name(dir, name) => stat_at(dir.as_fd(), name),
            Self::Fd(file) => stat_at(file.as_fd(), b""),
        }
    }

    pub(crate) fn xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let mut value = vec![0; 256];
        loop {
            let got = match self {
                Self::Name(dir, own) => rfs::lgetxattr(path_of(dir, own), name, &mut *value),
                Self::Fd(file) => rfs::fgetxattr(file, name, &mut *value),
            };
            match got {
                Ok(len) => {
                    value.truncate(len);
                    return Ok(Some(value));
                }
                Err(rustix::io::Errno::RANGE) if value.len() < XATTR_SIZE_MAX => {
                    value = vec![0; XATTR_SIZE_MAX];
                }
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
                Err(error) => return Err(errno(error)),
            }
        }
    }

    pub(crate) fn set_xattr(
        &self,
        name: &[u8],
        value: &[u8],
        flags: rfs::XattrFlags,
    ) -> Result<(), Errno> {
        let set = match self {
            Self::Name(dir, own) => rfs::lsetxattr(path_of(dir, own), name, value, flags),
            Self::Fd(file) => rfs::fsetxattr(file, name, value, flags),
        };
        set.map_err(errno)
    }

    pub(crate) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let removed = match self {
            Self::Name(dir, own) => rfs::lremovexattr(path_of(dir, own), name),
            Self::Fd(file) => rfs::fremovexattr(file, name),
        };
        removed.map_err(errno)
    }

    /// Whether there is any extended attribute: one cheap question in place of several.
    pub(crate) fn has_xattrs(&self) -> bool {
        let size = match self {
            Self::Name(dir, own) => rfs::llistxattr_query(path_of(dir, own)),
            Self::Fd(file) => rfs::flistxattr_query(file),
        };
        size != Ok(0)
    }

    pub(crate) fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut list = vec![0; XATTR_SIZE_MAX];
        let got = match self {
            Self::Name(dir, own) => rfs::llistxattr(path_of(dir, own), &mut *list),
            Self::Fd(file) => rfs::flistxattr(file, &mut *list),
        };
        let len = match got {
            Ok(len) => len,
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(errno(error)),
        };
        list.truncate(len);
        Ok(list
            .split(|byte| *byte == 0)
            .filter(|n| !n.is_empty())
            .map(<[u8]>::to_vec)
            .collect())
    }

    pub(crate) fn chmod(&self, perm: u32) -> Result<(), Errno> {
        match self {
            Self::Name(dir, name) => {
                rfs::chmodat(dir, &**name, mode(perm), AtFlags::empty()).map_err(errno)
            }
            Self::Fd(file) => rfs::fchmod(file, mode(perm)).map_err(errno),
        }
    }

    pub(crate) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let uid = uid.map(rfs::Uid::from_raw);
        let gid = gid.map(rfs::Gid::from_raw);
        match self {
            Self::Name(dir, name) => {
                rfs::chownat(dir, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
            }
            Self::Fd(file) => rfs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH).map_err(errno),
        }
    }

    pub(crate) fn set_times(
        &self,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    ) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: atime.map_or(OMIT, timespec),
            last_modification: mtime.map_or(OMIT, timespec),
        };
        match self {
            Self::Name(dir, name) => {
                rfs::utimensat(dir, &**name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
            }
            Self::Fd(file) => rfs::futimens(file, &times).map_err(errno),
        }
    }

    /// Opens a regular file.
    pub(crate) fn open(&self, write: bool) -> Result<File, Errno> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match self {
            Self::Name(dir, name) => rfs::openat(dir, &**name, flags, Mode::empty())
                .map(File::from)
                .map_err(errno),
            Self::Fd(file) => file.try_clone().map_err(Errno::from),
        }
    }

    /// Opens a regular file that may not be opened for writing just so; true when it may grow.
    pub(crate) fn open_guarded(&self) -> Result<(File, bool), Errno> {
        let Self::Name(dir, name) = self else {
            return Err(Errno::EPERM);
        };
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |access| rfs::openat(dir, &**name, flags | access, Mode::empty());
        match open(OFlags::RDWR | OFlags::APPEND) {
            Ok(file) => Ok((File::from(file), true)),
            Err(rustix::io::Errno::PERM) => {
                Ok((File::from(open(OFlags::RDONLY).map_err(errno)?), false))
            }
            Err(error) => Err(errno(error)),
        }
    }

    /// A descriptor that keeps the object alive when its last name goes.
    pub(crate) fn pin(&self, kind: FileType) -> Result<Arc<File>, Errno> {
        match self {
            Self::Fd(file) => Ok(Arc::clone(file)),
            Self::Name(dir, name) => {
                let access = match kind {
                    FileType::Regular => OFlags::RDWR,
                    FileType::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                    FileType::Symlink
                    | FileType::Fifo
                    | FileType::Socket
                    | FileType::CharDevice
                    | FileType::BlockDevice => OFlags::PATH,
                };
                let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rfs::openat(dir, &**name, flags, Mode::empty()) {
                    Err(rustix::io::Errno::PERM) if kind == FileType::Regular => {
                        self.open_guarded().map(|(file, _)| Arc::new(file))
                    }
                    opened => Ok(Arc::new(File::from(opened.map_err(errno)?))),
                }
            }
        }
    }

    pub(crate) fn readlink(&self) -> Result<Vec<u8>, Errno> {
        let target = match self {
            Self::Name(dir, name) => rfs::readlinkat(dir, &**name, Vec::new()),
            Self::Fd(file) => rfs::readlinkat(file, "", Vec::new()),
        };
        target.map(std::ffi::CString::into_bytes).map_err(errno)
    }
}

impl Upper {
    /// Opens a directory of the upper tree.
    pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(parent, name, flags, Mode::empty()).map_err(errno)
    }

    pub(crate) fn work(&self) -> Result<&Arc<OwnedFd>, Errno> {
        self.work.as_ref().ok_or(Errno::EROFS)
    }

    pub(crate) fn may_have_acls(&self) -> bool {
        self.acls.load(Ordering::Relaxed)
    }

    pub(crate) fn expect_acls(&self) {
        self.acls.store(true, Ordering::Relaxed);
    }

    /// A name in the work directory that no other operation uses.
    pub(crate) fn temporary(&self) -> Vec<u8> {
        format!("#{:x}", self.next_temporary.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Makes a whiteout where nothing is.
    pub(crate) fn whiteout(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        if self.char_whiteouts.load(Ordering::Relaxed) {
            match rfs::mknodat(dir, name, rfs::FileType::CharacterDevice, Mode::empty(), 0) {
                Err(rustix::io::Errno::PERM) => self.char_whiteouts.store(false, Ordering::Relaxed),
                done => return done.map_err(errno),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let _file: OwnedFd =
            rfs::openat(dir, wh_name(name), flags, Mode::RUSR | Mode::WUSR).map_err(errno)?;
        Ok(())
    }

    /// Removes the whiteout of `name`.
    pub(crate) fn remove_whiteout(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        match rfs::unlinkat(dir, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                rfs::unlinkat(dir, wh_name(name), AtFlags::empty()).map_err(errno)
            }
            done => done.map_err(errno),
        }
    }

    /// Replaces a file that is not a directory by a whiteout, in one step.
    pub(crate) fn replace_by_whiteout(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        let work = self.work()?;
        if !self.char_whiteouts.load(Ordering::Relaxed) {
            self.whiteout(dir, name)?;
            return rfs::unlinkat(dir, name, AtFlags::empty()).map_err(errno);
        }
        let temporary = self.temporary();
        self.whiteout(work.as_fd(), &temporary)?;
        if !self.char_whiteouts.load(Ordering::Relaxed) {
            self.remove_whiteout(work.as_fd(), &temporary)?;
            return self.replace_by_whiteout(dir, name);
        }
        rfs::renameat(work, &*temporary, dir, name).map_err(|error| {
            self.discard(&temporary);
            errno(error)
        })
    }

    /// Moves a directory out of the tree into the work directory, leaving a whiteout if asked.
    /// Returns its name there; the caller removes it, or the next start does.
    pub(crate) fn take_dir(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        whiteout: bool,
    ) -> Result<Vec<u8>, Errno> {
        let work = self.work()?;
        let temporary = self.temporary();
        if !whiteout {
            rfs::renameat(dir, name, work, &*temporary).map_err(errno)?;
            return Ok(temporary);
        }
        if self.char_whiteouts.load(Ordering::Relaxed) {
            self.whiteout(work.as_fd(), &temporary)?;
            if self.char_whiteouts.load(Ordering::Relaxed) {
                let swap = RenameFlags::EXCHANGE;
                match rfs::renameat_with(work, &*temporary, dir, name, swap) {
                    Ok(()) => return Ok(temporary),
                    Err(error) => {
                        self.discard(&temporary);
                        return Err(errno(error));
                    }
                }
            }
            self.remove_whiteout(work.as_fd(), &temporary)?;
        }
        self.whiteout(dir, name)?;
        rfs::renameat(dir, name, work, &*temporary).map_err(errno)?;
        Ok(temporary)
    }

    /// Removes what an operation that failed left in the work directory.
    pub(crate) fn discard(&self, temporary: &[u8]) {
        if let Some(work) = &self.work {
            // Best effort: the next start clears the work directory anyway.
            let _left = remove_tree(work.as_fd(), temporary, 0);
        }
    }

    /// Removes a directory taken out of the tree, without making the caller wait for long.
    pub(crate) fn discard_later(&self, temporary: &[u8]) {
        // Thousands of whiteouts may be in there.
        if let Some(reaper) = &self.reaper {
            reaper.remove_later(temporary);
        }
    }

    /// Renames within the upper tree, leaving a whiteout if asked.
    pub(crate) fn rename(
        &self,
        from: (BorrowedFd<'_>, &[u8]),
        to: (BorrowedFd<'_>, &[u8]),
        whiteout: bool,
    ) -> Result<(), Errno> {
        if whiteout && self.char_whiteouts.load(Ordering::Relaxed) {
            let flags = RenameFlags::WHITEOUT;
            match rfs::renameat_with(from.0, from.1, to.0, to.1, flags) {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
                done => return done.map_err(errno),
            }
        }
        rfs::renameat(from.0, from.1, to.0, to.1).map_err(errno)?;
        if whiteout {
            self.whiteout(from.0, from.1)
        } else {
            Ok(())
        }
    }

    /// Renames within the upper tree to where a whiteout is.
    pub(crate) fn rename_to_whiteout(
        &self,
        from: (BorrowedFd<'_>, &[u8]),
        to: (BorrowedFd<'_>, &[u8]),
        is_dir: bool,
        whiteout: bool,
    ) -> Result<(), Errno> {
        if Self::has_dotted(to.0, to.1)? {
            self.rename(from, to, whiteout)?;
            return Self::unlink(to.0, &wh_name(to.1));
        }
        if !is_dir {
            return self.rename(from, to, whiteout);
        }
        // A directory cannot replace a whiteout: swap the two.
        Self::exchange(from, to)?;
        if whiteout {
            Ok(())
        } else {
            self.remove_whiteout(from.0, from.1)
        }
    }

    /// Whether the whiteout of `name` is a dot file: when nothing has the name itself. A dot file
    /// beside a device is an ordinary file that happens to be called so.
    pub(crate) fn has_dotted(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
        match stat_at(dir, name) {
            Ok(_) => Ok(false),
            Err(Errno::ENOENT) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Swaps two names.
    pub(crate) fn exchange(
        from: (BorrowedFd<'_>, &[u8]),
        to: (BorrowedFd<'_>, &[u8]),
    ) -> Result<(), Errno> {
        rfs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::EXCHANGE).map_err(errno)
    }

    pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        rfs::unlinkat(dir, name, AtFlags::empty()).map_err(errno)
    }

    pub(crate) fn rmdir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        rfs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(errno)
    }

    /// Links an index entry, so that a hard-link group is found again under any of its names.
    pub(crate) fn link_index(&self, from: &At, ino: u64) -> Result<(), Errno> {
        let Some(index) = &self.index else {
            return Err(Errno::EROFS);
        };
        match self.link(from, index.as_fd(), &index_name(ino)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn unlink_index(&self, ino: u64) {
        if let Some(index) = &self.index {
            // A leftover only wastes an inode; the next start drops entries with one link.
            let _gone = Self::unlink(index.as_fd(), &index_name(ino));
        }
    }

    /// Calls `each` with every hard-link group of the index.
    pub(crate) fn index_entries(
        &self,
        mut each: impl FnMut(u64, At) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let mut names = Vec::new();
        read_names(index.as_fd(), |name, _| {
            names.push(name.to_vec());
            Ok(())
        })?;
        for name in names {
            let text = std::str::from_utf8(&name).unwrap_or_default();
            let Ok(ino) = u64::from_str_radix(text, 16) else {
                continue;
            };
            each(ino, At::Name(Arc::clone(index), name.into()))?;
        }
        Ok(())
    }
}

fn index_name(ino: u64) -> Vec<u8> {
    format!("{ino:x}").into_bytes()
}

fn wh_name(name: &[u8]) -> Vec<u8> {
    [b".wh.", name].concat()
}
