//! Layers made by GNU tar: taken in, exported again bit for bit, merged into a base.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers"
)]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rrun_core::{Data, FileType, Lower, NodeId};
use rrun_store::{Base, Compression, Expect, LayerInfo, Store};

fn ingest(store: &Store, tar: &[u8]) -> LayerInfo {
    store
        .ingest_layer(tar, Compression::Auto, &Expect::default(), &|_| {})
        .expect("ingest")
}

fn find(base: &Base, path: &str) -> Option<NodeId> {
    let mut node = NodeId::ROOT;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        node = base.lookup(node, part.as_bytes()).unwrap()?;
    }
    Some(node)
}

fn contents(base: &Base, path: &str) -> Vec<u8> {
    match base
        .data(find(base, path).unwrap_or_else(|| panic!("no {path}")))
        .unwrap()
    {
        Data::Bytes(bytes) => bytes.into_vec(),
        Data::File(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        }
    }
}

fn make_tree(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::write(dir.join("a/small"), b"hello").unwrap();
    fs::write(dir.join("a/empty"), b"").unwrap();
    fs::write(dir.join("a/medium"), vec![7; 5000]).unwrap();
    fs::write(dir.join("a/large"), vec![9; 3 << 20]).unwrap();
    fs::write(dir.join("a").join("n".repeat(255)), b"long name").unwrap();
    let deep = dir.join("a/b").join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("leaf"), b"leaf").unwrap();
    fs::hard_link(dir.join("a/small"), dir.join("a/b/linked")).unwrap();
    symlink("/absolute/target", dir.join("a/abs")).unwrap();
    symlink("x".repeat(300), dir.join("a/longlink")).unwrap();
    fs::set_permissions(dir.join("a/medium"), fs::Permissions::from_mode(0o4755)).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"middle", 2_000_000).unwrap();
    sparse.set_len(5_000_000).unwrap();
    let small = File::create(dir.join("smallsparse")).unwrap();
    small.write_all_at(b"x", 300_000).unwrap();
    small.set_len(400_000).unwrap();
}

/// Runs GNU tar; `None` when this machine has none.
fn gnu_tar(dir: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let version = Command::new("tar").arg("--version").output().ok()?;
    if !String::from_utf8_lossy(&version.stdout).contains("GNU tar") {
        return None;
    }
    let out = Command::new("tar")
        .args(args)
        .arg("-C")
        .arg(dir)
        .args(["-cf", "-", "."])
        .output();
    let out = out.unwrap();
    assert!(
        !out.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Some(out.stdout)
}

#[test]
fn tars_of_every_format_come_out_as_they_went_in() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    make_tree(&tree);
    let store = Store::open(&temp.path().join("store")).unwrap();
    let cases: [&[&str]; 8] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &[
            "--format=posix",
            "--sparse",
            "--xattrs",
            "--xattrs-include=*",
        ],
        &[
            "--format=gnu",
            "--owner=user:3000000",
            "--group=group:2147483648",
        ],
    ];
    for args in cases {
        let Some(tar) = gnu_tar(&tree, args) else {
            eprintln!("skipped: no GNU tar");
            return;
        };
        let info = ingest(&store, &tar);
        let mut out = Vec::new();
        store
            .layer_tar(&info.diff_id)
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        assert!(out == tar, "{args:?}: export differs");
        let base = store.base(&[info.diff_id]).unwrap();
        for name in [
            "a/small",
            "a/medium",
            "a/large",
            "sparse",
            "smallsparse",
            "a/b/linked",
        ] {
            let real = fs::read(tree.join(name)).unwrap();
            assert!(contents(&base, name) == real, "{args:?}: {name} differs");
            let attr = base.attr(find(&base, name).unwrap()).unwrap();
            let meta = fs::metadata(tree.join(name)).unwrap();
            assert_eq!(attr.perm, meta.mode() & 0o7777, "{args:?}: {name}");
            assert_eq!(u64::from(attr.nlink), meta.nlink(), "{args:?}: {name}");
            assert_eq!(attr.mtime.secs, meta.mtime(), "{args:?}: {name}");
        }
        assert_eq!(find(&base, "a/small"), find(&base, "a/b/linked"));
        let long = base.readlink(find(&base, "a/longlink").unwrap()).unwrap();
        assert_eq!(long, "x".repeat(300).into_bytes());
        assert!(find(&base, &format!("a/{}", "n".repeat(255))).is_some());
        let leaf = format!("a/b/{}/{}/leaf", "d".repeat(120), "e".repeat(120));
        assert_eq!(contents(&base, &leaf), b"leaf");
        let dir = base.attr(find(&base, "a/b").unwrap()).unwrap();
        assert_eq!((dir.kind, dir.nlink), (FileType::Directory, 4));
        if args.iter().any(|arg| arg.starts_with("--owner")) {
            assert_eq!((dir.uid, dir.gid), (3_000_000, 2_147_483_648));
        }
    }
}

#[test]
fn a_ustar_tar_comes_out_as_it_went_in() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    let deep = tree.join("p".repeat(90)).join("q".repeat(90));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), vec![1; 700]).unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    let Some(tar) = gnu_tar(&tree, &["--format=ustar"]) else {
        eprintln!("skipped: no GNU tar");
        return;
    };
    let info = ingest(&store, &tar);
    let mut out = Vec::new();
    store
        .layer_tar(&info.diff_id)
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    assert!(out == tar);
    let base = store.base(&[info.diff_id]).unwrap();
    let path = format!("{}/{}/file", "p".repeat(90), "q".repeat(90));
    assert_eq!(contents(&base, &path), vec![1; 700]);
}
