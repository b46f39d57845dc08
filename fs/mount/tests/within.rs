//! A mountpoint inside the mount's own lower directory: the server must not wait for itself.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rrun_mount::{IoUring, Stats, mount, serve};
use rrun_union::{DirLayers, IdStore, Options, Union, XattrDialect};
use rustix::mount::MountFlags;

const TEST: &str = "the_mountpoint_may_be_in_the_lower_directory";

fn look(root: &Path, io_uring: IoUring) {
    for dir in ["l", "l/m", "l/dir", "u", "w"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    fs::write(root.join("l/dir/file"), b"lower").unwrap();
    fs::write(root.join("l/m/hidden"), b"under the mount").unwrap();
    let layers = [root.join("l")];
    let m = root.join("l/m");
    let lower = DirLayers::open(&layers, false).unwrap();
    let lower = lower.apart();
    let options = Options {
        ids: IdStore::Real,
        xattrs: XattrDialect::Trusted,
        ..Options::default()
    };
    let (upper, work) = (root.join("u"), root.join("w"));
    let union = Union::open(Arc::new(lower), Some((&upper, &work)), options).unwrap();
    let mounted = mount(&m, "within", MountFlags::empty()).unwrap();
    let connection = mounted.connection().unwrap();
    let server = std::thread::spawn(move || {
        let (options, stats) = (common::options(io_uring), Stats::default());
        serve(&connection, &Arc::new(union), &options, &stats, &|| {}).unwrap();
    });
    assert_eq!(fs::read(m.join("dir/file")).unwrap(), b"lower");
    // The directory below the mount, as kernel overlayfs shows it.
    assert_eq!(fs::read_dir(m.join("m")).unwrap().count(), 1);
    fs::write(m.join("m/new"), b"deep").unwrap();
    fs::write(m.join("dir/file"), b"upper").unwrap();
    assert_eq!(fs::read(m.join("m/new")).unwrap(), b"deep");
    assert_eq!(fs::read(root.join("u/m/new")).unwrap(), b"deep");
    assert_eq!(fs::read(root.join("l/dir/file")).unwrap(), b"lower");
    drop(mounted);
    server.join().unwrap();
}

#[test]
fn the_mountpoint_may_be_in_the_lower_directory() {
    // A server that waits for itself would hang, so there is a limit.
    if common::ran_unshared(TEST, Some(60)) {
        return;
    }
    for io_uring in common::transports() {
        let dir = tempfile::tempdir().unwrap();
        look(dir.path(), io_uring);
    }
}
