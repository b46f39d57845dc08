//! The cases: each does something in a mounted union and says what it saw.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek as _, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{
    self as rfs, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, XattrFlags,
};

use crate::pattern;

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

pub(crate) const CASES: &[Case] = &[
    case("tmpfile gets a name by linkat", tmpfile, "0 1 hello"),
    case(
        "rename does not replace when told so",
        noreplace,
        "EXIST; ok; file gone",
    ),
    case(
        "rename exchanges file and directory",
        exchange,
        "NOENT; ok; file is dir, dir is file",
    ),
    Case {
        kernel: Some("nlink 1, 100 bytes, gone"),
        ..case(
            "lower file is readable after unlink",
            unlinked_read,
            "nlink 0, 100 bytes, gone",
        )
    },
    case(
        "lower file is writable after unlink",
        unlinked_write,
        "nlink 0, 105 bytes, tail hello",
    ),
    case(
        "replaced file stays open",
        replaced,
        "nlink 0, 6 bytes; now 100",
    ),
    Case {
        kernel: Some("old"),
        ..case("shared mapping follows copy-up", mapping, "new")
    },
    case("appending to a lower file", append, "105 hello"),
    case("truncating a lower file by open", open_truncate, "0 then 3"),
    case(
        "deleting while listing",
        delete_while_listing,
        "500 removed, 0 left",
    ),
    case(
        "a directory of 5000 entries",
        many_entries,
        "5000 listed, 5000 distinct",
    ),
    case(
        "rewinding shows new names",
        rewind,
        "before false, after true",
    ),
    case(
        "names of 255 and 256 bytes",
        long_names,
        "ok; NAMETOOLONG x7",
    ),
    case("paths beyond PATH_MAX", deep, "60 deep, ok, removed"),
    case(
        "renaming a lower directory",
        rename_dir,
        "deep; a gone; deep2; 2",
    ),
    case(
        "hard links across copy-up",
        hard_links,
        "2 2 same linked+ linked+ same",
    ),
    case("hard link to a lower file", link_lower, "2 same, 100"),
    case("st_ino across copy-up", st_ino, "same same same"),
    case("d_ino is st_ino", d_ino, "0 differ"),
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
    Case {
        rings: Some("data 0, hole 1052672 or end"),
        ..case("holes", holes, "data 1048576, hole 1052672 or end")
    },
    case(
        "punching a hole in a lower file",
        punch,
        "300000 bytes, zero true, rest true",
    ),
    case("copy_file_range from lower", copy_range, "300000 true"),
    case("statfs", statfs, "255 true"),
    case("fsync", fsync, "ok ok ok"),
    case("setting times", times, "5.7 9.11"),
    case("symlinks of 4095 bytes", symlink, "4095 true 4095"),
    users(
        "special files",
        special,
        "fifo true, char true 1:3, socket true",
    ),
    case(
        "merged directory removed and made again",
        remake,
        "NOTEMPTY; ok; 0 entries; 0 after rename",
    ),
    case("two threads", hammer, "0 errors, 0 left"),
    case(
        "chmod keeps contents and mtime",
        chmod_lower,
        "600 same 300000",
    ),
    case(
        "names of whiteouts are names",
        whiteout_names,
        ".wh.x .wh.y",
    ),
    case("large unaligned writes", large, "3000001 true"),
    case(
        "wrong kinds",
        wrong_kinds,
        "ISDIR NOTDIR EXIST NOTEMPTY INVAL",
    ),
    case(
        "O_APPEND of two writers",
        two_appenders,
        "2000 lines, 2000 whole",
    ),
    case("growing by truncate", grow, "400000 true"),
    case("link count of unlinked names", unlink_one, "1 linked"),
    users("sticky directories", sticky, "PERM then ok"),
];

fn say<T>(result: Result<T, rustix::io::Errno>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => name_of(error),
    }
}

fn name_of(error: rustix::io::Errno) -> String {
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

fn open(path: &Path, flags: OFlags) -> OwnedFd {
    rfs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::from_bits_truncate(0o644),
    )
    .unwrap()
}

fn add(path: &Path, text: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text).unwrap();
}

fn same<T: PartialEq>(a: T, b: T) -> &'static str {
    if a == b { "same" } else { "differs" }
}

pub(crate) fn count(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

fn ino(path: &Path) -> u64 {
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

fn tmpfile(m: &Path) -> String {
    let mut file = File::from(open(m, OFlags::TMPFILE | OFlags::RDWR));
    file.write_all(b"hello").unwrap();
    let before = file.metadata().unwrap().nlink();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rfs::linkat(CWD, path, CWD, m.join("new"), AtFlags::SYMLINK_FOLLOW).unwrap();
    let after = file.metadata().unwrap().nlink();
    format!(
        "{before} {after} {}",
        fs::read_to_string(m.join("new")).unwrap()
    )
}

fn noreplace(m: &Path) -> String {
    let rename =
        |to: &str| rfs::renameat_with(CWD, m.join("file"), CWD, m.join(to), RenameFlags::NOREPLACE);
    let (first, second) = (say(rename("big")), say(rename("fresh")));
    let gone = if m.join("file").symlink_metadata().is_err() {
        "gone"
    } else {
        "there"
    };
    format!("{first}; {second}; file {gone}")
}

fn exchange(m: &Path) -> String {
    let swap = |from: &str, to: &str| {
        rfs::renameat_with(CWD, m.join(from), CWD, m.join(to), RenameFlags::EXCHANGE)
    };
    let (first, second) = (say(swap("file", "nothing")), say(swap("file", "dir")));
    let kind = |name: &str| if m.join(name).is_dir() { "dir" } else { "file" };
    format!(
        "{first}; {second}; file is {}, dir is {}",
        kind("file"),
        kind("dir")
    )
}

fn unlinked_read(m: &Path) -> String {
    let mut file = File::open(m.join("file")).unwrap();
    fs::remove_file(m.join("file")).unwrap();
    let mut data = Vec::new();
    file.read_to_end(&mut data).unwrap();
    let gone = if m.join("file").symlink_metadata().is_err() {
        "gone"
    } else {
        "there"
    };
    format!(
        "nlink {}, {} bytes, {gone}",
        file.metadata().unwrap().nlink(),
        data.len()
    )
}

fn unlinked_write(m: &Path) -> String {
    let path = m.join("file");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all_at(b"hello", 100).unwrap();
    let mut data = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut data).unwrap();
    let tail = String::from_utf8_lossy(&data[100..]).into_owned();
    let nlink = file.metadata().unwrap().nlink();
    format!("nlink {nlink}, {} bytes, tail {tail}", data.len())
}

fn replaced(m: &Path) -> String {
    fs::write(m.join("new"), b"newish").unwrap();
    let mut file = File::open(m.join("new")).unwrap();
    fs::rename(m.join("file"), m.join("new")).unwrap();
    let mut data = Vec::new();
    file.read_to_end(&mut data).unwrap();
    let nlink = file.metadata().unwrap().nlink();
    let now = fs::read(m.join("new")).unwrap().len();
    format!("nlink {nlink}, {} bytes; now {now}", data.len())
}

/// Runs [`map_and_write`] in another process: a page fault that waits for a server in its own
/// process can wait for ever, since the server may need the same address space's lock.
fn mapping(m: &Path) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .arg("--nocapture")
        .env(MAPPING, m)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let word = text.lines().find_map(|line| line.strip_prefix("mapping: "));
    word.unwrap_or("nothing").to_owned()
}

/// Set to the mount point in the process that does only the mapping case.
pub(crate) const MAPPING: &str = "RRUN_BEHAVIOUR_MAPPING";

#[expect(unsafe_code, reason = "a mapping has no safe interface")]
pub(crate) fn map_and_write(m: &Path) -> String {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let reader = File::open(m.join("big")).unwrap();
    let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: a new mapping of a file of 300,000 bytes, which nothing shrinks.
    let map = unsafe { mmap(std::ptr::null_mut(), 4096, prot, flags, &reader, 0) }.unwrap();
    let byte = map.cast::<u8>();
    // SAFETY: the mapping is 4096 bytes long and readable.
    let before = unsafe { byte.read_volatile() };
    let writer = OpenOptions::new().write(true).open(m.join("big")).unwrap();
    writer.write_all_at(&[before.wrapping_add(1)], 0).unwrap();
    // SAFETY: as above.
    let after = unsafe { byte.read_volatile() };
    // SAFETY: the mapping made above, used no more.
    unsafe { munmap(map, 4096) }.unwrap();
    if before == after { "old" } else { "new" }.to_owned()
}

fn append(m: &Path) -> String {
    add(&m.join("file"), b"hello");
    let data = fs::read(m.join("file")).unwrap();
    format!("{} {}", data.len(), String::from_utf8_lossy(&data[100..]))
}

fn open_truncate(m: &Path) -> String {
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(m.join("big"))
        .unwrap();
    let first = file.metadata().unwrap().len();
    file.write_all(b"abc").unwrap();
    format!("{first} then {}", fs::read(m.join("big")).unwrap().len())
}

fn delete_while_listing(m: &Path) -> String {
    let dir = m.join("a");
    fs::remove_file(dir.join("b/c")).unwrap();
    fs::remove_dir(dir.join("b")).unwrap();
    for n in 0..500 {
        fs::write(dir.join(format!("f{n}")), b"").unwrap();
    }
    let mut removed = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        removed += 1;
    }
    format!("{removed} removed, {} left", count(&dir))
}

fn many_entries(m: &Path) -> String {
    let dir = m.join("many");
    fs::create_dir(&dir).unwrap();
    for n in 0..5000 {
        File::create(dir.join(format!("entry{n}"))).unwrap();
    }
    let names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    let distinct: BTreeSet<_> = names.iter().collect();
    format!("{} listed, {} distinct", names.len(), distinct.len())
}

fn rewind(m: &Path) -> String {
    let mut dir = rfs::Dir::new(open(m, OFlags::RDONLY | OFlags::DIRECTORY)).unwrap();
    let has = |dir: &mut rfs::Dir| {
        let mut found = false;
        while let Some(entry) = dir.read() {
            found |= entry.unwrap().file_name().to_bytes() == b"later";
        }
        found
    };
    let before = has(&mut dir);
    File::create(m.join("later")).unwrap();
    dir.rewind();
    format!("before {before}, after {}", has(&mut dir))
}

fn long_names(m: &Path) -> String {
    let (good, bad) = (m.join("n".repeat(255)), m.join("n".repeat(256)));
    fs::write(&good, b"").unwrap();
    fs::remove_file(&good).unwrap();
    let mode = Mode::RWXU;
    let file = m.join("file");
    let all = [
        say(rfs::open(&bad, OFlags::CREATE | OFlags::RDWR, mode)),
        say(rfs::stat(&bad)),
        say(rfs::unlink(&bad)),
        say(rfs::mkdir(&bad, mode)),
        say(rfs::symlink("x", &bad)),
        say(rfs::link(&file, &bad)),
        say(rfs::rename(&file, &bad)),
    ];
    let distinct: BTreeSet<&String> = all.iter().collect();
    let first = all.first().cloned().unwrap_or_default();
    if distinct.len() == 1 {
        format!("ok; {first} x{}", all.len())
    } else {
        format!("ok; {all:?}")
    }
}

fn deep(m: &Path) -> String {
    let name = "d".repeat(200);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dirs = vec![open(m, flags)];
    for _ in 0..60 {
        let last = dirs.last().unwrap();
        rfs::mkdirat(last, &name, Mode::RWXU).unwrap();
        let next = rfs::openat(last, &name, flags, Mode::empty()).unwrap();
        dirs.push(next);
    }
    let depth = dirs.len() - 1;
    let last = dirs.pop().unwrap();
    let mode = Mode::RWXU;
    let made = say(rfs::openat(&last, "f", OFlags::CREATE | OFlags::RDWR, mode));
    rfs::renameat(&last, "f", &last, "g").unwrap();
    rfs::unlinkat(&last, "g", AtFlags::empty()).unwrap();
    drop(last);
    while let Some(dir) = dirs.pop() {
        rfs::unlinkat(&dir, &name, AtFlags::REMOVEDIR).unwrap();
    }
    format!("{depth} deep, {made}, removed")
}

fn rename_dir(m: &Path) -> String {
    fs::rename(m.join("a"), m.join("dir/moved")).unwrap();
    let first = fs::read_to_string(m.join("dir/moved/b/c")).unwrap();
    let gone = if m.join("a").symlink_metadata().is_err() {
        "gone"
    } else {
        "there"
    };
    add(&m.join("dir/moved/b/c"), b"2");
    fs::rename(m.join("dir/moved"), m.join("a")).unwrap();
    let second = fs::read_to_string(m.join("a/b/c")).unwrap();
    fs::write(m.join("a/b/d"), b"").unwrap();
    format!("{first}; a {gone}; {second}; {}", count(&m.join("a/b")))
}

fn hard_links(m: &Path) -> String {
    let (one, two) = (m.join("h1"), m.join("dir/h2"));
    let links = |path: &Path| path.metadata().unwrap().nlink();
    let before = (links(&one), links(&two), ino(&one));
    let equal = same(ino(&one), ino(&two));
    add(&one, b"+");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let after = same(before.2, ino(&two));
    format!(
        "{} {} {equal} {} {} {after}",
        before.0,
        before.1,
        read(&one),
        read(&two)
    )
}

fn link_lower(m: &Path) -> String {
    fs::hard_link(m.join("file"), m.join("a/other")).unwrap();
    let meta = m.join("a/other").metadata().unwrap();
    let equal = same(ino(&m.join("file")), meta.ino());
    format!(
        "{} {equal}, {}",
        meta.nlink(),
        fs::read(m.join("a/other")).unwrap().len()
    )
}

fn st_ino(m: &Path) -> String {
    let (file, big, dir) = (m.join("file"), m.join("big"), m.join("a/b"));
    let before = (ino(&file), ino(&big), ino(&dir));
    add(&file, b"x");
    rfs::chmodat(CWD, &big, Mode::RWXU, AtFlags::empty()).unwrap();
    fs::write(dir.join("new"), b"").unwrap();
    let list = [
        same(before.0, ino(&file)),
        same(before.1, ino(&big)),
        same(before.2, ino(&dir)),
    ];
    list.join(" ")
}

fn d_ino(m: &Path) -> String {
    add(&m.join("dir/one"), b"x");
    fs::write(m.join("dir/new"), b"").unwrap();
    let mut differ = 0;
    let mut dir = rfs::Dir::new(open(&m.join("dir"), OFlags::RDONLY)).unwrap();
    while let Some(entry) = dir.read() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if name != b".." {
            let name = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
            differ += u32::from(ino(&m.join("dir").join(name)) != entry.ino());
        }
    }
    format!("{differ} differ")
}

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

fn holes(m: &Path) -> String {
    let file = File::create(m.join("sparse")).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(2 << 20).unwrap();
    file.sync_all().unwrap();
    let data = rfs::seek(&file, SeekFrom::Data(0)).unwrap();
    let hole = rfs::seek(&file, SeekFrom::Hole(data)).unwrap();
    let hole = if hole == 1_052_672 || hole == 2 << 20 {
        "1052672 or end".to_owned()
    } else {
        hole.to_string()
    };
    format!("data {data}, hole {hole}")
}

fn punch(m: &Path) -> String {
    let path = m.join("big");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rfs::fallocate(&file, flags, 4096, 8192).unwrap();
    let data = fs::read(&path).unwrap();
    let whole = pattern(300_000);
    let zero = data[4096..12288].iter().all(|byte| *byte == 0);
    let rest = data[..4096] == whole[..4096] && data[12288..] == whole[12288..];
    format!("{} bytes, zero {zero}, rest {rest}", data.len())
}

fn copy_range(m: &Path) -> String {
    let (from, to) = (
        File::open(m.join("big")).unwrap(),
        File::create(m.join("copy")).unwrap(),
    );
    loop {
        if rfs::copy_file_range(&from, None, &to, None, 1 << 20).unwrap() == 0 {
            break;
        }
    }
    let data = fs::read(m.join("copy")).unwrap();
    format!("{} {}", data.len(), data == pattern(300_000))
}

fn statfs(m: &Path) -> String {
    let st = rfs::statvfs(m).unwrap();
    format!("{} {}", st.f_namemax, st.f_blocks > 0 && st.f_bsize > 0)
}

fn fsync(m: &Path) -> String {
    add(&m.join("file"), b"x");
    let file = open(&m.join("file"), OFlags::RDONLY);
    let dir = open(&m.join("a"), OFlags::RDONLY);
    let list = [
        say(rfs::fsync(&file)),
        say(rfs::fdatasync(&file)),
        say(rfs::fsync(&dir)),
    ];
    list.join(" ")
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

fn symlink(m: &Path) -> String {
    let target = "t".repeat(4095);
    let path = m.join("long");
    rfs::symlink(&target, &path).unwrap();
    let got = fs::read_link(&path).unwrap();
    let len = got.as_os_str().len();
    let size = path.symlink_metadata().unwrap().len();
    format!("{len} {} {size}", got.as_os_str() == target.as_str())
}

fn special(m: &Path) -> String {
    let node = |name: &str, kind, dev| rfs::mknodat(CWD, m.join(name), kind, Mode::RWXU, dev);
    node("fifo", rfs::FileType::Fifo, 0).unwrap();
    node("null", rfs::FileType::CharacterDevice, rfs::makedev(1, 3)).unwrap();
    node("sock", rfs::FileType::Socket, 0).unwrap();
    let kind = |name: &str| m.join(name).symlink_metadata().unwrap().file_type();
    let rdev = m.join("null").metadata().unwrap().rdev();
    format!(
        "fifo {}, char {} {}:{}, socket {}",
        kind("fifo").is_fifo(),
        kind("null").is_char_device(),
        rfs::major(rdev),
        rfs::minor(rdev),
        kind("sock").is_socket()
    )
}

fn remake(m: &Path) -> String {
    let dir = m.join("dir");
    let full = say(rfs::rmdir(&dir));
    for name in ["one", "two", "three", "h2"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    let removed = say(rfs::rmdir(&dir));
    fs::create_dir(&dir).unwrap();
    let entries = count(&dir);
    fs::rename(&dir, m.join("away")).unwrap();
    fs::create_dir(m.join("fresh")).unwrap();
    fs::rename(m.join("fresh"), &dir).unwrap();
    format!(
        "{full}; {removed}; {entries} entries; {} after rename",
        count(&dir)
    )
}

fn hammer(m: &Path) -> String {
    let work = |mine: &str| {
        let mut errors = 0;
        let mut check = |ok: bool| errors += u32::from(!ok);
        for n in 0..300 {
            let (one, two) = (
                m.join(format!("a/{mine}{n}")),
                m.join(format!("sgid/{mine}")),
            );
            check(fs::write(&one, mine).is_ok());
            check(fs::rename(&one, &two).is_ok());
            check(fs::read(&two).is_ok_and(|data| data == mine.as_bytes()));
            check(fs::read_dir(m.join("a")).is_ok());
            check(fs::create_dir(&one).is_ok());
            check(fs::remove_dir(&one).is_ok());
            check(fs::hard_link(&two, &one).is_ok());
            check(fs::remove_file(&one).is_ok());
            check(fs::remove_file(&two).is_ok());
        }
        errors
    };
    let errors: u32 = std::thread::scope(|scope| {
        let threads = ["x", "y"].map(|name| scope.spawn(move || work(name)));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    format!(
        "{errors} errors, {} left",
        count(&m.join("a")) - 1 + count(&m.join("sgid"))
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

fn whiteout_names(m: &Path) -> String {
    let dir = m.join("a");
    fs::write(dir.join(".wh.x"), b"").unwrap();
    fs::rename(m.join("file"), dir.join(".wh.y")).unwrap();
    let names: BTreeSet<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".wh."))
        .collect();
    names.into_iter().collect::<Vec<_>>().join(" ")
}

fn large(m: &Path) -> String {
    let data = pattern(3_000_000);
    let mut how = OpenOptions::new();
    how.create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o644);
    let file = how.open(m.join("large")).unwrap();
    file.write_all_at(&data, 1).unwrap();
    let got = fs::read(m.join("large")).unwrap();
    format!("{} {}", got.len(), got[1..] == data)
}

fn wrong_kinds(m: &Path) -> String {
    let list = [
        say(rfs::unlink(m.join("dir"))),
        say(rfs::rmdir(m.join("file"))),
        say(rfs::mkdir(m.join("file"), Mode::RWXU)),
        say(rfs::rename(m.join("a"), m.join("dir"))),
        say(rfs::rename(m.join("a"), m.join("a/b/below"))),
    ];
    list.join(" ")
}

fn two_appenders(m: &Path) -> String {
    let path = m.join("log");
    fs::write(&path, b"").unwrap();
    std::thread::scope(|scope| {
        for letter in ["x", "y"] {
            let path = &path;
            scope.spawn(move || {
                let line = format!("{}\n", letter.repeat(50));
                for _ in 0..1000 {
                    add(path, line.as_bytes());
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let whole =
        |line: &&str| line.len() == 50 && (*line == "x".repeat(50) || *line == "y".repeat(50));
    let counts: [&dyn Display; 2] = [&text.lines().count(), &text.lines().filter(whole).count()];
    format!("{} lines, {} whole", counts[0], counts[1])
}

fn grow(m: &Path) -> String {
    let path = m.join("big");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(200_001).unwrap();
    file.set_len(400_000).unwrap();
    let data = fs::read(&path).unwrap();
    let right = data[..200_001] == pattern(200_001) && data[200_001..].iter().all(|b| *b == 0);
    format!("{} {right}", data.len())
}

fn unlink_one(m: &Path) -> String {
    // both names are known before one goes
    let _seen = (ino(&m.join("h1")), ino(&m.join("dir/h2")));
    fs::remove_file(m.join("h1")).unwrap();
    let other = m.join("dir/h2");
    format!(
        "{} {}",
        other.metadata().unwrap().nlink(),
        fs::read_to_string(&other).unwrap()
    )
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
