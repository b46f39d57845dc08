//! Opening an upper directory: lock, clearing of what a dead process left, probes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use rrun_core::Errno;
use rustix::fs::{self as rfs, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::reap::Reaper;
use super::{Marks, Upper, errno, read_names, remove_tree};
use crate::error::UnionError;
use crate::options::{AccessTimes, Options, UpperMount, Writer};
use crate::sys;

/// Where hard-link groups are remembered, inside the work directory.
const INDEX: &[u8] = b"index";
/// Source: `XFS_SUPER_MAGIC`, `linux/magic.h`.
const XFS_MAGIC: rfs::FsWord = 0x5846_5342;
/// The unit in which sparse copy-up counts; a file system that reports holes more coarsely does
/// not get it.
const PROBE_BLOCK: u64 = 4096;
/// Attempts to lock after the first, and the pause before each: two seconds in all. umount(8)
/// returns before the server has ended, which on a busy machine takes a while, and a script then
/// mounts the same directories again.
const LOCK_TRIES: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

fn open_dir(path: &Path) -> Result<OwnedFd, UnionError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rfs::open(path, flags, Mode::empty()).map_err(|error| UnionError::Directory {
        action: "open",
        path: path.to_owned(),
        errno: errno(error),
    })
}

/// Takes the lock on the work directory. One who just closed it may for a moment live on in a
/// child between fork and exec, or in a thread that still clears up: worth a short wait.
fn lock_alone(work: &OwnedFd) -> Result<(), Errno> {
    let mut tries = LOCK_TRIES;
    loop {
        match rfs::flock(work, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(_) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => return Err(errno(error)),
        }
    }
}

/// A private copy of the mount of a directory, from there on, without what is mounted below.
pub(crate) fn copy_mount(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(dir, "", flags).map_err(errno)
}

/// The upper directory and the work directory in one private copy of their mount. One, because
/// files move between them.
fn open_apart(
    upper: &Path,
    work: &Path,
    found: &(OwnedFd, OwnedFd),
    access_times: AccessTimes,
) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (upper, work) = (upper.canonicalize()?, work.canonicalize()?);
    let both = upper.components().zip(work.components());
    let above: PathBuf = both
        .take_while(|(one, other)| one == other)
        .map(|(part, _)| part)
        .collect();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let near = rfs::open(&above, flags | OFlags::PATH, Mode::empty()).map_err(errno)?;
    let copy = copy_mount(near.as_fd())?;
    // Where flags are locked they stay, and are those of the mount it was copied from.
    let _kept = sys::set_access_times(copy.as_fd(), access_times);
    let again = |path: &Path, known: &OwnedFd| {
        let rest = path.strip_prefix(&above).map_err(|_| Errno::EINVAL)?;
        let rest = if rest.as_os_str().is_empty() {
            Path::new(".")
        } else {
            rest
        };
        let dir = rfs::openat(&copy, rest, flags, Mode::empty()).map_err(errno)?;
        let [a, b] = [&dir, known].map(|fd| rfs::fstat(fd).map_err(errno));
        let (a, b) = (a?, b?);
        // Not so when another file system is mounted in between.
        if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
            Ok(dir)
        } else {
            Err(Errno::EXDEV)
        }
    };
    Ok((again(&upper, &found.0)?, again(&work, &found.1)?))
}

impl Upper {
    /// Opens the upper directory `upper` with work directory `work`, both existing.
    pub(crate) fn open(upper: &Path, work: &Path, options: &Options) -> Result<Self, UnionError> {
        if options.writer == Writer::Kernel && !options.read_only {
            return Err(UnionError::Unusable {
                path: upper.to_owned(),
                reason: "the kernel's overlayfs writes it; it can only be looked at",
            });
        }
        let mut root = open_dir(upper)?;
        let (work_fd, index) = if options.read_only {
            (None, open_dir(&work.join("index")).ok())
        } else {
            let mut work_fd = open_dir(work)?;
            if options.upper_mount == UpperMount::Private {
                let found = (root, work_fd);
                (root, work_fd) =
                    open_apart(upper, work, &found, options.access_times).unwrap_or(found);
            }
            lock_alone(&work_fd).map_err(|_| UnionError::Busy(upper.to_owned()))?;
            let index = ready(&work_fd).map_err(|(action, errno)| UnionError::Directory {
                action,
                path: work.to_owned(),
                errno,
            })?;
            (Some(work_fd), Some(index))
        };
        let mut used = false;
        read_names(root.as_fd(), |_, _| {
            used = true;
            Ok(())
        })
        .map_err(|errno| UnionError::Directory {
            action: "read",
            path: upper.to_owned(),
            errno,
        })?;
        let sparse = options.sparse_copy_up
            && work_fd
                .as_ref()
                .is_some_and(|w| holes_are_exact(w) == Ok(true));
        let reaper = work_fd
            .as_ref()
            .map(|work| work.try_clone().map(Reaper::new));
        let reaper = reaper.transpose().map_err(|error| UnionError::Directory {
            action: "open",
            path: upper.to_owned(),
            errno: error.into(),
        })?;
        let moves_touch = rfs::fstatfs(&root).is_ok_and(|space| space.f_type == XFS_MAGIC);
        Ok(Self {
            root: Arc::new(root),
            work: work_fd.map(Arc::new),
            reaper,
            own_ids: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            index: index.map(Arc::new),
            marks: Marks::of(options.xattrs, options.writer),
            ids: options.ids,
            next_temporary: AtomicU64::new(0),
            has_tmpfile: AtomicBool::new(true),
            links_descriptors: AtomicBool::new(true),
            char_whiteouts: AtomicBool::new(true),
            acls: AtomicBool::new(used),
            sparse,
            moves_touch,
        })
    }
}

/// Clears a locked work directory and opens its index.
fn ready(work: &OwnedFd) -> Result<OwnedFd, (&'static str, Errno)> {
    clear(work).map_err(|error| ("clear", error))?;
    match rfs::mkdirat(work, INDEX, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(("write to", errno(error))),
    }
    Upper::open_dir(work.as_fd(), INDEX).map_err(|error| ("open", error))
}

/// Removes everything in the work directory but the index.
fn clear(work: &OwnedFd) -> Result<(), Errno> {
    let mut names = Vec::new();
    read_names(work.as_fd(), |name, _| {
        if name != INDEX {
            names.push(name.to_vec());
        }
        Ok(())
    })?;
    for name in names {
        match remove_tree(work.as_fd(), &name, 0) {
            // kernel overlayfs keeps a `work` of mode 000 here that is not ours to remove
            Ok(()) | Err(Errno::EACCES | Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the file system tells written blocks from holes exactly: that is where a sparse copy
/// remembers what was written.
fn holes_are_exact(work: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rfs::openat(work, ".", flags, Mode::RUSR | Mode::WUSR).map_err(errno)?;
    let file = File::from(fd);
    let at = 128 * PROBE_BLOCK;
    rfs::ftruncate(&file, 1 << 20).map_err(errno)?;
    file.write_all_at(&[1; 4096], at)?;
    let data = rfs::seek(&file, SeekFrom::Data(0)).map_err(errno)?;
    let hole = rfs::seek(&file, SeekFrom::Hole(data)).map_err(errno)?;
    Ok(data == at && hole == at + PROBE_BLOCK)
}
