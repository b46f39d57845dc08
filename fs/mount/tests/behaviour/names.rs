//! Names: making, moving and removing them, links, listings.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{self as rfs, AtFlags, CWD, Mode, OFlags, RenameFlags};

use crate::case::{Case, add, case, count, ino, open, same, say, users};

pub(crate) const CASES: &[Case] = &[
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
        "names of whiteouts are names",
        whiteout_names,
        ".wh.x .wh.y",
    ),
    case(
        "wrong kinds",
        wrong_kinds,
        "ISDIR NOTDIR EXIST NOTEMPTY INVAL",
    ),
    case("link count of unlinked names", unlink_one, "1 linked"),
];

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
