//! Copies what a new tmpfs would hide into it (`tmpcopyup`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
};

/// Deepest directory copied: a tree in an image is seldom half as deep, and each level holds two
/// descriptors.
const DEPTH_MAX: usize = 128;

/// Copies the entries of a directory, with owners, modes and times.
///
/// # Errors
///
/// `ELOOP` past [`DEPTH_MAX`]; those of the calls that read and write.
pub(crate) fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = openat(from, ".", flags, Mode::empty())?;
    let to = openat(to, ".", flags, Mode::empty())?;
    entries(&from, &to, DEPTH_MAX)?;
    dress(&to, &rustix::fs::fstat(&from)?)
}

fn entries(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    let Some(below) = depth.checked_sub(1) else {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    };
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner_from = openat(from, name, flags, Mode::empty())?;
                let inner_to = openat(to, name, flags, Mode::empty())?;
                entries(&inner_from, &inner_to, below)?;
                dress(&inner_to, &stat)?;
            }
            FileType::RegularFile => file(from, to, name, &stat)?,
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                own(to, name, &stat)?;
            }
            kind @ (FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                mknodat(to, name, kind, mode, stat.st_rdev)?;
                own(to, name, &stat)?;
            }
        }
    }
    Ok(())
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = std::fs::File::from(openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
    let mut target = std::fs::File::from(target);
    io::copy(&mut source, &mut target)?;
    dress(&target, stat)
}

/// Gives an open file the owner, mode and times of another.
fn dress(fd: impl AsFd, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(&fd, Some(uid), Some(gid))?;
    fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(futimens(&fd, &times)?)
}

fn own(dir: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(chownat(
        dir,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d/f"), "text").unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(from.path().join("d/f"), mode).unwrap();
        std::os::unix::fs::symlink("/nowhere", from.path().join("l")).unwrap();
        let open = |path: &std::path::Path| std::fs::File::open(path).unwrap();
        directory(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        assert_eq!(
            std::fs::read_to_string(to.path().join("d/f")).unwrap(),
            "text"
        );
        let copied = std::fs::metadata(to.path().join("d/f")).unwrap();
        assert_eq!(copied.permissions().mode() & 0o777, 0o640);
        let link = std::fs::read_link(to.path().join("l")).unwrap();
        assert_eq!(link, std::path::Path::new("/nowhere"));
    }
}
