//! The small parent of a container's program: passes signals on, reaps orphans.
//!
//! It is this process after everything of the container was set up, so no file of ours has to be
//! seen inside. With the host's ids it cannot be looked at from there: it is not dumpable.

use std::os::fd::AsFd;

use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, wait};

use crate::attach::forwarded_signals;
use crate::error::{Failure, Step as _};
use crate::monitor::wait_readable;
use crate::sys;

/// Whether ids here are not the host's. Whoever enters such a container needs to look at its first
/// process, and our program file is as safe: while the monitor runs nobody can write it.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes the process that goes on as the program; the caller's process stays as its parent and
/// never returns.
///
/// # Errors
///
/// When no process can be made.
pub(crate) fn split(tty: bool) -> Result<(), Failure> {
    if !in_user_namespace() {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).step("protect the init process")?;
    }
    let mut wanted = forwarded_signals();
    wanted.extend([libc::SIGCHLD, libc::SIGCONT, libc::SIGTSTP]);
    let signals = sys::signal_fd(&wanted).step("catch signals for the init process")?;
    match sys::fork(0).step("make the process of the init process")? {
        sys::Fork::Child => {
            drop(signals);
            if tty {
                // A group of its own in the foreground, so that job control works in it.
                rustix::process::setpgid(None, None).step("make a process group")?;
                sys::ignore_signal(libc::SIGTTOU);
                let group = rustix::process::getpgrp();
                let _background = rustix::termios::tcsetpgrp(std::io::stdin(), group);
            }
            sys::reset_signals();
            Ok(())
        }
        sys::Fork::Parent(program) => {
            let _unnamed = rustix::thread::set_name(c"init");
            // The line to the monitor closes with this, as it does in the program.
            let _refused = sys::close_all_but(signals.as_fd());
            sys::exit_now(watch(program, &signals));
        }
    }
}

/// Passes signals on and reaps until the program ends; its exit code.
fn watch(program: Pid, signals: &std::os::fd::OwnedFd) -> i32 {
    loop {
        wait_readable(signals.as_fd(), u32::MAX);
        let mut record = [0_u8; 128];
        if rustix::io::read(signals, &mut record) != Ok(record.len()) {
            continue;
        }
        match sys::signal_number(&record) {
            Some(libc::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    return code;
                }
            }
            Some(signal) => {
                // It may just have ended.
                let _gone = sys::kill(program.as_raw_nonzero().get(), signal);
            }
            None => {}
        }
    }
}

/// Reaps all that ended; the program's exit code when it is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            ended = status.exit_status().or(signal).or(ended);
        }
    }
    ended
}
