//! What only FUSE over `io_uring` could get wrong: every processor's queue has somebody, who waits
//! holds up nobody, and there is always an end.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rrun_mount::{IoUring, Mountpoint, OpCount, Stats, mount, serve};
use rrun_union::{DirLayers, IdStore, Options, Union, XattrDialect};
use rustix::fs::SeekFrom as RawSeek;
use rustix::mount::MountFlags;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const BLOCK: usize = 4096;
/// More at once on one processor than a queue has workers.
const ASKERS: usize = 24;

struct Mounted {
    m: PathBuf,
    mountpoint: Option<Mountpoint>,
    server: Option<JoinHandle<Vec<OpCount>>>,
    _dir: tempfile::TempDir,
}

impl Mounted {
    fn new(io_uring: IoUring) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["l", "l/dir", "u", "w", "m"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("l/big"), vec![7; 3 << 20]).unwrap();
        for number in 0..100 {
            fs::write(root.join(format!("l/dir/{number}")), [0; 100]).unwrap();
        }
        let lower = DirLayers::open(&[root.join("l")], false).unwrap();
        let options = Options {
            ids: IdStore::Virtual,
            xattrs: XattrDialect::User,
            ..Options::default()
        };
        let (upper, work) = (root.join("u"), root.join("w"));
        let union = Union::open(Arc::new(lower), Some((&upper, &work)), options).unwrap();
        let mounted = mount(&root.join("m"), "rings", MountFlags::empty()).unwrap();
        let connection = mounted.connection().unwrap();
        let server = std::thread::spawn(move || {
            let (options, stats) = (common::options(io_uring), Stats::default());
            serve(&connection, &Arc::new(union), &options, &stats, &|| {}).unwrap();
            stats.counts()
        });
        Self {
            m: root.join("m"),
            mountpoint: Some(mounted),
            server: Some(server),
            _dir: dir,
        }
    }

    /// Unmounts; gives what was asked.
    fn end(mut self) -> Vec<OpCount> {
        drop(self.mountpoint.take());
        self.server.take().unwrap().join().unwrap()
    }
}

fn bind(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap();
}

fn processors() -> Vec<usize> {
    let ours = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|n| ours.is_set(*n)).collect()
}

/// Runs a case in namespaces of its own, with rings, if there can be any. A hang ends it.
fn with_rings(test: &str, case: fn()) {
    if common::ran_unshared(test, Some(120)) {
        return;
    }
    if common::transports().contains(&IoUring::On) {
        case();
    }
}

#[test]
fn every_processor_is_answered() {
    with_rings("every_processor_is_answered", || {
        let mounted = Mounted::new(IoUring::On);
        let all = processors();
        for processor in all.iter().copied() {
            bind(processor);
            for number in 0..100 {
                let path = mounted.m.join(format!("dir/{number}"));
                assert_eq!(fs::read(&path).unwrap(), [0; 100]);
                fs::remove_file(path).unwrap();
                fs::write(mounted.m.join(format!("dir/{number}")), [0; 100]).unwrap();
            }
            assert_eq!(fs::read(mounted.m.join("big")).unwrap(), vec![7; 3 << 20]);
        }
        let counts = mounted.end();
        let unlinked = counts.iter().find(|one| one.name == "UNLINK").unwrap();
        assert_eq!(unlinked.count, 100 * all.len() as u64);
    });
}

/// Writes behind a hole, asks at once where the data is, and again.
fn ask_for_data(path: &Path) {
    let mut file = File::create_new(path).unwrap();
    for at in [64_usize, 640, 6400] {
        let at = (at * BLOCK) as u64;
        file.write_all_at(&[1; BLOCK], at).unwrap();
        let found = rustix::fs::seek(file.as_fd(), RawSeek::Data(at)).unwrap();
        assert_eq!(found, at);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&[2; 100]).unwrap();
    }
}

#[test]
fn who_asks_for_data_on_one_processor_waits_for_nobody() {
    with_rings(
        "who_asks_for_data_on_one_processor_waits_for_nobody",
        || {
            let mounted = Mounted::new(IoUring::On);
            let first = processors()[0];
            std::thread::scope(|scope| {
                for asker in 0..ASKERS {
                    let path = mounted.m.join(format!("sparse{asker}"));
                    scope.spawn(move || {
                        bind(first);
                        ask_for_data(&path);
                    });
                }
            });
            let counts = mounted.end();
            let asked = counts.iter().find(|one| one.name == "LSEEK").unwrap();
            // Answering would have to wait for writes of others, so it is left to the kernel.
            assert_eq!(asked.count, asked.errors);
        },
    );
}

#[test]
fn what_is_forgotten_is_told() {
    with_rings("what_is_forgotten_is_told", || {
        let mounted = Mounted::new(IoUring::On);
        for number in 0..100 {
            fs::remove_file(mounted.m.join(format!("dir/{number}"))).unwrap();
        }
        let told = |counts: &[OpCount]| counts.iter().any(|one| one.name.ends_with("FORGET"));
        assert!(told(&mounted.end()));
    });
}

#[test]
fn where_there_are_no_rings_requests_come_by_the_device() {
    const TEST: &str = "where_there_are_no_rings_requests_come_by_the_device";
    if common::ran_unshared(TEST, Some(120)) {
        return;
    }
    // Whatever this host offers, it must work.
    let mounted = Mounted::new(IoUring::Auto);
    assert_eq!(fs::read(mounted.m.join("big")).unwrap().len(), 3 << 20);
    mounted.end();
    match rrun_mount::io_uring_available() {
        Ok(()) => eprintln!("skipped: this host has FUSE over io_uring"),
        Err(reason) => {
            let text = reason.to_string();
            assert!(text.starts_with("no FUSE over io_uring: "), "{text}");
        }
    }
}
