//! Waiting for any child, with what it used.
#![allow(
    unsafe_code,
    reason = "the standard library has no wait that tells what a child used"
)]

use std::time::Duration;

/// A process that ended.
pub(crate) struct Ended {
    pub(crate) pid: u32,
    /// Whether it exited with status 0.
    pub(crate) success: bool,
    /// Processor time of it and all children it waited for.
    pub(crate) cpu: Duration,
    /// Largest resident size of it or a child it waited for, in KiB.
    pub(crate) peak_kib: u64,
}

/// What a wait found.
pub(crate) enum Waited {
    Ended(Ended),
    /// Children exist, none has ended.
    Nothing,
    /// There are no children.
    NoChildren,
}

/// Reaps a child, or an orphan when we are the first process of a namespace.
///
/// Source: `wait4(2)`, `getrusage(2)`.
pub(crate) fn wait_any(block: bool) -> Waited {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals of the types wait4 writes, alive during the call.
    let pid = unsafe { libc::wait4(-1, &raw mut status, flags, usage.as_mut_ptr()) };
    // SAFETY: all bytes were zeroed, and all-zero is a valid `rusage`, written by the call or not.
    let usage = unsafe { usage.assume_init() };
    match u32::try_from(pid) {
        Err(_) => Waited::NoChildren,
        Ok(0) => Waited::Nothing,
        Ok(pid) => Waited::Ended(Ended {
            pid,
            success: libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
        }),
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}
