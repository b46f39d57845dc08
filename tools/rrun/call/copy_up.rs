//! Filling a new volume with what the image has at its place.
//!
//! The image is read through the union, by numbers of files, and the volume is written through
//! descriptors, so that no link in an image leads anywhere else.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rrun_core::{Attr, Errno, FileType, Name};
use rrun_runner::IdMap;
use rrun_union::{Ino, Union};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, mkdirat, openat, symlinkat,
};

use crate::failure::Failure;

/// Links followed on the way to a path. Source: `path_resolution(7)`.
const LINKS_MAX: usize = 40;
/// Directories inside each other; deeper ones no program can name.
const DEPTH_MAX: usize = 1000;
/// Bytes copied at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Whose the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// As in the image: we may give files away.
    Kept,
    /// Ours: there is nobody else.
    Ours,
}

impl Owners {
    /// Who owns them where `map` holds.
    pub(crate) fn of(map: &IdMap) -> Self {
        match map {
            IdMap::Root | IdMap::Range { .. } => Self::Kept,
            IdMap::Squash | IdMap::Single { .. } => Self::Ours,
        }
    }
}

fn failed(action: &str, errno: impl std::fmt::Display) -> Failure {
    Failure::general(format!("could not fill the volume: {action}: {errno}"))
}

/// Follows a path from the root as a process in the container would; `None` when it is not there.
pub(crate) fn find(union: &Union, path: &str) -> Result<Option<Ino>, Failure> {
    let mut left: Vec<Vec<u8>> = parts(path.as_bytes());
    let mut trail = vec![Ino::ROOT];
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == b".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let dir = trail.last().copied().unwrap_or(Ino::ROOT);
        let entry = match union.lookup(dir, &part) {
            Ok(entry) => entry,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(failed(path, errno)),
        };
        if entry.attr.kind != FileType::Symlink {
            trail.push(entry.ino);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(failed(path, Errno::ELOOP));
        }
        let target = union
            .readlink(entry.ino)
            .map_err(|errno| failed(path, errno))?;
        if target.starts_with(b"/") {
            trail.truncate(1);
        }
        left.extend(parts(&target));
    }
    Ok(trail.last().copied())
}

/// The parts of a path, last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Copies what the image has at `path` into the directory `volume` if that is empty; a path that is
/// not a directory in the image leaves it empty.
pub(crate) fn fill(
    union: &Union,
    path: &str,
    volume: &Path,
    owners: Owners,
) -> Result<(), Failure> {
    let Some(ino) = find(union, path)? else {
        return Ok(());
    };
    let attr = union.getattr(ino).map_err(|errno| failed(path, errno))?;
    if attr.kind != FileType::Directory {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(CWD, volume, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    if !is_empty(&dir).map_err(|error| failed(path, error))? {
        return Ok(());
    }
    let copy = Copy { union, owners };
    copy.children(ino, dir.as_fd(), 0)?;
    copy.dress_fd(&dir, &attr)
}

fn is_empty(dir: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Copy<'u> {
    union: &'u Union,
    owners: Owners,
}

impl Copy<'_> {
    fn children(&self, from: Ino, to: BorrowedFd<'_>, depth: usize) -> Result<(), Failure> {
        if depth > DEPTH_MAX {
            return Err(failed("a directory", "nested too deep"));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        let each = &mut |entry: &rrun_union::Listed<'_>| {
            names.push(entry.name.to_vec());
            true
        };
        let listed = self.union.readdir(from, 0, false, each);
        listed.map_err(|errno| failed("list a directory", errno))?;
        for name in names {
            if name != b"." && name != b".." {
                self.one(from, to, &name, depth)?;
            }
        }
        Ok(())
    }

    fn one(&self, from: Ino, to: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Failure> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let failed = |error: &dyn std::fmt::Display| failed(&shown, error);
        // A base only holds names that are names; one with a slash would lead elsewhere.
        Name::new(name).map_err(|error| failed(&error))?;
        let entry = match self.union.lookup(from, name) {
            Ok(entry) => entry,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed(&errno)),
        };
        let attr = entry.attr;
        match attr.kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::from_raw_mode(0o700)).map_err(|e| failed(&e))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = openat(to, name, flags, Mode::empty()).map_err(|e| failed(&e))?;
                self.children(entry.ino, dir.as_fd(), depth + 1)?;
                self.dress_fd(&dir, &attr)?;
            }
            FileType::Regular => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file =
                    openat(to, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(&e))?;
                let mut file = File::from(file);
                self.data(entry.ino, &mut file).map_err(|e| failed(&e))?;
                self.dress_fd(&OwnedFd::from(file), &attr)?;
            }
            FileType::Symlink => {
                let target = self.union.readlink(entry.ino).map_err(|e| failed(&e))?;
                symlinkat(target, to, name).map_err(|e| failed(&e))?;
                self.own(to, name, &attr).map_err(|e| failed(&e))?;
            }
            // Sockets mean nothing without their process; devices and FIFOs are made anew.
            FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice => {}
        }
        self.union.forget(entry.ino, 1);
        Ok(())
    }

    fn data(&self, ino: Ino, file: &mut File) -> Result<(), std::io::Error> {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let mut offset = 0_u64;
        loop {
            let count = self
                .union
                .read(ino, offset, &mut buffer)
                .map_err(|errno| std::io::Error::other(errno.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            file.write_all(buffer.get(..count).unwrap_or_default())?;
            offset += u64::try_from(count).unwrap_or(0);
        }
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &[u8], attr: &Attr) -> rustix::io::Result<()> {
        if self.owners == Owners::Ours {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Owner, mode and times; in this order, since a change of owner clears set-user-ID.
    fn dress_fd(&self, fd: &OwnedFd, attr: &Attr) -> Result<(), Failure> {
        let dress = || -> rustix::io::Result<()> {
            if self.owners == Owners::Kept {
                let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
                rustix::fs::fchown(fd, Some(uid), Some(gid))?;
            }
            rustix::fs::fchmod(fd, Mode::from_raw_mode(attr.perm))?;
            let time = |time: rrun_core::Time| Timespec {
                tv_sec: time.secs,
                tv_nsec: time.nanos.into(),
            };
            let times = Timestamps {
                last_access: time(attr.atime),
                last_modification: time(attr.mtime),
            };
            rustix::fs::futimens(fd, &times)
        };
        dress().map_err(|error| failed("set the attributes of a file", error))
    }
}
