//! Running other programs, never longer than a limit.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No step of a benchmark lasts this long unless something hangs.
const STEP_SECONDS_MAX: u32 = 180;

/// A command under `timeout`, without input, in the C locale.
pub(crate) fn limited(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", &STEP_SECONDS_MAX.to_string()])
        .arg(program)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs it, its errors going to `log`; gives the wall time.
///
/// A file takes the errors because a server that stays behind would keep a pipe open.
pub(crate) fn timed(command: &mut Command, log: &Path) -> Result<Duration, String> {
    let file = File::create(log).map_err(|e| format!("could not create {}: {e}", log.display()))?;
    command.stderr(file);
    let started = Instant::now();
    let status = command
        .status()
        .map_err(|error| format!("could not start {command:?}: {error}"))?;
    let took = started.elapsed();
    if status.success() {
        return Ok(took);
    }
    let words: Vec<String> = command
        .get_args()
        .skip(3)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let told = text.lines().last().unwrap_or("nothing was said");
    let called: String = words.join(" ").chars().take(60).collect();
    Err(format!("`{called}`: {status}: {told}"))
}

/// Where a program is; `None` when it is not installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return path.is_file().then_some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The first line a program prints when asked for its version.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    let output = limited(program)
        .arg(argument)
        .stdout(Stdio::piped())
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| line.contains(|c: char| c.is_ascii_digit()) && !line.contains("fusermount"))
        .unwrap_or("version unknown")
        .to_owned()
}

/// A line on the machine: kernel, processors, load.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let load = read("/proc/loadavg");
    format!(
        "Linux {}, {processors} x {model}, load {}",
        kernel.trim(),
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    )
}
