//! The place a benchmark runs in, which vanishes with it whatever ends it.
//!
//! Three processes of the same program: the one that was called; the *keeper*, in a process group
//! of its own so that an interrupt does not reach it, which holds the work directory; and the one
//! *inside* fresh mount and process id namespaces, which measures. Each notices the end of the one
//! before it by the end of its standard input. When the one inside ends, the kernel kills every
//! server in its namespace and takes every mount with it; the keeper then removes the directory.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STAGE: &str = "RRUN_BENCH_STAGE";
const DIRECTORY: &str = "RRUN_BENCH_DIR";
/// A whole benchmark never lasts this long unless something hangs.
const RUN_SECONDS_MAX: u64 = 3600;
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// What is in the names of control groups that podman, crun and runc make for a benchmark.
const PEER_GROUPS: [&str; 2] = ["/libpod_parent", "/bench"];
const POLL: Duration = Duration::from_millis(50);
/// Killed processes may hold the directory a moment longer.
const REMOVE_ATTEMPTS: u32 = 40;

/// How the place is made.
pub(crate) struct Place {
    /// Where the work directory is made.
    pub(crate) parent: PathBuf,
    /// Whether to enter a user namespace, as everybody but root must.
    pub(crate) user_namespace: bool,
}

/// Whether this process is root's: the owner of its own /proc entry.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

/// Runs `inside` in the place that `place` describes.
pub(crate) fn run(place: &Place, inside: impl Fn(&Path) -> Result<(), String>) -> ExitCode {
    let stage = std::env::var(STAGE).unwrap_or_default();
    let outcome = match stage.as_str() {
        "inside" => {
            // An interrupt does not reach the first process of a namespace, this does.
            std::thread::spawn(|| {
                wait_for_end_of_input();
                std::process::exit(130);
            });
            let dir = std::env::var_os(DIRECTORY).unwrap_or_default();
            inside(Path::new(&dir)).map(|()| 0)
        }
        "keeper" => keep(place),
        _ => call(),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn wait_for_end_of_input() {
    let mut byte = [0; 1];
    while matches!(std::io::stdin().read(&mut byte), Ok(count) if count > 0) {}
}

/// This program again, with the same arguments.
fn myself() -> Result<(PathBuf, Vec<std::ffi::OsString>), String> {
    let exe = std::env::current_exe().map_err(|e| format!("could not find myself: {e}"))?;
    Ok((exe, std::env::args_os().skip(1).collect()))
}

fn call() -> Result<i32, String> {
    let (exe, arguments) = myself()?;
    let mut child = Command::new(exe)
        .args(arguments)
        .env(STAGE, "keeper")
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not start the keeper: {error}"))?;
    // Held until the keeper ends: closing it is the signal that we are gone.
    let held = child.stdin.take();
    let status = child.wait();
    drop(held);
    let status = status.map_err(|error| format!("could not wait for the keeper: {error}"))?;
    Ok(status.code().unwrap_or(1))
}

fn keep(place: &Place) -> Result<i32, String> {
    let dir = place.parent.join(format!("rb{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("could not create {}: {e}", dir.display()))?;
    let mut before = Vec::new();
    control_groups(Path::new(CONTROL_GROUPS), &mut before);
    let code = spawn(place, &dir).and_then(|mut child| watch(&mut child));
    remove(&dir)?;
    remove_control_groups(&before);
    code
}

fn spawn(place: &Place, dir: &Path) -> Result<Child, String> {
    let (exe, arguments) = myself()?;
    let mut command = Command::new("unshare");
    if place.user_namespace {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(exe)
        .args(arguments)
        .env(STAGE, "inside")
        .env(DIRECTORY, dir)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not start unshare(1): {error}"))
}

fn watch(child: &mut Child) -> Result<i32, String> {
    let held = child.stdin.take();
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        wait_for_end_of_input();
        told.store(true, Ordering::Release);
    });
    let deadline = Instant::now() + Duration::from_secs(RUN_SECONDS_MAX);
    let code = loop {
        let status = child
            .try_wait()
            .map_err(|error| format!("could not wait for the benchmark: {error}"))?;
        if let Some(status) = status {
            break status.code().unwrap_or(1);
        }
        if over.load(Ordering::Acquire) || Instant::now() > deadline {
            let ended = child.kill().and_then(|()| child.wait());
            ended.map_err(|error| format!("could not end the benchmark: {error}"))?;
            break 130;
        }
        std::thread::sleep(POLL);
    };
    drop(held);
    Ok(code)
}

/// Collects the control groups that peers make, parents first.
fn control_groups(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if PEER_GROUPS
            .iter()
            .any(|mark| path.to_string_lossy().contains(mark))
        {
            found.push(path.clone());
        }
        control_groups(&path, found);
    }
}

/// Removes those that were not there `before`; the kernel refuses any that is in use, as those of
/// killed processes are a moment longer.
fn remove_control_groups(before: &[PathBuf]) {
    for _ in 0..REMOVE_ATTEMPTS {
        let mut after = Vec::new();
        control_groups(Path::new(CONTROL_GROUPS), &mut after);
        let new: Vec<&PathBuf> = after.iter().filter(|path| !before.contains(path)).collect();
        let kept = new
            .iter()
            .rev()
            .filter(|path| fs::remove_dir(path).is_err());
        if kept.count() == 0 {
            return;
        }
        std::thread::sleep(POLL);
    }
    eprintln!("bench: some control groups of peers are still in use below {CONTROL_GROUPS}");
}

fn remove(dir: &Path) -> Result<(), String> {
    let mut last = None;
    for _ in 0..REMOVE_ATTEMPTS {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(POLL);
    }
    let why = last.map_or_else(String::new, |error| error.to_string());
    Err(format!("could not remove {}: {why}", dir.display()))
}
