//! Contents: reading, writing, sizes, holes, mappings, and files without a name.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek as _, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{self as rfs, AtFlags, CWD, FallocateFlags, OFlags, SeekFrom};

use crate::case::{Case, add, case, open, say};
use crate::pattern;

pub(crate) const CASES: &[Case] = &[
    case("tmpfile gets a name by linkat", tmpfile, "0 1 hello"),
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
    case(
        "writing to a mapping is a modification (xfstests generic/080)",
        mapping_times,
        "new, with another name new",
    ),
    case("appending to a lower file", append, "105 hello"),
    case("truncating a lower file by open", open_truncate, "0 then 3"),
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
    case("fsync", fsync, "ok ok ok"),
    case("large unaligned writes", large, "3000001 true"),
    case(
        "O_APPEND of two writers",
        two_appenders,
        "2000 lines, 2000 whole",
    ),
    case("growing by truncate", grow, "400000 true"),
];

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

/// Does one of [`MAPPINGS`] in another process: a page fault that waits for a server in its own
/// process can wait for ever, since the server may need the same address space's lock.
fn in_another_process(m: &Path, which: &str) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .arg("--nocapture")
        .env(MAPPING, m)
        .env(MAPPING_WHICH, which)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let word = text.lines().find_map(|line| line.strip_prefix("mapping: "));
    word.unwrap_or("nothing").to_owned()
}

fn mapping(m: &Path) -> String {
    in_another_process(m, "copy-up")
}

fn mapping_times(m: &Path) -> String {
    in_another_process(m, "times")
}

/// Set to the mount point in the process that does only a mapping case.
pub(crate) const MAPPING: &str = "RRUN_BEHAVIOUR_MAPPING";
/// Set to which one.
const MAPPING_WHICH: &str = "RRUN_BEHAVIOUR_MAPPING_WHICH";

/// What that process does.
pub(crate) fn map(m: &Path) -> String {
    match std::env::var(MAPPING_WHICH).as_deref() {
        Ok("copy-up") => map_and_write(m),
        Ok("times") => map_and_look(m),
        other => format!("no case {other:?}"),
    }
}

#[expect(unsafe_code, reason = "a mapping has no safe interface")]
fn map_and_write(m: &Path) -> String {
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

#[expect(unsafe_code, reason = "a mapping has no safe interface")]
fn map_and_look(m: &Path) -> String {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    let path = m.join("mapped");
    fs::write(&path, [1; 4096]).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    let is_old = || path.metadata().unwrap().modified().unwrap() == old;
    let age = |file: &File| file.set_modified(old).unwrap();
    age(&File::open(&path).unwrap());
    assert!(is_old());
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.unwrap();
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping of a file of 4096 bytes, which nothing shrinks.
    let map = unsafe { mmap(std::ptr::null_mut(), 4096, prot, flags, &file, 0) }.unwrap();
    let byte = map.cast::<u8>();
    // SAFETY: the mapping is 4096 bytes long and writable.
    unsafe { byte.write_volatile(2) };
    let first = if is_old() { "old" } else { "new" };
    // The next write is the first to a clean page again.
    // SAFETY: the mapping made above.
    unsafe { msync(map, 4096, MsyncFlags::SYNC) }.unwrap();
    age(&file);
    fs::hard_link(&path, m.join("mapped too")).unwrap();
    assert!(is_old());
    // SAFETY: as above.
    unsafe { byte.write_volatile(3) };
    let second = if is_old() { "old" } else { "new" };
    // SAFETY: the mapping made above, used no more.
    unsafe { munmap(map, 4096) }.unwrap();
    format!("{first}, with another name {second}")
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
