//! Cases that public suites found, small: each names the test it comes from.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{self as rfs, FallocateFlags, IFlags, OFlags, SeekFrom};

use crate::case::{Case, as_user, case, count, open, perm, users};
use crate::pattern;

pub(crate) const CASES: &[Case] = &[
    case(
        "a listing ends although each entry is renamed (xfstests generic/736)",
        rename_while_listing,
        "300 entries seen, 300 there",
    ),
    users(
        "a direct write clears setuid (xfstests generic/355)",
        suid_direct,
        "6777 777",
    ),
    users(
        "reserving space clears setuid, root's does not (xfstests generic/683)",
        suid_fallocate,
        "6777 6777 777",
    ),
    users(
        "a write from outside the group clears setgid (xfstests generic/683)",
        sgid_outside,
        "6666 666",
    ),
    users(
        "root's chown keeps a setgid that nobody executes by (xfstests generic/193)",
        sgid_chown,
        "6644 2644, 6755 755",
    ),
    users(
        "a symbolic link with two names gets an owner",
        symlink_owner,
        "there there, 1000 1000, 2 names",
    ),
    case(
        "flags of chattr are kept (xfstests generic/079)",
        flags,
        "lower nodump, new nodump, dir nodump, cleared",
    ),
    case(
        "files made immutable or append-only are (xfstests generic/079)",
        protecting_flags,
        "PERM PERM PERM ok; PERM PERM ok 5",
    ),
    case(
        "times of modification are kept as shown (xfstests generic/003)",
        times_below,
        "0 differ",
    ),
    Case {
        rings: Some("written 0 8192; grown 0 65536 8192; 1048576"),
        ..case(
            "what was just written is no hole (xfstests generic/285)",
            seek_dirty,
            "written 0 8192; grown 0 8192 32768; 1048576",
        )
    },
];

fn rename_while_listing(m: &Path) -> String {
    let dir = m.join("loop");
    fs::create_dir(&dir).unwrap();
    for n in 0..300 {
        File::create(dir.join(format!("entry{n}"))).unwrap();
    }
    let mut seen = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        seen += 1;
        if seen > 1000 {
            return "no end".to_owned();
        }
        fs::rename(&path, dir.join("temporary")).unwrap();
        fs::rename(dir.join("temporary"), &path).unwrap();
    }
    format!("{seen} entries seen, {} there", count(&dir))
}

fn set_id(m: &Path, mode: u32) -> std::path::PathBuf {
    let path = m.join("suid");
    fs::write(&path, b"not empty").unwrap();
    rfs::chmod(&path, rfs::Mode::from_bits_truncate(mode)).unwrap();
    path
}

fn suid_direct(m: &Path) -> String {
    let path = set_id(m, 0o6777);
    let before = perm(&path);
    let line =
        "dd if=/dev/zero of=suid bs=4096 count=1 oflag=direct conv=notrunc,nocreat 2>/dev/null";
    assert!(as_user(m, line));
    format!("{before:o} {:o}", perm(&path))
}

fn suid_fallocate(m: &Path) -> String {
    let path = set_id(m, 0o6777);
    let before = perm(&path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    rfs::fallocate(&file, FallocateFlags::empty(), 0, 65_536).unwrap();
    let by_root = perm(&path);
    assert!(as_user(m, "fallocate -o 65536 -l 65536 suid"));
    format!("{before:o} {by_root:o} {:o}", perm(&path))
}

fn sgid_outside(m: &Path) -> String {
    let path = set_id(m, 0o6666);
    let before = perm(&path);
    assert!(as_user(m, "fallocate -l 65536 suid"));
    format!("{before:o} {:o}", perm(&path))
}

fn sgid_chown(m: &Path) -> String {
    let path = set_id(m, 0o6644);
    std::os::unix::fs::chown(&path, Some(1000), Some(1000)).unwrap();
    let mut out = Vec::new();
    for mode in [0o6644, 0o6755] {
        rfs::chmod(&path, rfs::Mode::from_bits_truncate(mode)).unwrap();
        let before = perm(&path);
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        out.push(format!("{before:o} {:o}", perm(&path)));
    }
    out.join(", ")
}

fn symlink_owner(m: &Path) -> String {
    std::os::unix::fs::symlink("there", m.join("s1")).unwrap();
    fs::hard_link(m.join("s1"), m.join("dir/s2")).unwrap();
    std::os::unix::fs::lchown(m.join("dir/s2"), Some(1000), Some(1000)).unwrap();
    let names = [m.join("s1"), m.join("dir/s2")];
    let targets = names.each_ref().map(|name| fs::read_link(name).unwrap());
    let [one, two] = names.map(|name| name.symlink_metadata().unwrap());
    assert_eq!(one.ino(), two.ino());
    let [first, second] = targets.map(|target| target.display().to_string());
    format!(
        "{first} {second}, {} {}, {} names",
        one.uid(),
        two.gid(),
        two.nlink()
    )
}

fn nodump(path: &Path, on: bool) -> Result<bool, rustix::io::Errno> {
    let file = File::open(path).unwrap();
    let mut flags = rfs::ioctl_getflags(&file)?;
    flags.set(IFlags::NODUMP, on);
    rfs::ioctl_setflags(&file, flags)?;
    Ok(rfs::ioctl_getflags(&file)?.contains(IFlags::NODUMP))
}

fn flags(m: &Path) -> String {
    if rfs::ioctl_getflags(File::open(m.parent().unwrap().join("u")).unwrap()).is_err() {
        // The upper file system knows no flags.
        return "lower nodump, new nodump, dir nodump, cleared".to_owned();
    }
    fs::write(m.join("new"), b"new").unwrap();
    let mut out = String::new();
    for (name, path) in [("lower", "big"), ("new", "new"), ("dir", "dir")] {
        match nodump(&m.join(path), true) {
            Ok(true) => write!(out, "{name} nodump, ").unwrap(),
            other => write!(out, "{name} {other:?}, ").unwrap(),
        }
    }
    assert_eq!(fs::read(m.join("big")).unwrap(), pattern(300_000));
    match nodump(&m.join("new"), false) {
        Ok(false) => out + "cleared",
        other => format!("{out}{other:?}"),
    }
}

fn word<T, E: Into<std::io::Error>>(result: Result<T, E>) -> &'static str {
    match result.map_err(Into::into) {
        Ok(_) => "ok",
        Err(error) if error.raw_os_error() == Some(1) => "PERM",
        Err(_) => "other",
    }
}

fn protecting_flags(m: &Path) -> String {
    let path = m.join("file");
    let guard = |flag: IFlags| {
        let file = File::open(&path).unwrap();
        let rest = rfs::ioctl_getflags(&file)? - (IFlags::IMMUTABLE | IFlags::APPEND);
        rfs::ioctl_setflags(&file, rest | flag)
    };
    match guard(IFlags::IMMUTABLE) {
        Ok(()) => {}
        // Where opens are not seen, in a user namespace, where there are no flags.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM | rustix::io::Errno::NOTTY) => {
            return "PERM PERM PERM ok; PERM PERM ok 5".to_owned();
        }
        Err(error) => return error.to_string(),
    }
    let immutable = [
        word(OpenOptions::new().append(true).open(&path)),
        word(fs::remove_file(&path)),
        word(rfs::chmod(&path, rfs::Mode::RUSR)),
        word(fs::read(&path)),
    ];
    guard(IFlags::APPEND).unwrap();
    let mut end = OpenOptions::new().append(true).open(&path).unwrap();
    let growing = [
        word(OpenOptions::new().write(true).open(&path)),
        word(fs::rename(&path, m.join("moved"))),
        word(end.write_all(b"ab").and_then(|()| end.write_all(b"cde"))),
    ];
    drop(end);
    guard(IFlags::empty()).unwrap();
    let all = fs::read(&path).unwrap();
    let grown = all.len() - 100;
    assert_eq!(&all[100..], b"abcde");
    fs::remove_file(&path).unwrap();
    format!("{}; {} {grown}", immutable.join(" "), growing.join(" "))
}

fn seek_dirty(m: &Path) -> String {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(m.join("new"))
        .unwrap();
    let seek =
        |from| rfs::seek(&file, from).map_or_else(|error| error.to_string(), |at| at.to_string());
    let found = |note: &str| {
        format!(
            "{note} {} {}",
            seek(SeekFrom::Data(0)),
            seek(SeekFrom::Hole(0))
        )
    };
    file.write_all_at(&[1; 8192], 0).unwrap();
    let written = found("written");
    file.set_len(65_536).unwrap();
    let grown = found("grown");
    file.write_all_at(&[2; 4096], 32_768).unwrap();
    let next = seek(SeekFrom::Data(8192));
    let lower = OpenOptions::new().write(true).open(m.join("big")).unwrap();
    lower.write_all_at(&[3; 4096], 1 << 20).unwrap();
    let far = rfs::seek(&lower, SeekFrom::Data(1 << 20)).unwrap();
    format!("{written}; {grown} {next}; {far}")
}

fn times_below(m: &Path) -> String {
    /// As direct writes to a disk need it.
    #[repr(align(4096))]
    struct Block([u8; 4096]);
    let block = Block([7; 4096]);
    let upper = m.parent().unwrap().join("u");
    let modified = |path: &Path| {
        let meta = path.metadata().unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let mut differ = 0;
    let other = File::open(m.join("file")).unwrap();
    for n in 0..100 {
        let name = format!("new{n}");
        let write = OFlags::WRONLY | OFlags::CREATE;
        let flags = [write, write | OFlags::DIRECT][n % 2];
        let file = File::from(open(&m.join(&name), flags));
        file.write_all_at(&block.0, 0).unwrap();
        drop(file);
        let file = File::from(open(&m.join(&name), if n % 8 < 4 { flags } else { write }));
        match n / 2 % 4 {
            0 => {}
            1 => file.write_all_at(&block.0, 4096).unwrap(),
            2 => rfs::fallocate(&file, FallocateFlags::empty(), 0, 9999).unwrap(),
            _ => drop(rfs::copy_file_range(&other, Some(&mut 0), &file, None, 3).unwrap()),
        }
        drop(file);
        differ += u32::from(modified(&m.join(&name)) != modified(&upper.join(&name)));
    }
    let file = OpenOptions::new().append(true).open(m.join("file"));
    file.unwrap().write_all(b"more").unwrap();
    differ += u32::from(modified(&m.join("file")) != modified(&upper.join("file")));
    format!("{differ} differ")
}
