//! Trees that `cp` reads and writes: by descriptors or through the union, one name at a time, so
//! that no link ever leads out of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rrun_core::{Attr, Errno, FileType};
use rrun_runner::ids;
use rrun_union::{Caller, Ino, OnWrite, SetAttr, SetTime, Union};
use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat,
    chownat, fsetxattr, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};

/// Links followed on the way to a path. Source: `path_resolution(7)`.
const LINKS_MAX: usize = 40;
/// Bytes copied at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) kind: FileType,
    pub(super) size: u64,
    pub(super) perm: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
}

/// A file and what is known of it.
pub(super) type Found<N> = (N, Meta);

/// Something with files in it.
pub(super) trait Tree {
    /// A file of it.
    type Node;

    fn root(&self) -> io::Result<Found<Self::Node>>;
    /// A name in a directory, not followed; `None` when it is not there.
    fn child(&self, dir: &Self::Node, name: &[u8]) -> io::Result<Option<Found<Self::Node>>>;
    fn names(&self, dir: &Self::Node) -> io::Result<Vec<Vec<u8>>>;
    fn link(&self, dir: &Self::Node, name: &[u8]) -> io::Result<Vec<u8>>;
    fn read(&self, file: &Self::Node, out: &mut dyn Write) -> io::Result<()>;
    fn make_dir(&self, dir: &Self::Node, name: &[u8]) -> io::Result<()>;
    fn make_file(&self, dir: &Self::Node, name: &[u8], data: &mut dyn Read) -> io::Result<()>;
    fn make_link(&self, dir: &Self::Node, name: &[u8], target: &[u8]) -> io::Result<()>;
    /// Removes what is no directory.
    fn remove(&self, dir: &Self::Node, name: &[u8]) -> io::Result<()>;
    /// Sets owner, mode and time; of a link only the owner.
    fn dress(&self, dir: &Self::Node, name: &[u8], meta: &Meta) -> io::Result<()>;
}

/// The parts of a path, last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Follows a path from the root as a process in the tree would; a link at its end only when
/// `follow`. `None` when it is not there.
pub(super) fn find<T: Tree>(
    tree: &T,
    path: &[u8],
    follow: bool,
) -> io::Result<Option<Found<T::Node>>> {
    let mut left = parts(path);
    let mut trail = vec![tree.root()?];
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == b".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let Some((dir, meta)) = trail.last() else {
            return Ok(None);
        };
        if meta.kind != FileType::Directory {
            return Ok(None);
        }
        let Some(found) = tree.child(dir, &part)? else {
            return Ok(None);
        };
        if found.1.kind != FileType::Symlink || (left.is_empty() && !follow) {
            trail.push(found);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let target = tree.link(dir, &part)?;
        if target.starts_with(b"/") {
            trail.truncate(1);
        }
        left.extend(parts(&target));
    }
    Ok(trail.pop())
}

/// Files below a descriptor.
#[derive(Debug)]
pub(super) struct Host(pub(super) OwnedFd);

fn meta_of(stat: &rustix::fs::Stat) -> Meta {
    use rustix::fs::FileType as Kind;
    let kind = match Kind::from_raw_mode(stat.st_mode) {
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::RegularFile => FileType::Regular,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket | Kind::Unknown => FileType::Socket,
    };
    Meta {
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        perm: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
    }
}

impl Tree for Host {
    type Node = OwnedFd;

    fn root(&self) -> io::Result<Found<OwnedFd>> {
        let fd = self.0.try_clone()?;
        let meta = meta_of(&rustix::fs::fstat(&fd)?);
        Ok((fd, meta))
    }

    fn child(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<Option<Found<OwnedFd>>> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let access = match meta_of(&stat).kind {
            // A FIFO that took its place meanwhile must not make us wait.
            FileType::Regular | FileType::Directory => OFlags::RDONLY | OFlags::NONBLOCK,
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharDevice
            | FileType::BlockDevice => OFlags::PATH,
        };
        let flags = access | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        let meta = meta_of(&rustix::fs::fstat(&fd)?);
        Ok(Some((fd, meta)))
    }

    fn names(&self, dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn link(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(readlinkat(dir, name, Vec::new())?.into_bytes())
    }

    fn read(&self, file: &OwnedFd, out: &mut dyn Write) -> io::Result<()> {
        let mut file = File::from(file.try_clone()?);
        io::copy(&mut file, out).map(drop)
    }

    fn make_dir(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        Ok(mkdirat(dir, name, Mode::from_raw_mode(0o700))?)
    }

    fn make_file(&self, dir: &OwnedFd, name: &[u8], data: &mut dyn Read) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
        io::copy(data, &mut file).map(drop)
    }

    fn make_link(&self, dir: &OwnedFd, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(target, dir, name)?)
    }

    fn remove(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(dir, name, AtFlags::empty())?)
    }

    fn dress(&self, dir: &OwnedFd, name: &[u8], meta: &Meta) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let is_absent = match chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            // Not ours to give.
            Ok(()) | Err(rustix::io::Errno::PERM) => false,
            // Ids that do not exist here.
            Err(rustix::io::Errno::INVAL) => true,
            Err(error) => return Err(error.into()),
        };
        if meta.kind == FileType::Symlink {
            return Ok(());
        }
        // The name is a file we just made; a link put in its place fails the check of its kind.
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if meta_of(&stat).kind != meta.kind {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => {
                if is_absent {
                    let owner = format!("{}:{}", meta.uid, meta.gid);
                    // Only our own file system keeps it.
                    let _elsewhere =
                        fsetxattr(&fd, ids::OWNER, owner.as_bytes(), XattrFlags::empty());
                }
                rustix::fs::fchmod(fd.as_fd(), Mode::from_raw_mode(meta.perm))?;
            }
            Err(_) => chmodat(dir, name, Mode::from_raw_mode(meta.perm), AtFlags::empty())?,
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: meta.mtime,
                tv_nsec: 0,
            },
        };
        Ok(utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// The files of a container that does not run.
pub(super) struct Stopped(pub(super) Arc<Union>);

fn system(errno: Errno) -> io::Error {
    io::Error::other(errno.to_string())
}

/// Who makes files: root of the container.
const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
};

fn union_meta(attr: &Attr) -> Meta {
    Meta {
        kind: attr.kind,
        size: attr.size,
        perm: attr.perm,
        uid: attr.uid,
        gid: attr.gid,
        mtime: attr.mtime.secs,
    }
}

impl Tree for Stopped {
    type Node = Ino;

    fn root(&self) -> io::Result<Found<Ino>> {
        let attr = self.0.getattr(Ino::ROOT).map_err(system)?;
        Ok((Ino::ROOT, union_meta(&attr)))
    }

    fn child(&self, dir: &Ino, name: &[u8]) -> io::Result<Option<Found<Ino>>> {
        match self.0.lookup(*dir, name) {
            Ok(entry) => Ok(Some((entry.ino, union_meta(&entry.attr)))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(system(errno)),
        }
    }

    fn names(&self, dir: &Ino) -> io::Result<Vec<Vec<u8>>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let each = &mut |entry: &rrun_union::Listed<'_>| {
            if entry.name != b"." && entry.name != b".." {
                names.push(entry.name.to_vec());
            }
            true
        };
        self.0.readdir(*dir, 0, false, each).map_err(system)?;
        names.sort();
        Ok(names)
    }

    fn link(&self, dir: &Ino, name: &[u8]) -> io::Result<Vec<u8>> {
        let entry = self.0.lookup(*dir, name).map_err(system)?;
        self.0.readlink(entry.ino).map_err(system)
    }

    fn read(&self, file: &Ino, out: &mut dyn Write) -> io::Result<()> {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let mut offset = 0_u64;
        loop {
            let count = self.0.read(*file, offset, &mut buffer).map_err(system)?;
            if count == 0 {
                return Ok(());
            }
            out.write_all(buffer.get(..count).unwrap_or_default())?;
            offset += u64::try_from(count).unwrap_or(0);
        }
    }

    fn make_dir(&self, dir: &Ino, name: &[u8]) -> io::Result<()> {
        self.0
            .mkdir(*dir, name, 0o700, &ROOT)
            .map(drop)
            .map_err(system)
    }

    fn make_file(&self, dir: &Ino, name: &[u8], data: &mut dyn Read) -> io::Result<()> {
        let made = self
            .0
            .mknod(*dir, name, 0o600, rrun_core::Device::default(), &ROOT)
            .map_err(system)?;
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let mut offset = 0_u64;
        loop {
            let count = data.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut rest = buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let written = self
                    .0
                    .write(made.ino, offset, rest, OnWrite::Keep)
                    .map_err(system)?;
                offset += u64::try_from(written).unwrap_or(0);
                rest = rest.get(written..).unwrap_or_default();
            }
        }
    }

    fn make_link(&self, dir: &Ino, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.0
            .symlink(*dir, name, target, &ROOT)
            .map(drop)
            .map_err(system)
    }

    fn remove(&self, dir: &Ino, name: &[u8]) -> io::Result<()> {
        self.0.unlink(*dir, name).map_err(system)
    }

    fn dress(&self, dir: &Ino, name: &[u8], meta: &Meta) -> io::Result<()> {
        let entry = self.0.lookup(*dir, name).map_err(system)?;
        let is_link = meta.kind == FileType::Symlink;
        let set = SetAttr {
            uid: Some(meta.uid),
            gid: Some(meta.gid),
            perm: (!is_link).then_some(meta.perm),
            mtime: (!is_link).then_some(SetTime::At(rrun_core::Time {
                secs: meta.mtime,
                nanos: 0,
            })),
            ..SetAttr::default()
        };
        self.0.setattr(entry.ino, &set).map(drop).map_err(system)
    }
}
