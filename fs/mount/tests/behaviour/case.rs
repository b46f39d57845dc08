//! What a case is, and what cases are written with.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{self as rfs, Mode, OFlags};

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Path) -> String,
    pub(crate) expect: &'static str,
    /// What kernel overlayfs does instead, where it is known to differ.
    pub(crate) kernel: Option<&'static str>,
    /// What ours does instead where the kernel holds writes back and requests come by rings.
    pub(crate) rings: Option<&'static str>,
    /// Needs more than one user id.
    pub(crate) needs_users: bool,
}

pub(crate) const fn case(
    name: &'static str,
    run: fn(&Path) -> String,
    expect: &'static str,
) -> Case {
    Case {
        name,
        run,
        expect,
        kernel: None,
        rings: None,
        needs_users: false,
    }
}

pub(crate) const fn users(
    name: &'static str,
    run: fn(&Path) -> String,
    expect: &'static str,
) -> Case {
    Case {
        needs_users: true,
        ..case(name, run, expect)
    }
}

pub(crate) fn say<T>(result: Result<T, rustix::io::Errno>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => name_of(error),
    }
}

pub(crate) fn name_of(error: rustix::io::Errno) -> String {
    use rustix::io::Errno as E;
    match error {
        E::EXIST => "EXIST",
        E::NOENT => "NOENT",
        E::NAMETOOLONG => "NAMETOOLONG",
        E::NODATA => "NODATA",
        E::NOTEMPTY => "NOTEMPTY",
        E::ISDIR => "ISDIR",
        E::NOTDIR => "NOTDIR",
        E::INVAL => "INVAL",
        E::PERM => "PERM",
        other => return format!("{other:?}"),
    }
    .to_owned()
}

pub(crate) fn open(path: &Path, flags: OFlags) -> OwnedFd {
    rfs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::from_bits_truncate(0o644),
    )
    .unwrap()
}

pub(crate) fn add(path: &Path, text: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text).unwrap();
}

pub(crate) fn same<T: PartialEq>(a: T, b: T) -> &'static str {
    if a == b { "same" } else { "differs" }
}

pub(crate) fn count(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

pub(crate) fn ino(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

pub(crate) fn perm(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// Runs a shell line as another user.
pub(crate) fn as_user(dir: &Path, line: &str) -> bool {
    Command::new("sh")
        .args(["-c", line])
        .current_dir(dir)
        .uid(1000)
        .gid(1000)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
        .success()
}
