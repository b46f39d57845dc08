//! Hostile, broken and odd layers: refused with the reason, or taken as Docker takes them.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use rrun_core::{Data, Device, Digest, FileType, Lower, Time};
use rrun_store::{Compression, Expect, Store, StoreError, TarProblem};
use support::{Item, dir, file, find, item, link, seal, tar, try_ingest};

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn hostile_entries_are_refused_and_nothing_is_kept() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let long = "n".repeat(256);
    let path = "p/".repeat(3000);
    let cases: Vec<(Item, TarProblem)> = vec![
        (file("../etc/passwd", b""), TarProblem::DotDot),
        (file("a/../../b", b""), TarProblem::DotDot),
        (file("a/..", b""), TarProblem::DotDot),
        (link(b'1', "a", "../../etc/shadow"), TarProblem::DotDot),
        (link(b'1', "a", "a"), TarProblem::BadLink),
        (link(b'1', "a", "./"), TarProblem::BadLink),
        (link(b'2', "a", ""), TarProblem::BadName),
        (file("", b""), TarProblem::BadName),
        (file("x", b"").pax("path", b"a\0b"), TarProblem::BadName),
        (file("/", b"").pax("path", b"/."), TarProblem::BadName),
        (file(&long, b""), TarProblem::NameTooLong(256)),
        (file(&path, b""), TarProblem::PathTooLong(5999)),
        (file("a/.wh.", b""), TarProblem::BareWhiteout),
        (file("a/.wh..", b""), TarProblem::DotDot),
        (file("a/.wh...", b""), TarProblem::DotDot),
        (item(b'Z', "a"), TarProblem::Type(b'Z')),
        (item(b'M', "a"), TarProblem::Type(b'M')),
        (
            file("x", b"").pax("uid", b"4294967296"),
            TarProblem::Number("uid"),
        ),
        (
            file("x", b"").pax("mtime", b"1.x"),
            TarProblem::Number("mtime"),
        ),
        (file("x", b"").pax("size", b"99999"), TarProblem::Truncated),
        (
            file("x", b"").pax("SCHILY.xattr.", b"v"),
            TarProblem::Xattrs,
        ),
        (
            file("x", b"").pax("SCHILY.xattr.user.big", &[7; 65537]),
            TarProblem::Xattrs,
        ),
        (
            file("x", b"").pax("GNU.sparse.major", b"1"),
            TarProblem::SparseMap,
        ),
    ];
    for (bad, expected) in cases {
        let name = String::from_utf8_lossy(&bad.path).into_owned();
        let bytes = tar(&[file("fine", &[1; 600]), bad]);
        match try_ingest(&store, &bytes) {
            Err(StoreError::Tar { problem, .. }) => assert_eq!(problem, expected, "{name:?}"),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    for kept in ["objects", "layers", "bases", "blobs"] {
        assert_eq!(files_below(&temp.path().join(kept)), [""; 0]);
    }
    drop(store);
    assert_eq!(files_below(&temp.path().join("tmp")), [""; 0]);
}

#[test]
fn hostile_sparse_maps_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let cases: [(&[u8], &[u8]); 6] = [
        (b"100000000000000", b"0,3"),
        (b"10", b"8,3"),
        (b"10", b"0,2"),
        (b"10", b"3,2,2,1"),
        (b"10", b"0,3,7"),
        (b"10", b"9223372036854775807,3"),
    ];
    for (size, map) in cases {
        let bad = file("s", b"abc")
            .pax("GNU.sparse.size", size)
            .pax("GNU.sparse.map", map);
        let result = try_ingest(&store, &tar(&[bad]));
        assert!(
            matches!(result, Err(StoreError::Tar { .. })),
            "{size:?} {map:?}: {result:?}"
        );
    }
    let good = file("s", b"abc")
        .pax("GNU.sparse.size", b"9")
        .pax("GNU.sparse.map", b"1,1,5,2");
    let info = try_ingest(&store, &tar(&[good])).unwrap();
    let base = store.base(&[info.diff_id]).unwrap();
    let Data::Bytes(bytes) = base.data(find(&base, "s").unwrap()).unwrap() else {
        panic!()
    };
    assert_eq!(&*bytes, b"\0a\0\0\0bc\0\0");
}

#[test]
fn pax_sizes_belong_to_the_file_and_not_to_headers_between() {
    // The confusion of CVE-2025-62518: a long name between the PAX header and its file.
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let hidden = tar(&[file("hidden", b"")]);
    let mut bytes = tar(&[file("x", &hidden).pax("size", hidden.len().to_string().as_bytes())]);
    // The file's own header claims no data, as a writer of big files may.
    bytes[1024 + 124..1024 + 135].copy_from_slice(b"00000000000");
    seal(&mut bytes[1024..1536]);
    let name = Item {
        kind: b'L',
        ..file("longlink", b"renamed\0")
    };
    let mut name = tar(&[name]);
    name.truncate(1024);
    bytes.splice(1024..1024, name);
    let info = try_ingest(&store, &bytes).unwrap();
    let base = store.base(&[info.diff_id]).unwrap();
    assert_eq!(find(&base, "hidden"), None);
    let attr = base.attr(find(&base, "renamed").unwrap()).unwrap();
    assert_eq!(attr.size, hidden.len() as u64);
}

#[test]
fn broken_archives_are_refused_at_every_length() {
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    };
    let temp = tempfile::tempdir_in(place).unwrap();
    let store = Store::open(temp.path()).unwrap();
    let whole = tar(&[
        dir("a"),
        file("a/b", &[3; 700]).pax("SCHILY.xattr.user.x", b"y"),
    ]);
    for len in (0..whole.len()).filter(|len| len % 16 < 2) {
        match try_ingest(&store, &whole[..len]) {
            // Cut between entries, where Go's reader sees an end too.
            Ok(_) => assert!(len.is_multiple_of(512), "length {len}"),
            Err(StoreError::Tar {
                problem: TarProblem::Truncated,
                ..
            }) => {}
            other => panic!("length {len}: {other:?}"),
        }
    }
    let text = vec![b'x'; 2000];
    let result = try_ingest(&store, &text);
    assert!(matches!(
        result,
        Err(StoreError::Tar {
            problem: TarProblem::Checksum,
            ..
        })
    ));
}

#[test]
fn odd_but_lawful_entries_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let items = [
        Item {
            mode: 0o1777,
            ..dir("./")
        },
        file("/leading/slash", b"1").pax("SCHILY.xattr.security.capability", capability),
        file(".//a/./b//c", b"2")
            .pax("mtime", b"-1.5")
            .pax("uid", b"4000000000"),
        link(b'2', "abs", "/etc/../../passwd"),
        Item {
            device: (1, 3),
            ..item(b'3', "null")
        },
        Item {
            device: (8, 0),
            ..item(b'4', "disk")
        },
        item(b'6', "pipe"),
        Item {
            mode: 0o6755,
            ..file("suid", b"3")
        },
        file("dup", b"first"),
        file("dup", b"second"),
        file("old/", b""),
        file("la", b"4").pax("LIBARCHIVE.xattr.user.a%20b", b"aGk"),
        file(".wh..wh.plnk", b"x"),
        file(".wh..wh.plnk/1.2", b"x"),
        file(&"n".repeat(255), b"5"),
    ];
    let info = try_ingest(&store, &tar(&items)).unwrap();
    let base = store.base(&[info.diff_id]).unwrap();
    let attr = |path: &str| {
        base.attr(find(&base, path).unwrap_or_else(|| panic!("{path}")))
            .unwrap()
    };
    assert_eq!(attr("/").perm, 0o1777);
    let slash = find(&base, "leading/slash").unwrap();
    let value = base.xattr(slash, b"security.capability").unwrap();
    assert_eq!(value.unwrap(), capability);
    assert!(base.has_xattrs());
    assert_eq!(
        attr("a/b/c").mtime,
        Time {
            secs: -2,
            nanos: 500_000_000
        }
    );
    assert_eq!(attr("a/b/c").uid, 4_000_000_000);
    assert_eq!(attr("a").perm, 0o755);
    assert_eq!(
        base.readlink(find(&base, "abs").unwrap()).unwrap(),
        b"/etc/../../passwd"
    );
    assert_eq!(attr("null").rdev, Device { major: 1, minor: 3 });
    assert_eq!(attr("disk").kind, FileType::BlockDevice);
    assert_eq!(attr("pipe").kind, FileType::Fifo);
    assert_eq!(attr("suid").perm, 0o6755);
    assert_eq!(attr("dup").size, 6);
    assert_eq!(attr("old").kind, FileType::Directory);
    let names = base.xattr_names(find(&base, "la").unwrap()).unwrap();
    assert_eq!(names, [b"user.a b".to_vec()]);
    assert_eq!(find(&base, ".wh..wh.plnk"), None);
    assert!(find(&base, &"n".repeat(255)).is_some());
}

#[test]
fn promises_are_checked_and_the_error_names_both_sides() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let bytes = tar(&[file("a", &[1; 600])]);
    let right = try_ingest(&store, &bytes).unwrap();
    drop(store);
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let wrong = Digest::from_bytes([7; 32]);
    let cases = [
        Expect {
            blob: Some(wrong),
            ..Expect::default()
        },
        Expect {
            diff_id: Some(wrong),
            ..Expect::default()
        },
        Expect {
            blob_size: Some(5),
            ..Expect::default()
        },
        Expect {
            blob_size: Some(1 << 20),
            ..Expect::default()
        },
    ];
    for expect in cases {
        let result = store.ingest_layer(&bytes[..], Compression::Auto, &expect, &|_| {});
        match result {
            Err(StoreError::DigestMismatch {
                expected, actual, ..
            }) => {
                assert_eq!((expected, actual), (wrong, right.diff_id));
            }
            Err(StoreError::SizeMismatch { expected, .. }) => {
                assert_eq!(Some(expected), expect.blob_size);
            }
            other => panic!("{expect:?}: {other:?}"),
        }
        assert!(!store.has_layer(&right.diff_id).unwrap());
        assert_eq!(files_below(&temp.path().join("objects")), [""; 0]);
    }
    let mut damaged = bytes.clone();
    damaged[10] ^= 1;
    let expect = Expect {
        blob: Some(right.diff_id),
        ..Expect::default()
    };
    let result = store.ingest_layer(&damaged[..], Compression::Auto, &expect, &|_| {});
    assert!(
        matches!(result, Err(StoreError::DigestMismatch { .. })),
        "{result:?}"
    );
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(104))
    }
}

#[test]
fn a_broken_source_is_told_as_such() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let bytes = tar(&[file("a", &[1; 600])]);
    let expect = Expect {
        blob: Some(Digest::from_bytes([7; 32])),
        ..Expect::default()
    };
    let source = bytes[..700].chain(Broken);
    let result = store.ingest_layer(source, Compression::Auto, &expect, &|_| {});
    assert!(matches!(result, Err(StoreError::Source(_))), "{result:?}");
}
