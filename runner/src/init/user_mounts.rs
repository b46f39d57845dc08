//! The mounts that were asked for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, fstat, major, minor, statx};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::{Made, root};
use crate::config::{Mount, MountKind, Propagation};
use crate::error::{Failure, Step as _};
use crate::plan::{self, DeviceNodes};
use crate::{mounts, rooted, sys};

/// Magic number of procfs. Source: `statfs(2)`.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Copies what mounts of the host spread into, while they still do.
pub(super) fn open_spreading(list: &[Mount], made: &mut Made) -> Result<(), Failure> {
    for mount in list {
        let MountKind::Bind {
            source,
            propagation,
            alone,
        } = &mount.kind
        else {
            continue;
        };
        let what = format!("mount {} on {}", source.display(), mount.target.display());
        let copy = copy(source, *alone).step(&what)?;
        let bit = match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            // The copy of a shared mount is shared with it.
            Propagation::Shared => 0,
        };
        if bit != 0 {
            mounts::set_propagation(&copy, bit).step(&what)?;
        }
        made.spreading.push((mount.target.clone(), copy));
    }
    Ok(())
}

fn copy(source: &Path, alone: bool) -> io::Result<OwnedFd> {
    if !alone {
        return mounts::copy_path(source);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, source, flags)?)
}

/// Makes one mount.
pub(super) fn mount(mount: &Mount, made: &mut Made) -> Result<(), Failure> {
    let target = mount.target.display();
    match &mount.kind {
        MountKind::Bind { source, alone, .. } => {
            let what = format!("mount {} on {target}", source.display());
            let place = made
                .spreading
                .iter()
                .position(|(at, _)| *at == mount.target);
            let copy = match place {
                Some(place) => made.spreading.swap_remove(place).1,
                None => copy(source, *alone).step(&what)?,
            };
            if made.nodes == DeviceNodes::Barred && !is_usual(&copy).step(&what)? {
                mounts::bar_devices(&copy).step(&what)?;
            }
            attach(mount, &copy, made).step(&what)
        }
        MountKind::Device { source } => {
            let what = format!("mount {} on {target}", source.display());
            let copy = mounts::copy_path(source).step(&what)?;
            attach(mount, &copy, made).step(&what)
        }
        MountKind::Tmpfs { options } => {
            let what = format!("mount tmpfs on {target}");
            let (mut attributes, options, read_only) = mounts::split_options(options);
            if made.nodes == DeviceNodes::Barred {
                attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
            }
            let fresh = mounts::new("tmpfs", &options, attributes).step(&what)?;
            if read_only || mount.read_only {
                mounts::set_read_only(&fresh, false).step(&what)?;
            }
            let root = root(made)?;
            let point = rooted::make_dirs(root, &mount.target).step(&what)?;
            check_mount_point(&point, made).step(&what)?;
            mounts::attach(fresh.as_fd(), point.as_fd()).step(&what)
        }
    }
}

/// Puts a copy of something of the host where it is wanted.
fn attach(mount: &Mount, copy: &OwnedFd, made: &Made) -> io::Result<()> {
    if mount.read_only {
        mounts::set_read_only(copy, true)?;
    }
    let missing = |failure: Failure| io::Error::other(failure.text);
    let root = root(made).map_err(missing)?;
    let directory = FileType::from_raw_mode(fstat(copy)?.st_mode) == FileType::Directory;
    let point = if directory {
        rooted::make_dirs(root, &mount.target)
    } else {
        rooted::make_file(root, &mount.target)
    }?;
    check_mount_point(&point, made)?;
    mounts::attach(copy.as_fd(), point.as_fd())
}

/// Whether this is a device that every container may use anyway.
fn is_usual(file: &OwnedFd) -> io::Result<bool> {
    let stat = fstat(file)?;
    let numbers = (major(stat.st_rdev), minor(stat.st_rdev));
    let usual = plan::DEVICES
        .iter()
        .any(|(_, major, minor)| (*major, *minor) == numbers);
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && usual)
}

/// The number of the file system that something is on; its server is not asked, as `statfs(2)` and
/// `fstat(2)` would.
pub(super) fn device(file: &OwnedFd) -> io::Result<(u32, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, "", flags, StatxFlags::empty())?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

/// A mount on a path of procfs would fake what processes are told of themselves.
fn check_mount_point(point: &OwnedFd, made: &Made) -> io::Result<()> {
    if made.root_device == Some(device(point)?) {
        return Ok(());
    }
    if sys::filesystem_magic(point.as_fd())? == PROC_SUPER_MAGIC {
        return Err(io::Error::other("the target is inside /proc"));
    }
    Ok(())
}
