//! Attributes: owners, modes, ACLs and other extended attributes, times.

use std::fs::{self};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{self as rfs, AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use crate::case::{Case, add, as_user, case, open, perm, same, say, users};

pub(crate) const CASES: &[Case] = &[
    users("setgid directories", setgid, "2755 1234, 644 1234"),
    case("umask", umask, "640 750"),
    case("default ACL beats umask", default_acl, "660 770 true"),
    users(
        "setuid goes with a write by another",
        suid_write,
        "6777 777",
    ),
    users(
        "setuid goes with truncation by another",
        suid_truncate,
        "6777 777",
    ),
    users("setuid goes with chown", suid_chown, "6777 777 1000:1000"),
    users("capabilities go with a write", capability, "20 then NODATA"),
    case(
        "xattr round trip",
        xattrs,
        "v1; EXIST; NODATA; list user.a; gone",
    ),
    case("marks are hidden", hidden_marks, "none"),
    case("statfs", statfs, "255 true"),
    case("setting times", times, "5.7 9.11"),
    case(
        "chmod keeps contents and mtime",
        chmod_lower,
        "600 same 300000",
    ),
    users("sticky directories", sticky, "PERM then ok"),
];

fn setgid(m: &Path) -> String {
    let dir = m.join("sgid");
    rfs::mkdir(dir.join("d"), Mode::from_bits_truncate(0o755)).unwrap();
    drop(open(&dir.join("f"), OFlags::CREATE | OFlags::RDWR));
    let gid = |name: &str| dir.join(name).metadata().unwrap().gid();
    let (d, f) = (perm(&dir.join("d")), perm(&dir.join("f")));
    format!("{d:o} {}, {f:o} {}", gid("d"), gid("f"))
}

fn with_umask(m: &Path, dir: &str) -> (u32, u32) {
    let line = format!("umask 027; cd '{dir}' && : > f && mkdir d && chmod a+t d && chmod a-t d");
    let status = Command::new("sh")
        .args(["-c", &line])
        .current_dir(m)
        .status()
        .unwrap();
    assert!(status.success());
    (perm(&m.join(dir).join("f")), perm(&m.join(dir).join("d")))
}

fn umask(m: &Path) -> String {
    let (file, dir) = with_umask(m, "a");
    format!("{file:o} {dir:o}")
}

fn default_acl(m: &Path) -> String {
    // user::rwx user:1000:rwx group::--- mask::rwx other::---
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in [
        (0x01_u16, 7_u16, u32::MAX),
        (0x02, 7, 0),
        (0x04, 0, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&bits.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let name = "system.posix_acl_default";
    rfs::setxattr(m.join("a"), name, &acl, XattrFlags::empty()).unwrap();
    let (file, dir) = with_umask(m, "a");
    let mut value = vec![0; 100];
    let len = rfs::getxattr(m.join("a/d"), name, &mut *value).unwrap();
    format!("{file:o} {dir:o} {}", value[..len] == acl)
}

fn suid_write(m: &Path) -> String {
    let before = perm(&m.join("suid"));
    assert!(as_user(m, "echo more >> suid"));
    format!("{before:o} {:o}", perm(&m.join("suid")))
}

fn suid_truncate(m: &Path) -> String {
    let before = perm(&m.join("suid"));
    assert!(as_user(m, ": > suid"));
    format!("{before:o} {:o}", perm(&m.join("suid")))
}

fn suid_chown(m: &Path) -> String {
    let path = m.join("suid");
    let before = perm(&path);
    std::os::unix::fs::chown(&path, Some(1000), Some(1000)).unwrap();
    let meta = path.metadata().unwrap();
    format!("{before:o} {:o} {}:{}", perm(&path), meta.uid(), meta.gid())
}

fn capability(m: &Path) -> String {
    // struct vfs_cap_data, revision 2, CAP_NET_RAW permitted and effective
    let mut value = 0x0200_0001_u32.to_le_bytes().to_vec();
    for word in [1_u32 << 13, 0, 0, 0] {
        value.extend_from_slice(&word.to_le_bytes());
    }
    let (path, name) = (m.join("file"), "security.capability");
    rfs::setxattr(&path, name, &value, XattrFlags::empty()).unwrap();
    let mut buffer = [0; 64];
    let before = rfs::getxattr(&path, name, &mut buffer).unwrap();
    add(&path, b"x");
    format!(
        "{before} then {}",
        say(rfs::getxattr(&path, name, &mut buffer))
    )
}

fn xattrs(m: &Path) -> String {
    let path = m.join("file");
    let set = |value: &[u8], flags| rfs::setxattr(&path, "user.a", value, flags);
    set(b"v1", XattrFlags::CREATE).unwrap();
    let mut buffer = [0; 64];
    let len = rfs::getxattr(&path, "user.a", &mut buffer).unwrap();
    let value = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let again = say(set(b"v2", XattrFlags::CREATE));
    let missing = say(rfs::setxattr(&path, "user.b", b"x", XattrFlags::REPLACE));
    let list = listed(&path);
    rfs::removexattr(&path, "user.a").unwrap();
    let gone = match rfs::getxattr(&path, "user.a", &mut buffer) {
        Err(rustix::io::Errno::NODATA) => "gone".to_owned(),
        other => say(other),
    };
    format!("{value}; {again}; {missing}; list {list}; {gone}")
}

fn listed(path: &Path) -> String {
    let mut buffer = [0; 4096];
    let len = rfs::listxattr(path, &mut buffer).unwrap();
    let names: Vec<_> = buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.join(",")
}

fn hidden_marks(m: &Path) -> String {
    add(&m.join("big"), b"x");
    fs::rename(m.join("a"), m.join("z")).unwrap();
    fs::remove_dir_all(m.join("dir")).unwrap();
    fs::create_dir(m.join("dir")).unwrap();
    let all: String = ["big", "z", "dir"]
        .iter()
        .map(|name| listed(&m.join(name)))
        .collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all
    }
}

fn statfs(m: &Path) -> String {
    let st = rfs::statvfs(m).unwrap();
    format!("{} {}", st.f_namemax, st.f_blocks > 0 && st.f_bsize > 0)
}

fn times(m: &Path) -> String {
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: at(5, 7),
        last_modification: at(9, 11),
    };
    rfs::utimensat(CWD, m.join("file"), &times, AtFlags::empty()).unwrap();
    let meta = m.join("file").metadata().unwrap();
    let one = |secs: i64, nanos: i64| format!("{secs}.{nanos}");
    format!(
        "{} {}",
        one(meta.atime(), meta.atime_nsec()),
        one(meta.mtime(), meta.mtime_nsec())
    )
}

fn chmod_lower(m: &Path) -> String {
    let path = m.join("big");
    let before = path.metadata().unwrap().mtime_nsec();
    let mode = Mode::RUSR | Mode::WUSR;
    rfs::chmodat(CWD, &path, mode, AtFlags::empty()).unwrap();
    let after = path.metadata().unwrap().mtime_nsec();
    let len = fs::read(&path).unwrap().len();
    format!("{:o} {} {len}", perm(&path), same(before, after))
}

fn sticky(m: &Path) -> String {
    let dir = m.join("tmp");
    rfs::mkdir(&dir, Mode::RWXU).unwrap();
    rfs::chmodat(
        CWD,
        &dir,
        Mode::from_bits_truncate(0o1777),
        AtFlags::empty(),
    )
    .unwrap();
    fs::write(dir.join("roots"), b"").unwrap();
    let refused = if as_user(&dir, "rm -f roots") {
        "ok"
    } else {
        "PERM"
    };
    let own = if as_user(&dir, "echo > mine && rm mine") {
        "ok"
    } else {
        "PERM"
    };
    format!("{refused} then {own}")
}
