//! System calls and requests per operation: what a server does, whatever the machine.
//!
//! strace is attached to a running server while a few hundred equal operations are made. A call on
//! `/dev/fuse` or one that only waits is not counted as work; replies written there are the
//! requests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::mounts::{Contender, Kind};
use crate::options::Settings;
use crate::support::program;
use crate::work;

/// Calls that wait or wake, rather than work.
const WAITING: [&str; 6] = [
    "futex",
    "ppoll",
    "poll",
    "sched_yield",
    "clock_nanosleep",
    "restart_syscall",
];

type Operation = fn(&[PathBuf]) -> Result<(), String>;

/// Operations, in the order they are made, and the top directory whose files they are made on.
const OPERATIONS: [(&str, usize, Operation); 7] = [
    ("lookup (first lstat)", 0, stat),
    ("lstat, again", 0, stat),
    ("unlink of a lower file", 0, unlink),
    ("chmod of a lower file", 1, chmod),
    ("append 1 byte to a small lower file", 2, append),
    ("create+write of 1 KiB", 3, create),
    ("open+read+close of a small lower file", 4, read),
];

/// Prints the table.
pub(crate) fn measure(
    dir: &Path,
    settings: &Settings,
    contenders: &mut [Contender],
) -> Result<(), String> {
    if program::find("strace").is_none() {
        return Err("strace is not installed".to_owned());
    }
    println!("| operation | server | requests | system calls | which (per operation) |");
    println!("|---|---|---|---|---|");
    for contender in contenders.iter_mut() {
        let serves = !matches!(contender.kind, Kind::Native | Kind::Overlay);
        if !serves || contender.missing.is_some() {
            continue;
        }
        contender.refresh(dir, settings)?;
        let mut server = contender.foreground(dir, settings)?;
        for (name, top, operation) in OPERATIONS {
            let paths: Vec<PathBuf> = settings
                .shape
                .files_of(top..top + 1)
                .iter()
                .map(|path| contender.root().join(path))
                .collect();
            if !matches!(top, 0 | 3) {
                stat(&paths)?;
            }
            let log = dir.join("strace.log");
            let tracer = attach(server.id(), &log)?;
            operation(&paths)?;
            sync(&contender.root())?;
            detach(tracer)?;
            let text = fs::read_to_string(&log).map_err(|e| format!("no strace log: {e}"))?;
            report(name, contender.kind.name(), &text, paths.len());
        }
        contender.unmount()?;
        server
            .wait()
            .map_err(|error| format!("could not wait for the server: {error}"))?;
    }
    Ok(())
}

/// Starts strace on a process and waits until it holds it.
fn attach(pid: u32, log: &Path) -> Result<Child, String> {
    let told = log.with_extension("told");
    let file = File::create(&told).map_err(|e| format!("could not create a file: {e}"))?;
    let child = Command::new("strace")
        .args(["-f", "-y", "-s", "0", "-o"])
        .arg(log)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(file)
        .spawn()
        .map_err(|error| format!("could not start strace: {error}"))?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !fs::read_to_string(&told).is_ok_and(|text| text.contains("attached")) {
        if Instant::now() > deadline {
            return Err("strace did not attach in 5 s".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // All threads are held a moment after the first.
    std::thread::sleep(Duration::from_millis(200));
    Ok(child)
}

fn detach(mut tracer: Child) -> Result<(), String> {
    std::thread::sleep(Duration::from_millis(200));
    let pid = tracer.id().to_string();
    let told = Command::new("kill").args(["-INT", &pid]).status();
    told.and_then(|_| tracer.wait())
        .map(|_| ())
        .map_err(|error| format!("could not stop strace: {error}"))
}

fn sync(root: &Path) -> Result<(), String> {
    let mut command = program::limited("sync");
    program::timed(command.arg("-f").arg(root), Path::new("/dev/null")).map(|_| ())
}

/// Counts the calls in a log: replies written to the kernel, and work by name.
fn count(log: &str) -> (usize, BTreeMap<&str, usize>) {
    let mut replies = 0;
    let mut calls = BTreeMap::new();
    for line in log.lines() {
        // PID NAME(ARGUMENTS) = RESULT; the second half of an interrupted line starts with "<...".
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let Some((name, arguments)) = call.split_once('(') else {
            continue;
        };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        if arguments.contains("</dev/fuse>") {
            replies += usize::from(matches!(name, "write" | "writev" | "splice"));
        } else if !WAITING.contains(&name) {
            *calls.entry(name).or_insert(0) += 1;
        }
    }
    (replies, calls)
}

fn report(operation: &str, server: &str, log: &str, operations: usize) {
    let (replies, calls) = count(log);
    let per = |count: usize| {
        let tenths = (count * 10 + operations / 2) / operations;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    let total: usize = calls.values().sum();
    let mut sorted: Vec<(&&str, &usize)> = calls.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1));
    let which: Vec<String> = sorted
        .iter()
        .filter(|(_, count)| **count * 10 >= operations)
        .map(|(name, count)| format!("{name} {}", per(**count)))
        .collect();
    println!(
        "| {operation} | {server} | {} | {} | {} |",
        per(replies),
        per(total),
        which.join(", ")
    );
}

fn each(paths: &[PathBuf], action: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), String> {
    for path in paths {
        action(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn stat(paths: &[PathBuf]) -> Result<(), String> {
    each(paths, |path| fs::symlink_metadata(path).map(|_| ()))
}

fn unlink(paths: &[PathBuf]) -> Result<(), String> {
    each(paths, |path| fs::remove_file(path))
}

fn chmod(paths: &[PathBuf]) -> Result<(), String> {
    each(paths, |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640))
    })
}

fn append(paths: &[PathBuf]) -> Result<(), String> {
    for path in paths {
        work::append_to(path, false)?;
    }
    Ok(())
}

fn create(paths: &[PathBuf]) -> Result<(), String> {
    each(paths, |path| {
        fs::write(path.with_extension("new"), [b'x'; 1024])
    })
}

fn read(paths: &[PathBuf]) -> Result<(), String> {
    each(paths, |path| fs::read(path).map(|_| ()))
}
