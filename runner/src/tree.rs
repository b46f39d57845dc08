//! Removing whole trees, however deep and whatever their modes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, openat, unlinkat};

/// Removes `path` and all below it; what is gone already is no error. Follows no links, and goes
/// down by descriptors, so that depth is bounded by neither path length nor stack.
///
/// # Errors
///
/// The first failure, after everything else was tried.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat(CWD, parent, flags, Mode::empty())?;
    let name = std::ffi::CString::new(name.as_encoded_bytes())?;
    empty(&parent, &name)?;
    match unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Empties a directory. A directory deeper down is moved up next to the others once it is seen, so
/// that at most two descriptors are open however deep the tree is.
fn empty(parent: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    let top = open_dir(parent, name)?;
    let mut moved = 0_u64;
    loop {
        let mut again = false;
        let names = entries(&top)?;
        for (entry, kind) in names {
            if kind != FileType::Directory {
                match unlinkat(&top, &entry, AtFlags::empty()) {
                    Ok(()) | Err(rustix::io::Errno::NOENT) => continue,
                    Err(rustix::io::Errno::ISDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if unlinkat(&top, &entry, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            flatten(&top, &entry, &mut moved)?;
            again = true;
            match unlinkat(&top, &entry, AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !again {
            return Ok(());
        }
    }
}

/// Removes a directory's files and moves its directories to `top`.
fn flatten(top: &OwnedFd, name: &std::ffi::CStr, moved: &mut u64) -> io::Result<()> {
    let dir = open_dir(top, name)?;
    for (entry, kind) in entries(&dir)? {
        if kind != FileType::Directory {
            match unlinkat(&dir, &entry, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => continue,
                Err(rustix::io::Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if unlinkat(&dir, &entry, AtFlags::REMOVEDIR).is_ok() {
            continue;
        }
        // Moving a directory needs write access to it, for its "..".
        drop(open_dir(&dir, &entry)?);
        loop {
            *moved += 1;
            let aside = format!(".rrun-removed-{moved}");
            use rustix::fs::{RenameFlags, renameat_with};
            match renameat_with(&dir, &entry, top, &aside, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Opens a directory of ours, giving ourselves the rights to when its mode does not.
fn open_dir(parent: &OwnedFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let all = Mode::from_raw_mode(0o700);
    let dir = match openat(parent, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, all, AtFlags::empty())?;
            openat(parent, name, flags, Mode::empty())?
        }
        other => other?,
    };
    let mode = rustix::fs::fstat(&dir)?.st_mode;
    if mode & 0o700 != 0o700 {
        fchmod(&dir, all)?;
    }
    Ok(dir)
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<(std::ffi::CString, FileType)>> {
    let mut list = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            list.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn deep_and_closed_trees_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        std::fs::write(&keep, "x").unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        symlink(&keep, top.join("link")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, &top, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deeper", Mode::from_raw_mode(0o755)).unwrap();
            at = openat(&at, "deeper", flags, Mode::empty()).unwrap();
        }
        let closed = top.join("closed/inner");
        std::fs::create_dir_all(closed.join("x")).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
        remove(&top).unwrap();
        assert!(!top.try_exists().unwrap());
        assert!(keep.try_exists().unwrap());
    }
}
