//! A further process in a running container.

mod hold;
mod pump;
mod single;

pub(crate) use pump::carry;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::caps::CapSet;
use crate::channel::{self, Message};
use crate::config::{ContainerConfig, Seccomp};
use crate::error::{At, Failure, RunnerError, Step as _};
use crate::filters::Filters;
use crate::monitor::{Child, start_supervisor};
use crate::plan::{self, ProcessSpec};
use crate::state::{self, State, Status};
use crate::{peers, preserved, process, sys};

/// Bytes read at once: the size of a pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest wait for the end of a process that has nothing left to do, in milliseconds.
const KILLED_MS: u32 = 1000;
/// Magic number of devpts. Source: `statfs(2)`.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// What runs, and how it differs from the container's main process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// `KEY=VALUE` lines on top of the container's.
    pub env: Vec<String>,
    /// Working directory; empty means the container's.
    pub cwd: String,
    /// User; empty means the container's.
    pub user: String,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether our standard input is its.
    pub stdin: bool,
    /// Whether it may do everything.
    pub privileged: bool,
    /// Whether to return as soon as it runs; its streams lead nowhere then.
    pub detach: bool,
    /// The bytes that leave its terminal to itself; empty for none.
    pub detach_keys: Vec<u8>,
    /// Descriptors of the caller's that it gets, from 3 on.
    pub preserved_fds: u32,
}

impl ExecSpec {
    /// Whether keys can leave it running by itself.
    fn can_be_left(&self) -> bool {
        self.tty && self.stdin && !self.detach && !self.detach_keys.is_empty()
    }
}

/// How [`run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended with this exit code.
    Exited(i32),
    /// It runs on: it was to be detached, or the detach keys were pressed.
    Left,
}

impl Outcome {
    /// The exit code of the command that waited for it.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Left => 0,
        }
    }
}

/// Runs a process in the container in `dir`.
///
/// The calling process must be single-threaded; signals it can forward stay blocked.
///
/// # Errors
///
/// When the container does not run; with Docker's exit codes when the command cannot be run.
pub fn run(dir: &Path, exec: &ExecSpec) -> Result<Outcome, RunnerError> {
    let config = ContainerConfig::load(dir)?;
    let stays = exec.tty || process_spec(&config, exec).squash;
    if !exec.detach || !stays {
        return run_here(dir, &config, exec);
    }
    // Somebody must stay with it; its start is waited for.
    let (ours, theirs) = channel::pair().at("make a line for", dir)?;
    match sys::fork(0).at("make a process for", dir)? {
        sys::Fork::Child => {
            drop(ours);
            let left = hold::leave().at("leave the terminal of", dir);
            let told = match left.and_then(|()| start(dir, &config, exec)) {
                Ok(started) => {
                    let _gone = channel::send(theirs.as_fd(), &Message::Ready, &[]);
                    drop(theirs);
                    started.stay(&config);
                    sys::exit_now(0)
                }
                Err(RunnerError::Failed(failure)) => failure,
                Err(other) => Failure::setup(other.to_string()),
            };
            let _gone = channel::send(theirs.as_fd(), &Message::Failed(told), &[]);
            sys::exit_now(0)
        }
        sys::Fork::Parent(_) => drop(theirs),
    }
    match channel::receive(&ours).at("hear from", dir)? {
        Some((Message::Ready, _)) => Ok(Outcome::Left),
        Some((Message::Failed(failure), _)) => Err(RunnerError::Failed(failure)),
        Some(_) | None => Err(RunnerError::Failed(Failure::setup("the container ended"))),
    }
}

/// A process that runs.
struct Started {
    process: Child,
    terminal: Option<(OwnedFd, OwnedFd)>,
    supervisor: Option<Child>,
    near: [Option<OwnedFd>; 3],
    /// The listener of its calls, and the container's first process, for another supervisor.
    again: Option<(OwnedFd, OwnedFd)>,
}

impl Started {
    /// Stays with it until it ends.
    fn stay(self, config: &ContainerConfig) {
        hold::stay(
            config,
            &hold::Held {
                process: self.process.pidfd,
                terminal: self.terminal,
                listener: None,
            },
        );
        hold::end(self.supervisor);
    }
}

fn run_here(dir: &Path, config: &ContainerConfig, exec: &ExecSpec) -> Result<Outcome, RunnerError> {
    let started = start(dir, config, exec)?;
    if exec.detach {
        return Ok(Outcome::Left);
    }
    let kept = started.terminal.as_ref().filter(|_| exec.can_be_left());
    let kept = kept
        .map(|(master, slave)| -> io::Result<_> { Ok((master.try_clone()?, slave.try_clone()?)) });
    let kept = kept.transpose().at("keep the terminal of", dir)?;
    let outcome = carry(exec, &started.process, started.terminal, started.near)
        .at("carry the streams of", dir)?;
    if outcome == Outcome::Left {
        let held = hold::Held {
            process: started.process.pidfd,
            terminal: kept,
            listener: started.again,
        };
        hold::keep(config, &held)?;
    }
    hold::end(started.supervisor);
    Ok(outcome)
}

fn start(dir: &Path, config: &ContainerConfig, exec: &ExecSpec) -> Result<Started, RunnerError> {
    let state = state::read(dir)?;
    let not_running = || RunnerError::NotRunning(crate::container::id_of(dir));
    if state.status == Status::Paused {
        return Err(RunnerError::Failed(Failure::setup(format!(
            "container {} is paused, unpause it before exec",
            crate::container::id_of(dir)
        ))));
    }
    if state.status != Status::Running {
        return Err(not_running());
    }
    let (_, pidfd) = state::open_init(&state).ok_or_else(not_running)?;
    peers::answer(dir)?;
    let spec = process_spec(config, exec);
    let filters = Filters::prepare(&spec, config)?;
    let pipes = Pipes::make(exec).at("make the streams of", dir)?;
    let (ours, theirs) = channel::pair().at("make a line into", dir)?;
    let entry = Entry {
        config,
        state: &state,
        pidfd: pidfd.as_fd(),
        spec: &spec,
        filters: &filters,
        line: theirs.as_fd(),
        streams: pipes.far.each_ref().map(AsFd::as_fd),
        stays: exec.detach || exec.can_be_left(),
    };
    let middle = match sys::fork(0).at("make a process for", dir)? {
        sys::Fork::Child => {
            drop(ours);
            if let Err(failure) = enter(&entry) {
                let _gone = channel::send(entry.line, &Message::Failed(failure), &[]);
            }
            sys::exit_now(125);
        }
        sys::Fork::Parent(pid) => Child::new(pid).at("watch a process in", dir)?,
    };
    drop(theirs);
    let Pipes { near, far } = pipes;
    drop(far);
    let parts = hear(dir, config, exec, &ours, pidfd.as_fd());
    if parts.is_err() {
        middle.signal(libc::SIGKILL);
    }
    // It has them now; who stays with it would keep them open.
    preserved::close(exec.preserved_fds);
    // One that waits for a server that is stopped ends when that goes on.
    let _ended = middle.wait(KILLED_MS);
    let parts = parts?;
    let Some(process) = parts.process else {
        return Err(RunnerError::Failed(Failure::setup("the container ended")));
    };
    let listener = parts.listener.filter(|_| exec.can_be_left());
    Ok(Started {
        process,
        terminal: parts.terminal,
        supervisor: parts.supervisor,
        near,
        again: listener.map(|listener| (listener, pidfd)),
    })
}

fn process_spec(config: &ContainerConfig, exec: &ExecSpec) -> ProcessSpec {
    let main = ProcessSpec::main(config);
    let env: Vec<String> = config.env.iter().chain(&exec.env).cloned().collect();
    let or = |own: &String, default: String| if own.is_empty() { default } else { own.clone() };
    ProcessSpec {
        argv: exec.argv.clone(),
        env: plan::environment(&env, &config.hostname, exec.tty),
        cwd: or(&exec.cwd, main.cwd),
        makes_cwd: false,
        user: or(&exec.user, main.user),
        tty: exec.tty,
        caps: if exec.privileged {
            CapSet::ALL
        } else {
            main.caps
        },
        seccomp: if exec.privileged {
            Seccomp::Unconfined
        } else {
            main.seccomp
        },
        group_add: main.group_add,
        no_new_privileges: main.no_new_privileges,
        squash: main.squash,
        init: false,
        preserved_fds: exec.preserved_fds,
        exact: None,
    }
}

/// What the child sides need.
struct Entry<'a> {
    config: &'a ContainerConfig,
    state: &'a State,
    pidfd: BorrowedFd<'a>,
    spec: &'a ProcessSpec,
    filters: &'a Filters,
    line: BorrowedFd<'a>,
    streams: [BorrowedFd<'a>; 3],
    /// Whether it goes on when this process ends.
    stays: bool,
}

/// Joins the container and makes the process there; the caller then ends.
fn enter(entry: &Entry<'_>) -> Result<(), Failure> {
    // Nobody inside may look at this process or reach its program file.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("protect the process")?;
    crate::cgroup::enter(&entry.state.cgroups).step("enter the control groups")?;
    let procfs = single::open_procfs().step("open /proc")?;
    let mut namespaces = plan::namespaces(entry.config);
    if !entry.config.host.cgroup {
        namespaces |= sys::CLONE_NEWCGROUP;
    }
    sys::setns(entry.pidfd, namespaces).step("enter the container")?;
    if entry.config.has_user_namespace() {
        crate::init::become_root()?;
    }
    if entry.spec.squash && !entry.config.host.pid {
        single::become_user(entry.spec, &procfs)?;
    }
    drop(procfs);
    // The joined pid namespace is for children only; this one is a child of our parent.
    match sys::fork(sys::CLONE_PARENT).step("make the process")? {
        sys::Fork::Parent(pid) => {
            let pid = pid.as_raw_nonzero().get();
            channel::send(entry.line, &Message::Process(pid), &[]).step("tell about the process")
        }
        sys::Fork::Child => {
            let failure = become_process(entry);
            let _gone = channel::send(entry.line, &Message::Failed(failure), &[]);
            sys::exit_now(125);
        }
    }
}

fn become_process(entry: &Entry<'_>) -> Failure {
    let terminal = if entry.spec.tty {
        match open_terminal(entry.line) {
            Ok(slave) => Some(slave),
            Err(failure) => return failure,
        }
    } else {
        None
    };
    let streams = process::Streams {
        terminal,
        pipes: Some(entry.streams),
        dies_with_parent: !entry.stays,
        gate: None,
        preserved: &[],
        reads_ahead: false,
    };
    process::execute(entry.spec, &streams, entry.filters, entry.line)
}

pub(crate) fn open_terminal(line: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pts = openat(CWD, "/dev/pts", flags, Mode::empty()).step("open /dev/pts")?;
    // The container may have mounted something of its own there.
    if sys::filesystem_magic(pts.as_fd()).step("look at /dev/pts")? != DEVPTS_SUPER_MAGIC {
        return Err(Failure::setup("/dev/pts of the container is no devpts"));
    }
    let (master, slave) = process::new_terminal(pts.as_fd()).step("open a terminal")?;
    channel::send(line, &Message::Terminal, &[master.as_fd(), slave.as_fd()])
        .step("hand the terminal over")?;
    Ok(slave)
}

/// Both sides of the standard streams.
struct Pipes {
    near: [Option<OwnedFd>; 3],
    far: [OwnedFd; 3],
}

impl Pipes {
    fn make(exec: &ExecSpec) -> io::Result<Self> {
        let null = || -> io::Result<OwnedFd> {
            Ok(std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null")?
                .into())
        };
        if exec.tty || exec.detach {
            return Ok(Self {
                near: [None, None, None],
                far: [null()?, null()?, null()?],
            });
        }
        let (out_near, out_far) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_near, err_far) = pipe_with(PipeFlags::CLOEXEC)?;
        let (in_near, in_far) = if exec.stdin {
            let (far, near) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&near, true)?;
            (Some(near), far)
        } else {
            (None, null()?)
        };
        rustix::io::ioctl_fionbio(&out_near, true)?;
        rustix::io::ioctl_fionbio(&err_near, true)?;
        Ok(Self {
            near: [in_near, Some(out_near), Some(err_near)],
            far: [in_far, out_far, err_far],
        })
    }
}

/// What the child sides told.
#[derive(Default)]
struct Parts {
    process: Option<Child>,
    terminal: Option<(OwnedFd, OwnedFd)>,
    supervisor: Option<Child>,
    listener: Option<OwnedFd>,
}

/// Who of those that a new process needs is stopped.
fn stopped(dir: &Path) -> Option<Failure> {
    peers::stopped_part(dir).or_else(peers::stopped_child)
}

fn hear(
    dir: &Path,
    config: &ContainerConfig,
    exec: &ExecSpec,
    line: &OwnedFd,
    init: BorrowedFd<'_>,
) -> Result<Parts, RunnerError> {
    let mut parts = Parts::default();
    loop {
        if let Err(error) = peers::hear(line.as_fd(), || stopped(dir)) {
            if let Some(process) = parts.process {
                process.signal(libc::SIGKILL);
            }
            return Err(error);
        }
        match channel::receive(line).at("hear from", &config.id)? {
            None => return Ok(parts),
            Some((Message::Process(pid), _)) => {
                let pid = Pid::from_raw(pid);
                parts.process = pid.and_then(|pid| Child::new(pid).ok());
            }
            Some((Message::Terminal, fds)) => {
                let mut fds = fds.into_iter();
                parts.terminal = fds.next().zip(fds.next());
            }
            Some((Message::Listener, fds)) => {
                if let Some(listener) = fds.into_iter().next() {
                    parts.supervisor = Some(start_supervisor(config, &listener, init)?);
                    // Whoever holds it keeps calls waiting that nobody answers.
                    parts.listener = Some(listener).filter(|_| exec.can_be_left());
                }
            }
            Some((Message::Failed(failure), _)) => {
                if let Some(process) = parts.process {
                    let _ended = process.wait(KILLED_MS);
                }
                return Err(RunnerError::Failed(failure));
            }
            Some(_) => return Err(RunnerError::Failed(Failure::setup("exec said nonsense"))),
        }
    }
}
