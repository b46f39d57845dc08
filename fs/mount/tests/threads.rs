//! Several threads do the same random things to our mount and to kernel overlayfs. Every call must
//! end the same way, and the trees must be equal, also after both were mounted again.
//!
//! `RRUN_THREADS_ROUNDS` says how many rounds between remounts; `RRUN_THREADS_SEED` where to start.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rrun_mount::{IoUring, Stats, mount, serve};
use rrun_union::{DirLayers, IdStore, Options, Union, XattrDialect};
use rustix::fs::{self as rfs, CWD, FallocateFlags, RenameFlags, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags};

const ROUNDS: &str = "RRUN_THREADS_ROUNDS";
const SEED: &str = "RRUN_THREADS_SEED";
const TEST: &str = "threads_see_what_they_see_on_kernel_overlayfs";
const THREADS: u64 = 4;
const STEPS: usize = 250;
const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", ".wh.a", "f"];

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    /// A path one to three names deep below `own`, or in the directory all threads share.
    fn path(&mut self, own: u64) -> PathBuf {
        if self.next(8) == 0 {
            return PathBuf::from(format!("shared/t{own}{}", NAMES[self.next(3)]));
        }
        let mut path = PathBuf::from(format!("t{own}"));
        for _ in 0..=self.next(3) {
            path.push(NAMES[self.next(NAMES.len())]);
        }
        path
    }
}

/// Two lower layers with something of every kind for each thread.
fn lay(root: &Path) {
    for number in 0..THREADS {
        for (layer, dirs) in [("l1", ["a", "b", "b/a"]), ("l0", ["b", "b/c", "c"])] {
            let top = root.join(layer).join(format!("t{number}"));
            fs::create_dir_all(&top).unwrap();
            fs::create_dir_all(root.join(layer).join("shared")).unwrap();
            for dir in dirs {
                fs::create_dir_all(top.join(dir)).unwrap();
                fs::write(top.join(dir).join("d"), format!("{layer}{dir}")).unwrap();
            }
            fs::write(top.join("d"), vec![7; 70_000]).unwrap();
            fs::hard_link(top.join("d"), top.join("e")).unwrap();
            std::os::unix::fs::symlink("d", top.join("b/e")).unwrap();
            let shared = root.join(layer).join(format!("shared/t{number}a"));
            fs::write(shared, layer).unwrap();
        }
    }
    for dir in ["u", "w", "m", "ku", "kw", "km"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for dir in ["u", "ku", "l1", "l0"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn done<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{:?}", error.raw_os_error()),
    }
}

/// One step: what it does to the file system mounted on `m`.
struct Step {
    kind: usize,
    path: PathBuf,
    other: PathBuf,
    offset: u64,
    len: usize,
    byte: u8,
}

impl Step {
    fn draw(random: &mut Random, own: u64) -> Self {
        Self {
            kind: random.next(20),
            path: random.path(own),
            other: random.path(own),
            offset: random.next(90_000) as u64,
            len: 1 + random.next(9000),
            byte: u8::try_from(random.next(256)).unwrap(),
        }
    }

    fn write(&self, path: &Path, create: bool) -> std::io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(create)
            .truncate(false)
            .open(path)?;
        file.write_all_at(&vec![self.byte; self.len], self.offset)
    }

    fn run(&self, m: &Path) -> String {
        let (path, other) = (m.join(&self.path), m.join(&self.other));
        let rename = |flags| {
            rfs::renameat_with(CWD, &path, CWD, &other, flags).map_err(std::io::Error::from)
        };
        let mode = 0o400 | (u32::from(self.byte) & 0o377);
        match self.kind {
            0 | 1 => done(self.write(&path, true)),
            2 | 3 => done(self.write(&path, false)),
            4 => done(fs::remove_file(&path)),
            5 => done(fs::create_dir(&path)),
            6 => done(fs::remove_dir(&path)),
            7 | 8 => done(rename(RenameFlags::empty())),
            9 => done(rename(RenameFlags::NOREPLACE)),
            10 => done(rename(RenameFlags::EXCHANGE)),
            11 => done(fs::hard_link(&path, &other)),
            12 => done(std::os::unix::fs::symlink("to/here", &path)),
            13 => done(fs::set_permissions(&path, fs::Permissions::from_mode(mode))),
            // A symbolic link with several names cannot get an owner that is kept in an attribute.
            14 if path
                .symlink_metadata()
                .is_ok_and(|m| m.is_symlink() && m.nlink() > 1) =>
            {
                String::new()
            }
            14 => done(std::os::unix::fs::lchown(&path, Some(mode), None)),
            15 => {
                let file = OpenOptions::new().write(true).open(&path);
                done(file.and_then(|file| file.set_len(self.offset)))
            }
            16 => done(
                rfs::setxattr(&path, "user.a", &[self.byte; 9], XattrFlags::empty())
                    .map_err(std::io::Error::from),
            ),
            17 => self.punch(&path),
            18 => self.copy(&path, &other),
            _ => match fs::read(&path) {
                Ok(data) => format!("{:?}", sum(&data)),
                Err(error) => done::<()>(Err(error)),
            },
        }
    }

    fn punch(&self, path: &Path) -> String {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        done(
            OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| Ok(rfs::fallocate(&file, flags, self.offset, self.len as u64)?)),
        )
    }

    fn copy(&self, path: &Path, other: &Path) -> String {
        if path == other {
            return String::new();
        }
        done(OpenOptions::new().read(true).open(path).and_then(|from| {
            let to = OpenOptions::new().write(true).open(other)?;
            let (from_file, to_file) = (from.metadata()?, to.metadata()?);
            if from_file.ino() != to_file.ino() {
                std::io::copy(&mut &from, &mut &to)?;
            }
            Ok(())
        }))
    }
}

fn sum(data: &[u8]) -> (usize, u64) {
    let hash = data
        .iter()
        .fold(14_695_981_039_346_656_037_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
        });
    (data.len(), hash)
}

/// Everything both must agree on, a line per name.
fn tree(m: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut dirs = vec![m.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let meta = path.symlink_metadata().unwrap();
            assert_eq!(entry.file_type().unwrap(), meta.file_type(), "{path:?}");
            let mut value = [0; 64];
            let xattr = rfs::lgetxattr(&path, "user.a", &mut value).ok();
            let contents = if meta.is_file() {
                format!(
                    "{:?} {} links",
                    sum(&fs::read(&path).unwrap()),
                    meta.nlink()
                )
            } else if meta.is_dir() {
                dirs.push(path.clone());
                String::new()
            } else {
                format!("{:?}", fs::read_link(&path).unwrap())
            };
            out.push(format!(
                "{} {:o} {} {contents} {:?}",
                path.strip_prefix(m).unwrap().display(),
                meta.mode(),
                meta.uid(),
                xattr.map(|len| value[..len].to_vec())
            ));
        }
    }
    out.sort();
    out
}

type Server = JoinHandle<()>;

fn mount_ours(root: &Path, ids: IdStore, io_uring: IoUring) -> Server {
    let lower = DirLayers::open(&[root.join("l1"), root.join("l0")], false).unwrap();
    let options = Options {
        ids,
        xattrs: match ids {
            IdStore::Real => XattrDialect::Trusted,
            IdStore::Virtual => XattrDialect::User,
        },
        ..Options::default()
    };
    let (upper, work) = (root.join("u"), root.join("w"));
    let union = Union::open(Arc::new(lower), Some((&upper, &work)), options).unwrap();
    let mounted = mount(&root.join("m"), "threads", MountFlags::empty()).unwrap();
    let connection = mounted.connection().unwrap();
    mounted.leave();
    std::thread::spawn(move || {
        let (options, stats) = (common::options(io_uring), Stats::default());
        serve(&connection, &Arc::new(union), &options, &stats, &|| {}).unwrap();
    })
}

fn mount_kernel(root: &Path) -> rustix::io::Result<()> {
    let at = |name: &str| root.join(name).display().to_string();
    let data = format!(
        "lowerdir={}:{},upperdir={},workdir={},redirect_dir=on,index=on,xino=on",
        at("l1"),
        at("l0"),
        at("ku"),
        at("kw")
    );
    let data = std::ffi::CString::new(data).unwrap();
    rustix::mount::mount(
        "overlay",
        root.join("km"),
        "overlay",
        MountFlags::empty(),
        &*data,
    )
}

/// Runs one thread's steps on both; returns the first difference.
fn work(root: &Path, own: u64, seed: u64) -> Option<String> {
    let mut random = Random(seed);
    for number in 0..STEPS {
        let step = Step::draw(&mut random, own);
        let ours = step.run(&root.join("m"));
        let kernel = step.run(&root.join("km"));
        if ours != kernel {
            return Some(format!(
                "seed {seed} step {number}: {} of {} ({}) at {}: {ours}, kernel {kernel}",
                step.kind,
                step.path.display(),
                step.other.display(),
                step.offset
            ));
        }
    }
    None
}

fn compare(root: &Path, when: &str) -> Vec<String> {
    let (ours, kernel) = (tree(&root.join("m")), tree(&root.join("km")));
    let only = |a: &[String], b: &[String], whose: &str| {
        a.iter()
            .filter(|line| b.binary_search(line).is_err())
            .map(|line| format!("{when}, only {whose}: {line}"))
            .collect::<Vec<_>>()
    };
    [only(&ours, &kernel, "ours"), only(&kernel, &ours, "kernel")].concat()
}

fn one_tree(
    (ids, io_uring): (IdStore, IoUring),
    rounds: u64,
    seed: u64,
) -> Result<(), Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    lay(root);
    if let Err(error) = mount_kernel(root) {
        eprintln!("skipped: kernel overlayfs: {error}");
        return Ok(());
    }
    let mut server = mount_ours(root, ids, io_uring);
    let mut wrong = Vec::new();
    for round in 0..rounds {
        let found: Vec<Option<String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|own| {
                    let seed = seed + (round * THREADS + own) * 7919;
                    scope.spawn(move || work(root, own, seed))
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        wrong.extend(found.into_iter().flatten());
        wrong.extend(compare(root, &format!("round {round}")));
        for place in ["m", "km"] {
            rustix::mount::unmount(root.join(place), UnmountFlags::empty()).unwrap();
        }
        server.join().unwrap();
        mount_kernel(root).unwrap();
        server = mount_ours(root, ids, io_uring);
        wrong.extend(compare(root, &format!("round {round}, mounted again")));
        if !wrong.is_empty() {
            break;
        }
    }
    for place in ["m", "km"] {
        rustix::mount::unmount(root.join(place), UnmountFlags::DETACH).unwrap();
    }
    server.join().unwrap();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

#[test]
fn threads_see_what_they_see_on_kernel_overlayfs() {
    if common::ran_unshared(TEST, None) {
        return;
    }
    let number = |name, default| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (rounds, seed) = (number(ROUNDS, 3), number(SEED, 1));
    let _old = rustix::process::umask(rustix::fs::Mode::empty());
    for io_uring in common::transports() {
        for ids in [IdStore::Real, IdStore::Virtual] {
            if let Err(wrong) = one_tree((ids, io_uring), rounds, seed) {
                let shown = &wrong[..wrong.len().min(20)].join("\n");
                assert!(wrong.is_empty(), "{ids:?}, io_uring {io_uring:?}:\n{shown}");
            }
        }
    }
}
