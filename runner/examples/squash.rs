//! Runs a command as the only user of a user namespace, with every `chown` and `mknod` granted.
//!
//! `squash COMMAND [ARGUMENT...]` needs `unshare` of util-linux and an empty directory `/mnt`,
//! where the command finds a tmpfs. Three processes, as in a container: this one plays the
//! monitor, `squash __init` plays init, `squash __ids` is the supervisor.
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rrun_runner::ids::{Entry, enter_and_supervise};
use rrun_runner::seccomp::{Mapped, default_filter, install, squash_filter};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// The capabilities of an ordinary container: docker's default set.
const CAPABILITIES: u64 = 0xa804_25fb;

type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> Outcome {
    let mut args = env::args_os().skip(1);
    match args.next() {
        Some(role) if role == "__init" => init(&args.collect::<Vec<_>>()),
        Some(role) if role == "__ids" => ids(&args.collect::<Vec<_>>()),
        Some(command) => monitor(std::iter::once(command).chain(args)),
        None => Err("usage: squash COMMAND [ARGUMENT...]".into()),
    }
}

/// Starts init, then the supervisor, then lets init go on, and passes on what it prints.
fn monitor(command: impl Iterator<Item = OsString>) -> Outcome {
    let exe = env::current_exe()?;
    let mut init = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs squash /mnt && exec \"$@\"")
        .arg("sh")
        .arg(&exe)
        .arg("__init")
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut to), Some(from)) = (init.stdin.take(), init.stdout.take()) else {
        return Err("no pipes".into());
    };
    let mut from = BufReader::new(from);
    let mut listener = String::new();
    if from.read_line(&mut listener)? == 0 {
        return Err("init did not start".into());
    }
    let mut ids = Command::new(&exe)
        .arg("__ids")
        .args([init.id().to_string(), listener.trim().to_owned()])
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut ready) = ids.stdout.take() {
        ready.read_exact(&mut [0])?;
    }
    to.write_all(b"\n")?;
    io::copy(&mut from, &mut io::stdout())?;
    let status = init.wait()?;
    let supervised = ids.wait()?;
    if !supervised.success() {
        return Err(format!("supervisor: {supervised}").into());
    }
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(255))?))
}

/// Installs the filters, shows the listener to the monitor, becomes the command.
fn init(command: &[OsString]) -> Outcome {
    let (squash, profile) = (
        [squash_filter(Mapped::Root)],
        [default_filter(CAPABILITIES)],
    );
    let listener = install(&squash)?.ok_or("no listener")?;
    writeln!(io::stdout(), "{}", listener.as_raw_fd())?;
    io::stdin().read_line(&mut String::new())?;
    drop(listener);
    install(&profile)?;
    let (program, args) = command.split_first().ok_or("no command")?;
    Err(Command::new(program).args(args).exec().into())
}

/// Takes the listener from init (a real one is sent over a socket), enters, supervises.
fn ids(args: &[OsString]) -> Outcome {
    let number = |at: usize| -> Result<i32, Box<dyn Error>> {
        let text = args
            .get(at)
            .and_then(|arg| arg.to_str())
            .ok_or("missing argument")?;
        Ok(text.parse()?)
    };
    let pid = Pid::from_raw(number(0)?).ok_or("no process")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let listener = pidfd_getfd(&process, number(1)?, PidfdGetfdFlags::empty())?;
    let procfs = openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    io::stdout().write_all(b".")?;
    io::stdout().flush()?;
    let process: BorrowedFd<'_> = process.as_fd();
    enter_and_supervise(&Entry::Process(process), listener, procfs)?;
    Ok(ExitCode::SUCCESS)
}
