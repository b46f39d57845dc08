//! The server is killed in the middle of writes, again and again. After each remount every file
//! is the old or the new one, everything that was answered is there, and nothing is left over.
//!
//! `RRUN_KILL_ROUNDS` says how often; the default keeps the suite quick. `RRUN_KILL_PROGRAM` names
//! an `rrun-overlayfs` to kill, such as a release build; the server is this binary otherwise.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::exit,
    reason = "test code"
)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rrun_mount::{IoUring, Stats, mount, serve};
use rrun_union::{DirLayers, IdStore, Options, Union, XattrDialect};
use rustix::mount::{MountFlags, UnmountFlags};

/// Set in the server: the directory it serves.
const SERVE: &str = "RRUN_KILL_SERVE";
/// Set in the server: it keeps owners in attributes and copies sparsely.
const VIRTUAL: &str = "RRUN_KILL_VIRTUAL";
/// Set in the server: requests come by `io_uring`.
const RINGS: &str = "RRUN_KILL_RINGS";
const ROUNDS: &str = "RRUN_KILL_ROUNDS";
const PROGRAM: &str = "RRUN_KILL_PROGRAM";
const ROUNDS_DEFAULT: u64 = 12;
/// Rounds on one upper directory, so that it is also killed on top of what a kill left.
const ROUNDS_PER_TREE: u64 = 4;
const TEST: &str = "what_a_killed_server_was_writing_is_old_or_new";

const BLOCK: usize = 4096;
const BIG_BLOCKS: usize = 64;
const BIGS: usize = 6;
const RECORD: usize = 128;
const REPLACED: usize = 8;
const TOUCHED: usize = 40;
const NAMES: usize = 30;

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// `len` bytes that say whose they are in every eight.
fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    stamp.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// The stamp of `bytes`, when all of them have the same.
fn stamp_of(bytes: &[u8]) -> Option<u64> {
    let stamp = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == stamped(stamp, bytes.len())).then_some(stamp)
}

fn touched_len(number: usize) -> usize {
    1000 + number * 977
}

fn lay(root: &Path) {
    for dir in ["l", "l/names", "l/dir", "u", "w", "m"] {
        fs::create_dir(root.join(dir)).unwrap();
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for number in 0..BIGS {
        let data: Vec<u8> = (0..BIG_BLOCKS).flat_map(|_| stamped(1, BLOCK)).collect();
        fs::write(root.join(format!("l/big{number}")), data).unwrap();
    }
    fs::write(root.join("l/log"), stamped(1, RECORD * 50)).unwrap();
    for number in 0..REPLACED {
        fs::write(root.join(format!("l/r{number}")), stamped(1, 5000)).unwrap();
    }
    for number in 0..TOUCHED {
        let data = stamped(1, touched_len(number));
        fs::write(root.join(format!("l/t{number}")), data).unwrap();
        fs::hard_link(
            root.join(format!("l/t{number}")),
            root.join(format!("l/dir/h{number}")),
        )
        .unwrap();
    }
    for number in 0..NAMES {
        let name = format!("l/names/n{number}");
        if number % 3 == 0 {
            fs::create_dir(root.join(&name)).unwrap();
            fs::write(root.join(&name).join("inside"), b"x").unwrap();
        } else {
            fs::write(root.join(name), b"name").unwrap();
        }
    }
}

/// What this process is when it is the server: never returns before the mount ends.
fn be_server(root: &Path) {
    let _old = rustix::process::umask(rustix::fs::Mode::empty());
    let virtual_ids = std::env::var_os(VIRTUAL).is_some();
    let lower = DirLayers::open(&[root.join("l")], false).unwrap();
    let options = Options {
        ids: if virtual_ids {
            IdStore::Virtual
        } else {
            IdStore::Real
        },
        xattrs: if virtual_ids {
            XattrDialect::User
        } else {
            XattrDialect::Trusted
        },
        sparse_copy_up: virtual_ids,
        ..Options::default()
    };
    let places = (root.join("u"), root.join("w"));
    let upper = Some((&*places.0, &*places.1));
    let union = Union::open(Arc::new(lower), upper, options).unwrap();
    let mounted = mount(&root.join("m"), "kill", MountFlags::empty()).unwrap();
    let connection = mounted.connection().unwrap();
    mounted.leave();
    println!("READY");
    std::io::stdout().flush().unwrap();
    let rings = std::env::var_os(RINGS).map_or(IoUring::Off, |_| IoUring::On);
    let (options, stats) = (common::options(rings), Stats::default());
    serve(&connection, &Arc::new(union), &options, &stats, &|| {}).unwrap();
}

/// How a tree is served.
#[derive(Debug, Clone, Copy)]
struct Kind {
    virtual_ids: bool,
    io_uring: IoUring,
}

fn start(root: &Path, kind: Kind) -> Child {
    if let Some(program) = std::env::var_os(PROGRAM) {
        return start_program(&program, root, kind);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", TEST, "--nocapture"])
        .env(SERVE, root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if kind.virtual_ids {
        command.env(VIRTUAL, "1");
    }
    if kind.io_uring == IoUring::On {
        command.env(RINGS, "1");
    }
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"READY\n") {
        assert_eq!(
            out.read(&mut byte).unwrap(),
            1,
            "the server said {:?}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
    }
    child
}

/// Starts `program`, an `rrun-overlayfs`, with the options that [`be_server`] has.
fn start_program(program: &OsStr, root: &Path, kind: Kind) -> Child {
    let m = root.join("m");
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let mut options = "lowerdir=l,upperdir=u,workdir=w".to_owned();
    if kind.virtual_ids {
        options += ",userxattr,xattr_permissions=2,metacopy=on";
    }
    if kind.io_uring == IoUring::On {
        options += ",io_uring=on";
    }
    let mut child = Command::new(program)
        .args(["-f", "kill", "m", "-o", &options])
        .arg0("rrun-overlayfs")
        .current_dir(root)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while device(&m) == device(root) {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the server ended: {ended:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
    child
}

fn unmount(root: &Path) {
    rustix::mount::unmount(root.join("m"), UnmountFlags::DETACH).unwrap();
}

/// What the writers were told is done.
#[derive(Default)]
struct Told {
    /// Stamp of the last replacement of each file.
    replaced: [AtomicU64; REPLACED],
    /// Records appended to the log.
    logged: AtomicU64,
    /// Names that are there.
    names: std::sync::Mutex<BTreeSet<String>>,
    /// The name being changed.
    changing: std::sync::Mutex<Vec<String>>,
}

/// Overwrites whole blocks of lower files.
fn write_blocks(m: &Path, seed: u64, first: u64) -> std::io::Result<()> {
    let mut random = Random(seed);
    for stamp in first.. {
        let path = m.join(format!("big{}", random.next(BIGS)));
        let file = OpenOptions::new().write(true).open(path)?;
        for _ in 0..=random.next(3) {
            let count = 1 + random.next(6);
            let at = random.next(BIG_BLOCKS - count);
            file.write_all_at(&stamped(stamp, count * BLOCK), (at * BLOCK) as u64)?;
        }
        if random.next(3) == 0 {
            file.sync_data()?;
        }
        close(file)?;
    }
    Ok(())
}

/// Closing writes back, and may fail.
fn close(file: File) -> std::io::Result<()> {
    let again = file.try_clone()?;
    drop(file);
    // dup(2) and close(2): the only way to see what a close says.
    again.sync_all()
}

/// Replaces files as editors do, and appends to a log.
fn replace_files(m: &Path, told: &Told, seed: u64, first: u64) -> std::io::Result<()> {
    let mut random = Random(seed);
    for stamp in first.. {
        let number = random.next(REPLACED);
        let temporary = m.join("r.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&stamped(stamp, 8 + random.next(40_000)))?;
        close(file)?;
        fs::rename(&temporary, m.join(format!("r{number}")))?;
        told.replaced[number].store(stamp, Ordering::Release);
        let mut log = OpenOptions::new().append(true).open(m.join("log"))?;
        log.write_all(&stamped(stamp, RECORD))?;
        close(log)?;
        told.logged.fetch_add(1, Ordering::Release);
    }
    Ok(())
}

/// Changes attributes and lengths of lower files, all of which have a second name.
fn touch_files(m: &Path, seed: u64) -> std::io::Result<()> {
    let mut random = Random(seed);
    loop {
        let number = random.next(TOUCHED);
        let path = m.join(format!("t{number}"));
        match random.next(4) {
            0 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?,
            1 => {
                // there and back: copies up for a rename
                fs::rename(&path, m.join("t.moved"))?;
                fs::rename(m.join("t.moved"), &path)?;
            }
            2 => {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len((touched_len(number) / 2) as u64)?;
            }
            _ => {
                let file = OpenOptions::new().write(true).open(&path)?;
                let now = std::time::SystemTime::now();
                file.set_modified(now)?;
            }
        }
    }
}

/// Makes and removes names.
fn change_names(m: &Path, told: &Told, seed: u64) -> std::io::Result<()> {
    let mut random = Random(seed);
    let dir = m.join("names");
    loop {
        let name = format!("n{}", random.next(NAMES));
        let other = format!("n{}", random.next(NAMES));
        let (has, has_other) = {
            let names = told.names.lock().unwrap();
            (names.contains(&name), names.contains(&other))
        };
        *told.changing.lock().unwrap() = vec![name.clone(), other.clone()];
        let path = dir.join(&name);
        if has && !has_other {
            fs::rename(&path, dir.join(&other))?;
            let mut names = told.names.lock().unwrap();
            names.remove(&name);
            names.insert(other);
        } else if has {
            if fs::symlink_metadata(&path)?.is_dir() {
                let inside = path.join("inside");
                if fs::symlink_metadata(&inside).is_ok() {
                    fs::remove_file(inside)?;
                }
                fs::remove_dir(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
            told.names.lock().unwrap().remove(&name);
        } else {
            match random.next(4) {
                0 => fs::create_dir(&path)?,
                1 => std::os::unix::fs::symlink("to", &path)?,
                2 => drop(File::create(&path)?),
                _ => fs::hard_link(m.join(format!("t{}", random.next(TOUCHED))), &path)?,
            }
            told.names.lock().unwrap().insert(name);
        }
    }
}

/// Everything wrong with what is mounted now.
fn verify(m: &Path, told: &Told, logged_before: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    for number in 0..BIGS {
        let data = fs::read(m.join(format!("big{number}"))).unwrap();
        if data.len() != BIG_BLOCKS * BLOCK {
            wrong.push(format!("big{number} has {} bytes", data.len()));
        }
        for (at, block) in data.chunks(BLOCK).enumerate() {
            if stamp_of(block).is_none() {
                wrong.push(format!("block {at} of big{number} is torn"));
            }
        }
    }
    for (number, told) in told.replaced.iter().enumerate() {
        let data = fs::read(m.join(format!("r{number}"))).unwrap();
        match stamp_of(&data) {
            Some(stamp) if stamp >= told.load(Ordering::Acquire) => {}
            got => wrong.push(format!("r{number} is {got:?}, not {told:?} or newer")),
        }
    }
    let log = fs::read(m.join("log")).unwrap();
    let records = (log.len() / RECORD) as u64;
    let least = logged_before + told.logged.load(Ordering::Acquire);
    if !log.len().is_multiple_of(RECORD) || records < least || records > least + 1 {
        wrong.push(format!("the log has {} bytes, {least} records", log.len()));
    }
    if log.chunks(RECORD).any(|record| stamp_of(record).is_none()) {
        wrong.push("a record of the log is torn".to_owned());
    }
    for number in 0..TOUCHED {
        let path = ["t.moved".to_owned(), format!("t{number}")]
            .map(|name| m.join(name))
            .into_iter()
            .rev()
            .find(|path| path.symlink_metadata().is_ok());
        let data = fs::read(path.unwrap()).unwrap();
        let other = fs::read(m.join(format!("dir/h{number}"))).unwrap();
        let whole = touched_len(number);
        let lengths = [whole, whole / 2];
        if stamp_of(&data) != Some(1) || !lengths.contains(&data.len()) || data != other {
            wrong.push(format!("t{number} has {} bytes of {whole}", data.len()));
        }
    }
    wrong.extend(verify_names(m, told));
    wrong
}

fn verify_names(m: &Path, told: &Told) -> Vec<String> {
    let mut wrong = Vec::new();
    let listed: BTreeSet<String> = fs::read_dir(m.join("names"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let changing = told.changing.lock().unwrap().clone();
    let names = told.names.lock().unwrap();
    for name in listed.symmetric_difference(&names) {
        if !changing.contains(name) {
            wrong.push(format!("name {name} came or went"));
        }
    }
    for name in &listed {
        if let Err(error) = fs::symlink_metadata(m.join("names").join(name)) {
            wrong.push(format!("name {name} is listed, but {error}"));
        }
    }
    if changing.len() == 2 && listed.difference(&names).count() == 2 {
        wrong.push(format!("both of {changing:?} are there"));
    }
    wrong
}

/// What is in the work directory, or in the upper one under a temporary name.
fn debris(root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(root.join("w")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name() != Some("index".as_ref()) {
            out.push(path);
        }
    }
    for entry in fs::read_dir(root.join("w/index")).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().nlink() < 2 {
            out.push(path);
        }
    }
    let mut dirs = vec![root.join("u")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let data = path.symlink_metadata().unwrap();
            if data.is_dir() {
                dirs.push(path);
            } else if path.file_name().unwrap().as_encoded_bytes()[0] == b'#' {
                out.push(path);
            }
        }
    }
    out
}

/// Starts, writes, kills; the writers end because every call then fails.
fn write_until_killed(root: &Path, round: u64, kind: Kind, told: &Told) {
    let mut server = start(root, kind);
    let m = root.join("m");
    let mut random = Random(round + 1);
    let pause = Duration::from_micros(200 + random.next(25_000) as u64);
    let first = 2 + (round << 32);
    std::thread::scope(|scope| {
        scope.spawn(|| write_blocks(&m, round * 5 + 1, first));
        scope.spawn(|| replace_files(&m, told, round * 5 + 2, first));
        scope.spawn(|| touch_files(&m, round * 5 + 3));
        scope.spawn(|| change_names(&m, told, round * 5 + 4));
        std::thread::sleep(pause);
        server.kill().unwrap();
        server.wait().unwrap();
    });
    unmount(root);
}

fn listing(m: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut dirs = vec![m.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let data = path.symlink_metadata().unwrap();
            out.push(format!(
                "{} {:o} {} {} {} {}",
                path.display(),
                data.mode(),
                data.ino(),
                data.nlink(),
                data.len(),
                data.mtime_nsec()
            ));
            if data.is_dir() {
                dirs.push(path);
            }
        }
    }
    out.sort();
    out
}

/// Mounts after a kill and looks; returns what is wrong.
fn inspect(root: &Path, kind: Kind, told: &Told, logged: &mut u64) -> Vec<String> {
    let m = root.join("m");
    let mut server = start(root, kind);
    let mut wrong = verify(&m, told, *logged);
    *logged = fs::metadata(m.join("log")).unwrap().len() / RECORD as u64;
    if m.join("t.moved").try_exists().unwrap() {
        let lost = (0..TOUCHED).find(|n| !m.join(format!("t{n}")).try_exists().unwrap());
        fs::rename(m.join("t.moved"), m.join(format!("t{}", lost.unwrap()))).unwrap();
    }
    let _none = fs::remove_file(m.join("r.new"));
    let before = listing(&m);
    unmount(root);
    server.wait().unwrap();
    wrong.extend(debris(root).iter().map(|p| format!("left {}", p.display())));
    let mut server = start(root, kind);
    let after = listing(&m);
    for line in before.iter().filter(|line| !after.contains(line)) {
        let name = line.split(' ').next().unwrap();
        let now = after.iter().find(|l| l.split(' ').next() == Some(name));
        wrong.push(format!("after another mount, not {line} but {now:?}"));
    }
    unmount(root);
    server.wait().unwrap();
    wrong
}

fn one_tree(
    io_uring: IoUring,
    (first_round, rounds): (u64, u64),
    records: &mut u64,
) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    lay(root);
    let kind = Kind {
        virtual_ids: (first_round / ROUNDS_PER_TREE).is_multiple_of(2),
        io_uring,
    };
    let mut logged = 50;
    for round in first_round..first_round + rounds {
        let told = Told::default();
        told.names.lock().unwrap().extend(names_now(root, kind));
        write_until_killed(root, round, kind, &told);
        let wrong = inspect(root, kind, &told, &mut logged);
        if !wrong.is_empty() {
            let head = format!("round {round}, {kind:?}");
            if std::env::var_os("RRUN_KILL_KEEP").is_some() {
                eprintln!("kept {}", dir.keep().display());
            }
            return [vec![head], wrong].concat();
        }
    }
    *records += logged;
    Vec::new()
}

fn names_now(root: &Path, kind: Kind) -> BTreeSet<String> {
    let mut server = start(root, kind);
    let names = fs::read_dir(root.join("m/names"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    unmount(root);
    server.wait().unwrap();
    names
}

#[test]
fn what_a_killed_server_was_writing_is_old_or_new() {
    if let Some(root) = std::env::var_os(SERVE) {
        be_server(Path::new(&root));
        // Nobody reads what the test harness would say.
        std::process::exit(0);
    }
    if common::ran_unshared(TEST, None) {
        return;
    }
    let rounds = std::env::var(ROUNDS)
        .ok()
        .and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS_DEFAULT);
    for io_uring in common::transports() {
        let mut records = 0;
        for first in (0..rounds).step_by(usize::try_from(ROUNDS_PER_TREE).unwrap()) {
            let count = ROUNDS_PER_TREE.min(rounds - first);
            let wrong = one_tree(io_uring, (first, count), &mut records);
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        }
        eprintln!("io_uring {io_uring:?}: {rounds} kills, {records} records, nothing torn");
    }
}
