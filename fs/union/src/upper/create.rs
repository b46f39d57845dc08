//! Making files in the upper directory, each in one step: complete under its name, or not there.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rrun_core::{Errno, FileType};
use rustix::fs::{self as rfs, AtFlags, CWD, Mode, OFlags, RenameFlags, XattrFlags};

use super::{At, Upper, errno, mode};
use crate::meta::{OVERRIDE_STAT, Virtual};
use crate::options::IdStore;

/// What stands where a new file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Free,
    /// A whiteout, which goes.
    Whiteout,
}

impl Upper {
    /// Writes owner and mode of `what` to a fresh object made by this process.
    pub(crate) fn dress(&self, at: &At, what: &Virtual) -> Result<(), Errno> {
        match self.ids {
            IdStore::Virtual => {
                if what.is_plain() {
                    return Ok(());
                }
                let text = what.encode();
                at.set_xattr(
                    OVERRIDE_STAT.as_bytes(),
                    text.as_bytes(),
                    XattrFlags::empty(),
                )
            }
            IdStore::Real => {
                if (what.uid, what.gid) != self.own_ids {
                    at.chown(Some(what.uid), Some(what.gid))?;
                }
                // after chown, which clears setuid; mknod may have dropped setgid
                if what.perm & 0o7000 != 0 && what.kind != FileType::Symlink {
                    at.chmod(what.perm)?;
                }
                Ok(())
            }
        }
    }

    fn disk_perm(&self, what: &Virtual) -> Mode {
        match self.ids {
            IdStore::Virtual => mode(what.disk_perm()),
            IdStore::Real => mode(what.perm & 0o777),
        }
    }

    /// Whether a new object gets everything it needs from the call that creates it.
    fn is_bare(&self, what: &Virtual) -> bool {
        match self.ids {
            IdStore::Virtual => what.is_plain(),
            IdStore::Real => what.perm & 0o7000 == 0 && (what.uid, what.gid) == self.own_ids,
        }
    }

    /// Makes a regular file without a name.
    pub(crate) fn unnamed(
        &self,
        near: BorrowedFd<'_>,
        what: &Virtual,
    ) -> Result<Option<File>, Errno> {
        if !self.has_tmpfile.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rfs::openat(near, ".", flags, self.disk_perm(what)) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(
                rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL,
            ) => {
                self.has_tmpfile.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(errno(error)),
        }
    }

    /// Gives a file another name.
    pub(crate) fn link(&self, from: &At, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        match from {
            At::Name(old, old_name) => {
                rfs::linkat(old, &**old_name, dir, name, AtFlags::empty()).map_err(errno)
            }
            At::Fd(file) => self.link_file(file, dir, name),
        }
    }

    /// Gives an open file a name. By its descriptor alone, which Linux allows whoever opened the
    /// file since 6.10 and says `ENOENT` to others, else by its link in `/proc`, which has to be
    /// found first.
    fn link_file(&self, file: &File, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let by_descriptor = self.links_descriptors.load(Ordering::Relaxed);
        if by_descriptor {
            match rfs::linkat(file, "", dir, name, AtFlags::EMPTY_PATH) {
                Err(rustix::io::Errno::NOENT) => {}
                other => return other.map_err(errno),
            }
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rfs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)?;
        if by_descriptor {
            self.links_descriptors.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives a file another name where `place` is.
    pub(crate) fn link_into(
        &self,
        from: &At,
        dir: BorrowedFd<'_>,
        name: &[u8],
        place: Place,
    ) -> Result<(), Errno> {
        if place == Place::Free {
            return self.link(from, dir, name);
        }
        let temporary = self.temporary();
        self.link(from, self.work()?.as_fd(), &temporary)?;
        self.settle(&temporary, dir, name, false)
    }

    /// Moves a finished object from the work directory over a whiteout (or nothing).
    fn settle(
        &self,
        temporary: &[u8],
        dir: BorrowedFd<'_>,
        name: &[u8],
        is_dir: bool,
    ) -> Result<(), Errno> {
        let work = self.work()?;
        let settled = Self::has_dotted(dir, name).and_then(|dotted| {
            if is_dir && !dotted {
                rfs::renameat_with(work, temporary, dir, name, RenameFlags::EXCHANGE)
            } else {
                rfs::renameat(work, temporary, dir, name)
            }
            .map_err(errno)?;
            Ok(dotted)
        });
        match settled {
            Ok(true) => Self::unlink(dir, &super::wh_name(name)),
            Ok(false) if is_dir => Self::unlink(work.as_fd(), temporary),
            Ok(false) => Ok(()),
            Err(error) => {
                self.discard(temporary);
                Err(error)
            }
        }
    }

    /// Makes a file that is neither regular with contents nor a directory nor a symlink.
    pub(crate) fn make_node(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        what: &Virtual,
        place: Place,
    ) -> Result<(), Errno> {
        if place == Place::Free && self.is_bare(what) {
            return self.mknod(dir, name, what);
        }
        if place == Place::Free
            && (what.kind == FileType::Regular || self.ids == IdStore::Virtual)
            && let Some(file) = self.unnamed(dir, what)?
        {
            let at = At::Fd(Arc::new(file));
            self.dress(&at, what)?;
            return self.link(&at, dir, name);
        }
        let work = self.work()?;
        let temporary = self.temporary();
        self.mknod(work.as_fd(), &temporary, what)?;
        self.finish(&temporary, what, dir, name, place)
    }

    fn mknod(&self, dir: BorrowedFd<'_>, name: &[u8], what: &Virtual) -> Result<(), Errno> {
        let kind = match (self.ids, what.kind) {
            (IdStore::Virtual, _) | (IdStore::Real, FileType::Regular) => {
                rfs::FileType::RegularFile
            }
            (IdStore::Real, FileType::Fifo) => rfs::FileType::Fifo,
            (IdStore::Real, FileType::Socket) => rfs::FileType::Socket,
            (IdStore::Real, FileType::CharDevice) => rfs::FileType::CharacterDevice,
            (IdStore::Real, FileType::BlockDevice) => rfs::FileType::BlockDevice,
            (IdStore::Real, FileType::Directory | FileType::Symlink) => return Err(Errno::EINVAL),
        };
        let dev = match self.ids {
            IdStore::Real => rfs::makedev(what.rdev.major, what.rdev.minor),
            IdStore::Virtual => 0,
        };
        rfs::mknodat(dir, name, kind, self.disk_perm(what), dev).map_err(errno)
    }

    /// Dresses an object of the work directory and moves it to its place.
    fn finish(
        &self,
        temporary: &[u8],
        what: &Virtual,
        dir: BorrowedFd<'_>,
        name: &[u8],
        place: Place,
    ) -> Result<(), Errno> {
        let at = At::Name(Arc::clone(self.work()?), temporary.into());
        if let Err(error) = self.dress(&at, what) {
            self.discard(temporary);
            return Err(error);
        }
        let is_dir = what.kind == FileType::Directory;
        match place {
            Place::Whiteout => self.settle(temporary, dir, name, is_dir),
            Place::Free => rfs::renameat(self.work()?, temporary, dir, name).map_err(|error| {
                self.discard(temporary);
                errno(error)
            }),
        }
    }

    /// Makes a symbolic link. `as_file` keeps it as a regular file that says it is one, so that
    /// it can carry attributes.
    pub(crate) fn make_symlink(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        target: &[u8],
        what: &Virtual,
        place: Place,
    ) -> Result<(), Errno> {
        if self.ids == IdStore::Virtual && !what.is_plain_symlink() {
            let temporary = self.write_symlink_file(target, what)?;
            return self.place_temporary(&temporary, dir, name, place);
        }
        if place == Place::Free && self.is_bare(what) {
            return rfs::symlinkat(target, dir, name).map_err(errno);
        }
        let temporary = self.temporary();
        rfs::symlinkat(target, self.work()?, &*temporary).map_err(errno)?;
        self.finish(&temporary, what, dir, name, place)
    }

    /// A symbolic link in the form of a regular file, in the work directory.
    pub(crate) fn write_symlink_file(
        &self,
        target: &[u8],
        what: &Virtual,
    ) -> Result<Vec<u8>, Errno> {
        let work = self.work()?;
        let temporary = self.temporary();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rfs::openat(work, &*temporary, flags, Mode::RUSR | Mode::WUSR).map_err(errno)?;
        let file = Arc::new(File::from(fd));
        let text = what.encode();
        let written = std::io::Write::write_all(&mut &*file, target)
            .map_err(Errno::from)
            .and_then(|()| {
                let at = At::Fd(file);
                at.set_xattr(
                    OVERRIDE_STAT.as_bytes(),
                    text.as_bytes(),
                    XattrFlags::empty(),
                )
            });
        if let Err(error) = written {
            self.discard(&temporary);
            return Err(error);
        }
        Ok(temporary)
    }

    /// Moves a dressed temporary into place.
    pub(crate) fn place_temporary(
        &self,
        temporary: &[u8],
        dir: BorrowedFd<'_>,
        name: &[u8],
        place: Place,
    ) -> Result<(), Errno> {
        match place {
            Place::Whiteout => self.settle(temporary, dir, name, false),
            Place::Free => {
                let flags = RenameFlags::empty();
                rfs::renameat_with(self.work()?, temporary, dir, name, flags).map_err(|error| {
                    self.discard(temporary);
                    errno(error)
                })
            }
        }
    }

    /// Makes a directory; an opaque one where a lower one must stay hidden.
    pub(crate) fn make_dir(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        what: &Virtual,
        place: Place,
        opaque: bool,
    ) -> Result<(), Errno> {
        if place == Place::Free && !opaque && self.is_bare(what) {
            return rfs::mkdirat(dir, name, self.disk_perm(what)).map_err(errno);
        }
        let (temporary, at) = self.dir_temporary(what)?;
        if opaque && let Err(error) = self.marks.set_opaque(&at) {
            self.discard(&temporary);
            return Err(error);
        }
        self.finish(&temporary, what, dir, name, place)
    }

    /// A directory in the work directory, and how to reach it.
    pub(crate) fn dir_temporary(&self, what: &Virtual) -> Result<(Vec<u8>, At), Errno> {
        let work = self.work()?;
        let temporary = self.temporary();
        rfs::mkdirat(work, &*temporary, self.disk_perm(what)).map_err(errno)?;
        let at = At::Name(Arc::clone(work), temporary.clone().into());
        Ok((temporary, at))
    }

    /// Any object but a directory in the work directory, and how to reach it.
    pub(crate) fn node_temporary(
        &self,
        what: &Virtual,
        target: &[u8],
    ) -> Result<(Vec<u8>, At), Errno> {
        let work = self.work()?;
        let temporary = match what.kind {
            FileType::Symlink if self.ids == IdStore::Virtual => {
                self.write_symlink_file(target, what)?
            }
            FileType::Symlink => {
                let temporary = self.temporary();
                rfs::symlinkat(target, work, &*temporary).map_err(errno)?;
                temporary
            }
            FileType::Regular
            | FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => {
                let temporary = self.temporary();
                self.mknod(work.as_fd(), &temporary, what)?;
                temporary
            }
        };
        Ok((
            temporary.clone(),
            At::Name(Arc::clone(work), temporary.into()),
        ))
    }
}

impl Virtual {
    fn is_plain_symlink(&self) -> bool {
        self.kind == FileType::Symlink && self.uid == 0 && self.gid == 0
    }
}
