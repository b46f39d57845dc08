//! What a killed process, a second one, or a full disk leaves behind.
#![expect(clippy::unwrap_used, reason = "test code")]
#![allow(dead_code, reason = "the common module is shared with the model test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{Fixture, is_root, options, pattern};
use rrun_core::Errno;
use rrun_union::{
    Caller, DirLayers, IdStore, Ino, OnWrite, RenameMode, SetAttr, Union, UnionError,
};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn find(union: &Union, path: &str) -> Result<Ino, Errno> {
    let mut at = Ino::ROOT;
    for part in path.split('/') {
        at = union.lookup(at, part.as_bytes())?.ino;
    }
    Ok(at)
}

fn read(union: &Union, path: &str) -> Vec<u8> {
    let ino = find(union, path).unwrap();
    let mut bytes = vec![0; 400_000];
    let count = union.read(ino, 0, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

fn work_names(fixture: &Fixture) -> Vec<String> {
    fs::read_dir(fixture.path("work"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "index")
        .collect()
}

#[test]
fn what_a_killed_process_left_in_the_work_directory_is_removed() {
    let fixture = Fixture::new();
    let work = fixture.path("work");
    fs::write(work.join("#0"), b"half a copy").unwrap();
    fs::create_dir_all(work.join("#1/below/deeper")).unwrap();
    fs::write(work.join("#1/below/file"), b"x").unwrap();
    std::os::unix::fs::symlink("/etc", work.join("#2")).unwrap();
    let union = fixture.open(options(IdStore::Virtual, true)).unwrap();
    assert_eq!(work_names(&fixture), Vec::<String>::new());
    // and the names are free again
    for path in ["a/f", "d", "c/a"] {
        let ino = find(&union, path).unwrap();
        union.write(ino, 1, b"new", OnWrite::Keep).unwrap();
    }
    assert_eq!(work_names(&fixture), Vec::<String>::new());
    assert!(Path::new("/etc/passwd").is_file());
}

#[test]
fn a_copy_up_that_never_got_its_name_changes_nothing() {
    let fixture = Fixture::new();
    let before = {
        let union = fixture.open(options(IdStore::Virtual, true)).unwrap();
        read(&union, "d")
    };
    // the copy was made and dressed, then the process died before it was moved into place
    fs::write(fixture.path("work").join("#5"), &before[..100]).unwrap();
    let union = fixture.open(options(IdStore::Virtual, true)).unwrap();
    assert_eq!(read(&union, "d"), before);
    assert_eq!(work_names(&fixture), Vec::<String>::new());
}

#[test]
fn a_second_writer_is_refused_and_a_reader_is_not() {
    let fixture = Fixture::new();
    let first = fixture.open(options(IdStore::Virtual, true)).unwrap();
    let second = fixture.open(options(IdStore::Virtual, true));
    assert!(matches!(second, Err(UnionError::Busy(_))), "{second:?}");
    let mut read_only = options(IdStore::Virtual, true);
    read_only.read_only = true;
    fixture.open(read_only).unwrap();
    drop(first);
    fixture.open(options(IdStore::Virtual, true)).unwrap();
}

#[test]
fn half_written_sparse_copies_survive_a_restart() {
    let fixture = Fixture::new();
    let mut expected = pattern(2, 300_000);
    for round in 0..20_usize {
        let union = fixture.open(options(IdStore::Virtual, true)).unwrap();
        let ino = find(&union, "big").unwrap();
        let at = round * 13_331;
        union
            .write(ino, at as u64, b"written", OnWrite::Keep)
            .unwrap();
        expected[at..at + 7].copy_from_slice(b"written");
        if round == 15 {
            let set = SetAttr {
                size: Some(280_001),
                ..SetAttr::default()
            };
            union.setattr(ino, &set).unwrap();
            expected.truncate(280_001);
        }
        assert_eq!(read(&union, "big"), expected, "round {round}");
    }
}

/// Dot-file whiteouts are what an upper directory of an unprivileged fuse-overlayfs holds.
#[test]
fn dot_file_whiteouts_in_the_upper_directory_give_way() {
    let fixture = Fixture::new();
    let upper = fixture.path("upper");
    for name in [".wh.a", ".wh.d", ".wh.e", ".wh.link"] {
        fs::write(upper.join(name), b"").unwrap();
    }
    let caller = Caller::default();
    for round in 0..2 {
        let union = fixture.open(options(IdStore::Virtual, true)).unwrap();
        if round == 0 {
            for name in ["a", "d", "e", "link"] {
                assert_eq!(find(&union, name), Err(Errno::ENOENT), "{name}");
            }
            union.mkdir(Ino::ROOT, b"a", 0o755, &caller).unwrap();
            union.mkdir(Ino::ROOT, b"new", 0o755, &caller).unwrap();
            let (from, to) = ((Ino::ROOT, &b"new"[..]), (Ino::ROOT, &b"e"[..]));
            union.rename(from, to, RenameMode::Replace).unwrap();
            union.symlink(Ino::ROOT, b"d", b"x", &caller).unwrap();
            let (from, to) = ((Ino::ROOT, &b"big"[..]), (Ino::ROOT, &b"link"[..]));
            union.rename(from, to, RenameMode::Replace).unwrap();
        }
        for name in ["a/f", "a/sub", "big"] {
            assert_eq!(find(&union, name), Err(Errno::ENOENT), "{name}");
        }
        assert_eq!(read(&union, "link"), pattern(2, 300_000));
        assert_eq!(union.readlink(find(&union, "d").unwrap()).unwrap(), b"x");
        assert!(find(&union, "e").is_ok());
    }
    let left = fs::read_dir(&upper)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".wh.")
        })
        .count();
    assert_eq!(left, 0);
}

/// Set in the copy of this process whose limit on descriptors is low.
const FEW: &str = "RRUN_CRASH_FEW_DESCRIPTORS";

#[test]
fn many_directories_need_few_descriptors() {
    if std::env::var_os(FEW).is_none() {
        let me = std::env::current_exe().unwrap();
        let status = Command::new(me)
            .args([
                "--exact",
                "many_directories_need_few_descriptors",
                "--nocapture",
            ])
            .env(FEW, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let few = Rlimit {
        current: Some(512),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let fixture = Fixture::new();
    let union = fixture.open(options(IdStore::Virtual, true)).unwrap();
    let caller = Caller::default();
    let mut deep = Ino::ROOT;
    let mut dirs = Vec::new();
    for number in 0..1500 {
        let name = format!("n{number}");
        let flat = union
            .mkdir(Ino::ROOT, name.as_bytes(), 0o755, &caller)
            .unwrap()
            .ino;
        deep = union.mkdir(deep, b"down", 0o755, &caller).unwrap().ino;
        union.mkdir(flat, b"sub", 0o700, &caller).unwrap();
        dirs.push(flat);
    }
    // All again, after the first ones were closed; and after one in the middle moved.
    let (from, to) = ((Ino::ROOT, &b"n7"[..]), (dirs[1400], &b"moved"[..]));
    union.rename(from, to, RenameMode::Replace).unwrap();
    for dir in dirs.iter().chain([&deep]) {
        let name = b"file";
        union
            .mknod(*dir, name, 0o100_644, rrun_core::Device::default(), &caller)
            .unwrap();
        let ino = union.lookup(*dir, name).unwrap().ino;
        union.write(ino, 0, b"x", OnWrite::Keep).unwrap();
    }
    assert_eq!(read(&union, "n1400/moved/file"), b"x");
    assert!(fixture.path("upper").join("n1400/moved/file").is_file());
}

#[test]
fn a_full_disk_leaves_the_lower_file_and_no_debris() {
    if !is_root() {
        eprintln!("skipped: needs root to mount a small file system");
        return;
    }
    for sparse in [true, false] {
        let mut fixture = Fixture::new();
        let place = fixture.path("small");
        fs::create_dir(&place).unwrap();
        let data = c"size=1m,mode=755";
        rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::empty(), data).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            full_disk(&mut fixture, &place, sparse);
        }));
        rustix::mount::unmount(&place, UnmountFlags::DETACH).unwrap();
        outcome.unwrap();
    }
}

fn full_disk(fixture: &mut Fixture, place: &Path, sparse: bool) {
    for name in ["upper", "work"] {
        fs::create_dir(place.join(name)).unwrap();
        fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(fixture.path("l2").join("huge"), pattern(9, 3_000_000)).unwrap();
    let (upper, work) = (place.join("upper"), place.join("work"));
    let open = || {
        let layers = [fixture.path("l2")];
        let lower = Arc::new(DirLayers::open(&layers, false).unwrap());
        Union::open(lower, Some((&upper, &work)), options(IdStore::Real, sparse)).unwrap()
    };
    let union = open();
    let caller = Caller::default();
    // Fill what is left.
    let filler = union
        .mknod(
            Ino::ROOT,
            b"filler",
            0o100_644,
            rrun_core::Device::default(),
            &caller,
        )
        .unwrap()
        .ino;
    let mut offset = 0;
    while union
        .write(filler, offset, &[1; 4096], OnWrite::Keep)
        .is_ok()
    {
        offset += 4096;
    }
    let ino = find(&union, "huge").unwrap();
    let refused = union.write(ino, 10, b"x", OnWrite::Keep);
    assert_eq!(refused, Err(Errno::ENOSPC), "sparse {sparse}");
    let whole = |union: &Union| {
        let ino = find(union, "huge").unwrap();
        let mut bytes = vec![0; 3_000_001];
        let count = union.read(ino, 0, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes == pattern(9, 3_000_000)
    };
    assert!(whole(&union), "sparse {sparse}: contents differ");
    drop(union);
    let union = open();
    assert!(
        whole(&union),
        "sparse {sparse}: contents differ after a restart"
    );
    let left: Vec<_> = fs::read_dir(&work)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["index"], "sparse {sparse}");
    // With space again, it works.
    union.unlink(Ino::ROOT, b"filler").unwrap();
    union.forget(filler, 1);
}
