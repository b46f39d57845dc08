//! Any operations on a union: errors only, nothing left in the work directory, and the tree that is
//! seen is the tree that is there when the directories are opened again.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rrun_core::{Device, FileType};
use rrun_union::{
    Caller, DirLayers, Ino, Listed, OnWrite, Options, RenameMode, SetAttr, Union, XattrMode,
};

const NAMES: [&[u8]; 6] = [b"a", b"b", b"dir", b"link", b".wh.a", b"c"];

fn open(root: &Path) -> Union {
    let lower = DirLayers::open(&[root.join("l")], false).unwrap();
    let upper = (root.join("u"), root.join("w"));
    Union::open(
        Arc::new(lower),
        Some((&upper.0, &upper.1)),
        Options::default(),
    )
    .unwrap()
}

/// Path, type, size, mode and contents of everything below `dir`.
fn tree(union: &Union, dir: Ino, path: &str, out: &mut Vec<String>) {
    let mut names = Vec::new();
    let mut each = |entry: &Listed<'_>| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        true
    };
    union.readdir(dir, 0, false, &mut each).unwrap();
    names.sort();
    for name in names {
        let entry = union.lookup(dir, &name).unwrap();
        let path = format!("{path}/{}", String::from_utf8_lossy(&name));
        let attr = entry.attr;
        let mut data = vec![0; 64];
        if attr.kind == FileType::Regular {
            let count = union.read(entry.ino, 0, &mut data).unwrap();
            data.truncate(count);
        }
        out.push(format!(
            "{path} {:?} {} {:o} {data:?}",
            attr.kind, attr.size, attr.perm
        ));
        if attr.kind == FileType::Directory {
            tree(union, entry.ino, &path, out);
        }
    }
}

fn step(union: &Union, [op, place, one, other]: [u8; 4]) {
    let caller = Caller::default();
    let name = NAMES[usize::from(one) % NAMES.len()];
    let second = NAMES[usize::from(other) % NAMES.len()];
    let dir = match place % 3 {
        0 => Ino::ROOT,
        _ => union
            .lookup(Ino::ROOT, b"dir")
            .map_or(Ino::ROOT, |entry| entry.ino),
    };
    let to = if place & 0x80 == 0 { dir } else { Ino::ROOT };
    let file = union.lookup(dir, name).map(|entry| entry.ino);
    let mode = [
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ];
    let _done = match op % 12 {
        0 => union
            .mknod(dir, name, 0o100_644, Device::default(), &caller)
            .map(drop),
        1 => union.mkdir(dir, name, 0o755, &caller).map(drop),
        2 => union.unlink(dir, name),
        3 => union.rmdir(dir, name),
        4 => union.rename((dir, name), (to, second), mode[usize::from(place / 3) % 3]),
        5 => file.and_then(|ino| union.link(ino, to, second).map(drop)),
        6 => union.symlink(dir, name, second, &caller).map(drop),
        7 => file.and_then(|ino| {
            union
                .write(ino, u64::from(other), &[one; 9], OnWrite::Keep)
                .map(drop)
        }),
        8 => file.and_then(|ino| {
            let size = Some(u64::from(other));
            union
                .setattr(
                    ino,
                    &SetAttr {
                        size,
                        ..SetAttr::default()
                    },
                )
                .map(drop)
        }),
        9 => file.and_then(|ino| {
            let perm = Some(u32::from(other));
            union
                .setattr(
                    ino,
                    &SetAttr {
                        perm,
                        ..SetAttr::default()
                    },
                )
                .map(drop)
        }),
        10 => file.and_then(|ino| union.setxattr(ino, b"user.x", &[other], XattrMode::Set)),
        _ => file.and_then(|ino| union.removexattr(ino, b"user.x")),
    };
}

fuzz_target!(|ops: Vec<[u8; 4]>| {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    for dir in ["l/dir", "u", "w"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for name in ["a", "dir/b", "dir/c"] {
        fs::write(root.join("l").join(name), name).unwrap();
    }
    fs::hard_link(root.join("l/a"), root.join("l/link")).unwrap();
    let union = open(root);
    for op in ops {
        step(&union, op);
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    tree(&union, Ino::ROOT, "", &mut before);
    drop(union);
    tree(&open(root), Ino::ROOT, "", &mut after);
    assert_eq!(before, after);
});
