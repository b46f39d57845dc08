//! Many layers, many entries, other file systems below, and a quota that is used up.
#![expect(clippy::unwrap_used, reason = "test code")]
#![allow(dead_code, reason = "the common module is shared with the model test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{is_root, options, pattern};
use rrun_core::{Errno, Time};
use rrun_union::{
    DirLayers, IdStore, Ino, OnWrite, SetAttr, SetTime, SpaceMode, Union, UnionError,
};
use rustix::mount::{MountFlags, UnmountFlags};

fn dirs(root: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn open(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<Union, UnionError> {
    // Real ids go with marks that only root may write.
    let ids = if is_root() {
        IdStore::Real
    } else {
        IdStore::Virtual
    };
    let lower = Arc::new(DirLayers::open(layers, false)?);
    Union::open(lower, Some((upper, work)), options(ids, true))
}

fn contents(union: &Union, dir: Ino, name: &str) -> Vec<u8> {
    let entry = union.lookup(dir, name.as_bytes()).unwrap();
    let mut bytes = vec![0; usize::try_from(entry.attr.size).unwrap() + 1];
    let count = union.read(entry.ino, 0, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

fn names(union: &Union, dir: Ino) -> Vec<Vec<u8>> {
    let (mut out, mut cookie) = (Vec::new(), 0);
    loop {
        let (before, from) = (out.len(), cookie);
        let mut each = |entry: &rrun_union::Listed<'_>| {
            cookie = entry.cookie;
            out.push(entry.name.to_vec());
            out.len() % 1000 != 0
        };
        union.readdir(dir, from, false, &mut each).unwrap();
        if out.len() == before {
            return out;
        }
    }
}

#[test]
fn five_hundred_layers_are_one_tree_and_more_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    dirs(root, &["u", "w"]);
    let mut layers = Vec::new();
    for number in 0..501 {
        let layer = root.join(format!("l{number}"));
        dirs(&layer, &["all", &format!("own{number}")]);
        fs::write(layer.join("all/same"), number.to_string()).unwrap();
        fs::write(layer.join(format!("all/f{number}")), number.to_string()).unwrap();
        layers.push(layer);
    }
    let refused = open(&layers, &root.join("u"), &root.join("w"));
    assert!(refused.is_err());
    let union = open(&layers[..500], &root.join("u"), &root.join("w")).unwrap();
    let all = union.lookup(Ino::ROOT, b"all").unwrap().ino;
    assert_eq!(contents(&union, all, "same"), b"0");
    assert_eq!(contents(&union, all, "f499"), b"499");
    assert_eq!(names(&union, all).len(), 2 + 501);
    let last = union.lookup(all, b"f499").unwrap().ino;
    union.write(last, 0, b"new", OnWrite::Keep).unwrap();
    assert_eq!(contents(&union, all, "f499"), b"new");
    union.unlink(all, b"f0").unwrap();
    assert_eq!(names(&union, all).len(), 2 + 500);
}

#[test]
fn a_directory_of_100000_entries_lists_each_once() {
    const COUNT: usize = 100_000;
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    dirs(root, &["u", "w", "l/many"]);
    let many = root.join("l/many");
    for number in 0..COUNT {
        fs::File::create(many.join(format!("entry-{number}"))).unwrap();
    }
    let union = open(&[root.join("l")], &root.join("u"), &root.join("w")).unwrap();
    let dir = union.lookup(Ino::ROOT, b"many").unwrap().ino;
    let listed = names(&union, dir);
    let distinct: BTreeSet<&Vec<u8>> = listed.iter().collect();
    assert_eq!((listed.len(), distinct.len()), (COUNT + 2, COUNT + 2));
    for number in (0..COUNT).step_by(100) {
        let name = format!("entry-{number}");
        union.unlink(dir, name.as_bytes()).unwrap();
    }
    assert_eq!(names(&union, dir).len(), COUNT - COUNT / 100 + 2);
    let gone = union.lookup(dir, b"entry-500").map(|entry| entry.ino);
    assert_eq!(gone, Err(Errno::ENOENT));
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn tmpfs(place: &Path, data: &std::ffi::CStr) -> rustix::io::Result<Mounted> {
    fs::create_dir_all(place).unwrap();
    rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), data)?;
    Ok(Mounted(place.to_owned()))
}

#[test]
fn layers_may_be_on_other_file_systems_and_read_only() {
    if !is_root() {
        eprintln!("skipped: needs root to mount");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    dirs(root, &["u", "w", "l2/dir"]);
    let (l0, l1) = (root.join("l0"), root.join("l1"));
    let _l0 = tmpfs(&l0, c"size=4m,mode=755").unwrap();
    let _l1 = tmpfs(&l1, c"size=4m,mode=755").unwrap();
    for (layer, text) in [(&l0, "0"), (&l1, "1"), (&root.join("l2"), "2")] {
        dirs(layer, &["dir"]);
        fs::write(layer.join("dir").join(format!("f{text}")), text).unwrap();
    }
    let flags = MountFlags::RDONLY;
    rustix::mount::mount_remount(&l0, flags, c"size=4m,mode=755").unwrap();
    let layers = [l0, l1, root.join("l2")];
    let inos = |union: &Union| -> Vec<u64> {
        let dir = union.lookup(Ino::ROOT, b"dir").unwrap().ino;
        let ino = |name: &str| union.lookup(dir, name.as_bytes()).unwrap().attr.ino;
        ["f0", "f1", "f2"].map(ino).to_vec()
    };
    let union = open(&layers, &root.join("u"), &root.join("w")).unwrap();
    let before = inos(&union);
    // Two tmpfs number their files alike; we must not.
    assert_eq!(
        before.iter().collect::<BTreeSet<_>>().len(),
        3,
        "{before:?}"
    );
    let dir = union.lookup(Ino::ROOT, b"dir").unwrap().ino;
    for name in ["f0", "f1", "f2"] {
        let ino = union.lookup(dir, name.as_bytes()).unwrap().ino;
        union.write(ino, 1, b"+", OnWrite::Keep).unwrap();
        assert_eq!(contents(&union, dir, name)[1..], *b"+");
    }
    assert_eq!(inos(&union), before, "after copy-up");
    drop(union);
    let union = open(&layers, &root.join("u"), &root.join("w")).unwrap();
    assert_eq!(inos(&union), before, "after a restart");
}

#[test]
fn opening_for_reading_counts_as_reading_once_after_each_change() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    dirs(root, &["l", "u", "w"]);
    fs::write(root.join("l/file"), b"lower").unwrap();
    let union = open(&[root.join("l")], &root.join("u"), &root.join("w")).unwrap();
    let ino = union.lookup(Ino::ROOT, b"file").unwrap().ino;
    assert_eq!(union.accessed(ino), Ok(false));
    union.write(ino, 0, b"upper", OnWrite::Keep).unwrap();
    let before = union.getattr(ino).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(union.accessed(ino), Ok(true));
    let after = union.getattr(ino).unwrap();
    assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
    if after.atime == before.atime {
        eprintln!("skipped: the file system keeps no access times");
        return;
    }
    assert_eq!(union.accessed(ino), Ok(false));
}

#[test]
fn held_back_writes_have_the_time_they_are_given_or_their_own() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    dirs(root, &["l", "u", "w"]);
    fs::write(root.join("l/file"), b"lower").unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let file = fs::File::options()
        .write(true)
        .open(root.join("l/file"))
        .unwrap();
    file.set_modified(old).unwrap();
    let union = open(&[root.join("l")], &root.join("u"), &root.join("w")).unwrap();
    union.hold_writes_back();
    let ino = union.lookup(Ino::ROOT, b"file").unwrap().ino;
    let modified = |union: &Union| union.getattr(ino).unwrap().mtime.secs;
    // Killed now, the server leaves a file that is seen to have changed.
    union.write(ino, 0, b"upper", OnWrite::Keep).unwrap();
    assert!(modified(&union) > 1_600_000_000);
    let given = SetAttr {
        mtime: Some(SetTime::At(Time {
            secs: 1_500_000_000,
            nanos: 7,
        })),
        ..SetAttr::default()
    };
    union.setattr(ino, &given).unwrap();
    union.write(ino, 0, b"UPPER", OnWrite::Keep).unwrap();
    assert_eq!(modified(&union), 1_500_000_000);
    let space = SpaceMode::Reserve;
    union.fallocate(ino, 0, 9, space, OnWrite::Keep).unwrap();
    assert_eq!(modified(&union), 1_500_000_000);
    let (from, to) = ((ino, 0), (ino, 20));
    union.copy_range(from, to, 5, OnWrite::Keep).unwrap();
    assert_eq!(modified(&union), 1_500_000_000);
}

/// Mounts something that takes about 1 MiB and then answers `EDQUOT`: a tmpfs where the kernel
/// counts for users there, else a subvolume of btrfs, which always does.
fn quota_of_1m(place: &Path) -> Option<(Mounted, PathBuf)> {
    let data = c"size=16m,mode=755,usrquota,usrquota_block_hardlimit=1m";
    if let Ok(mounted) = tmpfs(place, data) {
        return Some((mounted, place.to_owned()));
    }
    fs::create_dir_all(place).unwrap();
    let image = place.with_extension("img");
    fs::File::create(&image)
        .unwrap()
        .set_len(256 << 20)
        .unwrap();
    let run = |line: &str| {
        let ran = std::process::Command::new("sh")
            .args(["-ec", line])
            .env("PLACE", place)
            .env("IMAGE", &image)
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    if !run("mkfs.btrfs -q \"$IMAGE\" && mount -o loop \"$IMAGE\" \"$PLACE\"") {
        return None;
    }
    let mounted = Mounted(place.to_owned());
    run("cd \"$PLACE\"; btrfs subvolume create s; btrfs quota enable .; btrfs qgroup limit 1M s; sync")
        .then(|| (mounted, place.join("s")))
}

#[test]
fn a_used_up_quota_leaves_the_lower_file_and_no_debris() {
    if !is_root() {
        eprintln!("skipped: needs root to mount");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    dirs(root, &["l"]);
    let big = pattern(3, 3_000_000);
    fs::write(root.join("l/big"), &big).unwrap();
    std::os::unix::fs::chown(root.join("l/big"), Some(1000), Some(1000)).unwrap();
    let small = root.join("small");
    let Some((_mounted, small)) = quota_of_1m(&small) else {
        eprintln!("skipped: no file system here has quotas");
        return;
    };
    dirs(&small, &["u", "w"]);
    let (upper, work) = (small.join("u"), small.join("w"));
    let union = open(&[root.join("l")], &upper, &work).unwrap();
    let ino = union.lookup(Ino::ROOT, b"big").unwrap().ino;
    let refused = union.write(ino, 2_000_000, &[1; 2_000_000], OnWrite::Keep);
    if refused.is_ok() {
        eprintln!("skipped: the quota does not bind this process");
        return;
    }
    assert_eq!(refused, Err(Errno::EDQUOT));
    let look = |union: &Union| {
        let now = contents(union, Ino::ROOT, "big");
        assert_eq!(now[..2_000_000], big[..2_000_000]);
    };
    look(&union);
    drop(union);
    look(&open(&[root.join("l")], &upper, &work).unwrap());
    let left: Vec<_> = fs::read_dir(&work)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "index")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::metadata(root.join("l/big")).unwrap().size(), 3_000_000);
}
