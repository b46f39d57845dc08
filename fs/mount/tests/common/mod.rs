//! Running a test again where nobody else sees its mounts.
#![allow(
    dead_code,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "test code; each test binary has its own copy and uses part of it"
)]

use std::ffi::OsString;
use std::process::Command;

use rrun_mount::{IoUring, ServeOptions};

/// Set in the copy that [`run_unshared`] starts, to what it was told.
const UNSHARED: &str = "RRUN_TEST_UNSHARED";

/// What the caller of [`run_unshared`] told this copy; `None` in the first process.
pub(crate) fn told() -> Option<OsString> {
    std::env::var_os(UNSHARED)
}

/// Runs `test` of this binary again in namespaces of its own (`flags` of unshare(1)) and fails
/// with it; skips where the system does not allow it. A mount namespace keeps programs that
/// happen to start meanwhile from holding our mounts alive.
///
/// A test that could wait for itself for ever gets `limit_secs`.
pub(crate) fn run_unshared(flags: &str, test: &str, tell: &str, limit_secs: Option<u32>) {
    let mut command = match limit_secs {
        Some(secs) => {
            let mut command = Command::new("timeout");
            command.args(["-s", "KILL", &secs.to_string(), "unshare"]);
            command
        }
        None => Command::new("unshare"),
    };
    let status = command
        .args([flags, "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(UNSHARED, tell)
        .status();
    match status {
        // unshare's own exit code; a test that fails has another
        Ok(status) if status.code() == Some(1) => eprintln!("skipped: unshare {flags}: {status}"),
        Ok(status) => assert!(status.success(), "in a namespace: {status}"),
        Err(error) => eprintln!("skipped: unshare: {error}"),
    }
}

/// The same for root only, with a mount namespace alone; false when the caller is that copy and
/// has to do the work.
pub(crate) fn ran_unshared(test: &str, limit_secs: Option<u32>) -> bool {
    if told().is_some() {
        return false;
    }
    if rustix::process::geteuid().is_root() {
        run_unshared("-m", test, "root", limit_secs);
    } else {
        eprintln!("skipped: needs root");
    }
    true
}

/// The ways requests may come here; prints why one is missing.
pub(crate) fn transports() -> Vec<IoUring> {
    match rrun_mount::io_uring_available() {
        Ok(()) => vec![IoUring::Off, IoUring::On],
        Err(reason) => {
            eprintln!("skipped: {reason}");
            vec![IoUring::Off]
        }
    }
}

/// The defaults, with requests coming in a given way.
pub(crate) fn options(io_uring: IoUring) -> ServeOptions {
    ServeOptions {
        io_uring,
        ..ServeOptions::default()
    }
}
