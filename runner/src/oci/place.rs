//! Carries out the mounts of a bundle, in init.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat, symlinkat};
use rustix::mount::MountAttrFlags;

use super::copy;
use super::options::MountOptions;
use super::step::{BundleMount, BundleMountKind, Hierarchy, Source};
use crate::error::{Failure, Step as _};
use crate::{mounts, rooted, sys};

/// Magic number of procfs. Source: `statfs(2)`.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// What tools such as lxcfs may mount inside `/proc`; anything else would fake what processes are
/// told of themselves.
const INSIDE_PROC: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
];
/// Directories that must be directories of the image itself, never links.
const TRUE_DIRECTORIES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A source of a bind mount, opened on the host's side.
#[derive(Debug)]
pub(crate) enum Opened {
    /// What is to be bound, and whether with all mounts below.
    Path(OwnedFd, bool),
    /// The target of a link that is to be copied.
    Link(std::ffi::CString),
}

/// Opens a source.
///
/// # Errors
///
/// Those of `open(2)`.
pub(crate) fn open_source(source: &Source) -> io::Result<Opened> {
    if source.copy_symlink
        && let Ok(target) = readlinkat(CWD, &source.path, Vec::new())
    {
        return Ok(Opened::Link(target));
    }
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !source.follow {
        flags |= OFlags::NOFOLLOW;
    }
    let opened = openat(CWD, &source.path, flags, Mode::empty())?;
    Ok(Opened::Path(opened, source.recursive))
}

/// What mounting needs of what was made before.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    /// The root to be.
    pub(crate) root: BorrowedFd<'a>,
    /// The opened source of this mount.
    pub(crate) source: Option<&'a Opened>,
    /// What is bound in place of the source, with its ids mapped.
    pub(crate) mapped: Option<BorrowedFd<'a>>,
}

/// Carries out one mount.
pub(crate) fn mount(mount: &BundleMount, ground: &Ground<'_>) -> Result<(), Failure> {
    let target = mount.destination.display();
    let what = match &mount.kind {
        BundleMountKind::Bind => format!("bind a mount on {target}"),
        BundleMountKind::New(kind, _) => format!("mount {kind} on {target}"),
        BundleMountKind::Cgroup { .. } => format!("mount the control groups on {target}"),
    };
    let done = match (&mount.kind, ground.source) {
        _ if mount.options.remount => remount(mount, ground),
        (BundleMountKind::Bind, Some(Opened::Link(link))) => {
            return copy_link(mount, link, ground).step(what);
        }
        (BundleMountKind::Bind, Some(Opened::Path(path, recursive))) => {
            let tree = match ground.mapped {
                Some(mapped) => mapped.try_clone_to_owned(),
                None => clone(path, *recursive),
            };
            tree.and_then(|tree| bind(mount, &tree, ground))
        }
        (BundleMountKind::Bind, None) => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        (BundleMountKind::New(kind, source), _) => new(mount, kind, source, ground),
        (
            BundleMountKind::Cgroup {
                hierarchies,
                namespaced,
            },
            _,
        ) => control_groups(mount, hierarchies, *namespaced, ground),
    };
    done.step(what)
}

/// Makes a detached copy of what is to be bound.
fn clone(path: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    match mounts::copy(path.as_fd(), recursive) {
        // In a user namespace of our own, what lies below other mounts must not be uncovered.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !recursive => {
            mounts::copy(path.as_fd(), true)
        }
        other => other,
    }
}

fn remount(mount: &BundleMount, ground: &Ground<'_>) -> io::Result<()> {
    let point = rooted::open(ground.root, &mount.destination, OFlags::PATH)?;
    change(&point, &mount.options)
}

fn copy_link(mount: &BundleMount, link: &std::ffi::CStr, ground: &Ground<'_>) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let parent = mount.destination.parent().ok_or_else(invalid)?;
    let name = mount.destination.file_name().ok_or_else(invalid)?;
    let parent = rooted::make_dirs(ground.root, parent)?;
    match symlinkat(link, &parent, name) {
        Err(rustix::io::Errno::EXIST)
            if readlinkat(&parent, name, Vec::new()).is_ok_and(|old| *old == *link) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}

fn bind(mount: &BundleMount, tree: &OwnedFd, ground: &Ground<'_>) -> io::Result<()> {
    let directory = FileType::from_raw_mode(fstat(tree)?.st_mode) == FileType::Directory;
    let point = if directory {
        make_dirs(ground.root, &mount.destination)?
    } else {
        rooted::make_file(ground.root, &mount.destination)?
    };
    check_point(&point, &mount.destination)?;
    change(tree, &mount.options)?;
    mounts::attach(tree.as_fd(), point.as_fd())?;
    propagate(tree, &mount.options)
}

fn new(mount: &BundleMount, kind: &str, source: &str, ground: &Ground<'_>) -> io::Result<()> {
    let point = make_dirs(ground.root, &mount.destination)?;
    let fresh = match make(mount, kind, source, &point) {
        // A user namespace may not have a new one where the host's is partly hidden.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => match kind {
            "sysfs" => mounts::copy_path(Path::new("/sys"))?,
            "proc" => mounts::copy_path(Path::new("/proc"))?,
            _ => return Err(error),
        },
        other => other?,
    };
    if mount.options.copy_up {
        copy::directory(point.as_fd(), fresh.as_fd())?;
    }
    change(&fresh, &mount.options)?;
    check_point(&point, &mount.destination)?;
    mounts::attach(fresh.as_fd(), point.as_fd())?;
    propagate(&fresh, &mount.options)
}

/// Makes the new file system, writable still.
fn make(mount: &BundleMount, kind: &str, source: &str, point: &OwnedFd) -> io::Result<OwnedFd> {
    let mut options: Vec<(&str, &str)> = Vec::with_capacity(mount.options.data.len() + 2);
    if !source.is_empty() {
        options.push(("source", source));
    }
    let data = mount.options.data.iter();
    options.extend(data.map(|(key, value)| (key.as_str(), value.as_str())));
    // A tmpfs over a directory looks like the directory, as with runc.
    let has_mode = options.iter().any(|(key, _)| *key == "mode");
    let mode = (kind == "tmpfs" && !has_mode)
        .then(|| fstat(point))
        .transpose()?
        .map(|stat| format!("{:o}", stat.st_mode & 0o7777));
    if let Some(mode) = &mode {
        options.push(("mode", mode));
    }
    mounts::new(kind, &options, MountAttrFlags::empty())
}

/// A mount point below the root; `/proc` and the like must be true directories.
fn make_dirs(root: BorrowedFd<'_>, destination: &Path) -> io::Result<OwnedFd> {
    let top = TRUE_DIRECTORIES
        .iter()
        .find(|name| Path::new(name) == destination);
    match top {
        Some(name) => rooted::top_dir(root, name.trim_start_matches('/')).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ENOTDIR | libc::ELOOP) => {
                    io::Error::other("it must be mounted on ordinary directory")
                }
                _ => error,
            }
        }),
        None => rooted::make_dirs(root, destination),
    }
}

/// Refuses a mount inside procfs but for the few that exist for good reasons.
fn check_point(point: &OwnedFd, destination: &Path) -> io::Result<()> {
    if sys::filesystem_magic(point.as_fd())? != PROC_SUPER_MAGIC {
        return Ok(());
    }
    let names: Vec<_> = destination
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    let whole = names.len() == 1;
    if whole
        || INSIDE_PROC
            .iter()
            .any(|name| Path::new(name) == destination)
    {
        return Ok(());
    }
    Err(io::Error::other("the target is inside /proc"))
}

/// Changes attributes as the options say, first the mount's own, then those of all below.
fn change(mount: &OwnedFd, options: &MountOptions) -> io::Result<()> {
    for (set, clear, all) in [
        (options.set, options.clear, false),
        (options.set_all, options.clear_all, true),
    ] {
        if set | clear == 0 {
            continue;
        }
        let change = sys::MountChange {
            set,
            clear,
            ..sys::MountChange::default()
        };
        match sys::mount_setattr(mount.as_fd(), change, all) {
            // Flags locked by a parent user namespace cannot be cleared; they stay then, as with
            // a bind mount of mount(8).
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && clear != 0 => {
                let keep = sys::MountChange { clear: 0, ..change };
                sys::mount_setattr(mount.as_fd(), keep, all)?;
            }
            other => other?,
        }
    }
    Ok(())
}

fn propagate(mount: &OwnedFd, options: &MountOptions) -> io::Result<()> {
    for (bits, recursive) in &options.propagation {
        let change = sys::MountChange {
            propagation: *bits,
            ..sys::MountChange::default()
        };
        sys::mount_setattr(mount.as_fd(), change, *recursive)?;
    }
    Ok(())
}

/// Shows the container its control groups.
fn control_groups(
    mount: &BundleMount,
    hierarchies: &[Hierarchy],
    namespaced: bool,
    ground: &Ground<'_>,
) -> io::Result<()> {
    let point = make_dirs(ground.root, &mount.destination)?;
    check_point(&point, &mount.destination)?;
    let top = if hierarchies.is_empty() {
        match mounts::new("cgroup2", &[], MountAttrFlags::empty()) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                mounts::copy_path(Path::new("/sys/fs/cgroup"))?
            }
            other => other?,
        }
    } else {
        mounts::new("tmpfs", &[("mode", "755")], mounts::INERT)?
    };
    // The kernel attaches to mounts of a namespace only, so the top comes first.
    mounts::attach(top.as_fd(), point.as_fd())?;
    for hierarchy in hierarchies {
        let shown = show(hierarchy, namespaced)?;
        change(&shown, &mount.options)?;
        rustix::fs::mkdirat(&top, &hierarchy.name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = openat(&top, &hierarchy.name, flags, Mode::empty())?;
        mounts::attach(shown.as_fd(), at.as_fd())?;
        for alias in hierarchy.name.split(',') {
            if alias != hierarchy.name {
                symlinkat(&hierarchy.name, &top, alias)?;
            }
        }
    }
    change(&top, &mount.options)?;
    propagate(&top, &mount.options)
}

/// One version 1 hierarchy: a new mount where the namespace makes the group its root, else a bind
/// mount of the group.
fn show(hierarchy: &Hierarchy, namespaced: bool) -> io::Result<OwnedFd> {
    if namespaced {
        let options: Vec<(&str, &str)> = hierarchy
            .options
            .iter()
            .map(|word| word.split_once('=').unwrap_or((word, "")))
            .collect();
        let fresh = mounts::new("cgroup", &options, mounts::INERT);
        if let Ok(fresh) = fresh {
            return Ok(fresh);
        }
    }
    mounts::copy_path(&hierarchy.group)
}
