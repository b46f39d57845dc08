//! A further process in a running container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::attach::{forwarded_signals, write_all};
use crate::caps::CapSet;
use crate::channel::{self, Message};
use crate::config::{ContainerConfig, Seccomp};
use crate::error::{At, Failure, RunnerError, Step as _};
use crate::filters::Filters;
use crate::monitor::{Child, start_supervisor};
use crate::plan::{self, ProcessSpec};
use crate::state::{self, State, Status};
use crate::terminal::RawMode;
use crate::{process, sys, terminal};

/// Bytes read at once: the size of a pipe.
const CHUNK_BYTES: usize = 64 << 10;
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
    /// Whether to return as soon as it runs; it has no streams then.
    pub detach: bool,
}

/// Runs a process in the container in `dir`; its exit code.
///
/// The calling process must be single-threaded; signals it can forward stay blocked.
///
/// # Errors
///
/// When the container does not run; with Docker's exit codes when the command cannot be run.
pub fn run(dir: &Path, exec: &ExecSpec) -> Result<i32, RunnerError> {
    let config = ContainerConfig::load(dir)?;
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
    let spec = process_spec(&config, exec);
    let filters = Filters::prepare(&spec, !config.ids_argv.is_empty());
    let pipes = Pipes::make(exec).at("make the streams of", dir)?;
    let (ours, theirs) = channel::pair().at("make a line into", dir)?;
    let entry = Entry {
        config: &config,
        state: &state,
        pidfd: pidfd.as_fd(),
        spec: &spec,
        filters: &filters,
        line: theirs.as_fd(),
        streams: pipes.far.each_ref().map(AsFd::as_fd),
        detach: exec.detach,
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
    let parts = hear(&config, &ours, pidfd.as_fd());
    middle.reap();
    let parts = parts?;
    let Some(process) = parts.process else {
        return Err(RunnerError::Failed(Failure::setup("the container ended")));
    };
    if exec.detach {
        return Ok(0);
    }
    let code = carry(exec, &process, parts.terminal, near).at("carry the streams of", dir)?;
    if let Some(supervisor) = parts.supervisor {
        supervisor.signal(libc::SIGKILL);
        supervisor.reap();
    }
    Ok(code)
}

fn process_spec(config: &ContainerConfig, exec: &ExecSpec) -> ProcessSpec {
    let main = ProcessSpec::main(config);
    let env: Vec<String> = config.env.iter().chain(&exec.env).cloned().collect();
    let or = |own: &String, default: String| if own.is_empty() { default } else { own.clone() };
    ProcessSpec {
        argv: exec.argv.clone(),
        env: plan::environment(&env, &config.hostname, exec.tty),
        cwd: or(&exec.cwd, main.cwd),
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
    detach: bool,
}

/// Joins the container and makes the process there; the caller then ends.
fn enter(entry: &Entry<'_>) -> Result<(), Failure> {
    // Nobody inside may look at this process or reach its program file.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("protect the process")?;
    crate::cgroup::join(&entry.state.cgroups).step("enter the control groups")?;
    let namespaces = plan::namespaces(entry.config) | sys::CLONE_NEWCGROUP;
    sys::setns(entry.pidfd, namespaces).step("enter the container")?;
    if entry.config.has_user_namespace() {
        crate::init::become_root()?;
    }
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
        dies_with_parent: !entry.detach,
        gate: None,
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
}

fn hear(
    config: &ContainerConfig,
    line: &OwnedFd,
    init: BorrowedFd<'_>,
) -> Result<Parts, RunnerError> {
    let mut parts = Parts::default();
    loop {
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
                }
            }
            Some((Message::Failed(failure), _)) => {
                if let Some(process) = parts.process {
                    process.reap();
                }
                return Err(RunnerError::Failed(failure));
            }
            Some(_) => return Err(RunnerError::Failed(Failure::setup("exec said nonsense"))),
        }
    }
}

struct Pump<'a> {
    process: &'a Child,
    signals: OwnedFd,
    /// Where standard input goes; the terminal or a pipe.
    input: Option<OwnedFd>,
    /// The terminal or the two pipes.
    outputs: [Option<OwnedFd>; 2],
    tty: bool,
    reads_stdin: bool,
    pending: Vec<u8>,
}

pub(crate) fn carry(
    exec: &ExecSpec,
    process: &Child,
    terminal: Option<(OwnedFd, OwnedFd)>,
    near: [Option<OwnedFd>; 3],
) -> io::Result<i32> {
    let signals = sys::signal_fd(&forwarded_signals())?;
    let (outputs, input, _slave) = match terminal {
        Some((master, slave)) => {
            rustix::io::ioctl_fionbio(&master, true)?;
            let input = master.try_clone()?;
            ([Some(master), None], Some(input), Some(slave))
        }
        None => {
            let [input, output, error] = near;
            ([output, error], input, None)
        }
    };
    let raw = if exec.tty && exec.stdin {
        RawMode::enter(io::stdin())?
    } else {
        None
    };
    let mut pump = Pump {
        process,
        signals,
        input,
        outputs,
        tty: exec.tty,
        reads_stdin: exec.stdin,
        pending: Vec::new(),
    };
    pump.resize();
    while !pump.turn()? {}
    for (number, output) in pump.outputs.iter().enumerate() {
        if let Some(fd) = output {
            while copy_output(fd, number) == Copied::Some {}
        }
    }
    drop(raw);
    Ok(process.reap())
}

/// What came of reading an output once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    Some,
    Nothing,
    End,
}

/// Copies one chunk of output number 0 or 1 to ours.
fn copy_output(from: &OwnedFd, number: usize) -> Copied {
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    match rustix::io::read(from, &mut buffer) {
        Ok(count) if count > 0 => {
            let bytes = buffer.get(..count).unwrap_or_default();
            if number == 0 {
                write_all(io::stdout().as_fd(), bytes);
            } else {
                write_all(io::stderr().as_fd(), bytes);
            }
            Copied::Some
        }
        Err(Errno::AGAIN | Errno::INTR) => Copied::Nothing,
        Ok(_) | Err(_) => Copied::End,
    }
}

impl Pump<'_> {
    fn resize(&self) {
        if let (true, Some(master), Some((rows, columns))) =
            (self.tty, &self.input, terminal::size(io::stdout()))
        {
            terminal::resize(master.as_fd(), rows, columns);
        }
    }

    /// Waits once and handles what came; true when the process has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut list: Vec<(usize, BorrowedFd<'_>, PollFlags)> = vec![
            (0, self.process.pidfd.as_fd(), PollFlags::IN),
            (1, self.signals.as_fd(), PollFlags::IN),
        ];
        for (number, output) in (2..).zip(&self.outputs) {
            list.extend(
                output
                    .as_ref()
                    .map(|fd| (number, fd.as_fd(), PollFlags::IN)),
            );
        }
        if !self.pending.is_empty() {
            list.extend(
                self.input
                    .as_ref()
                    .map(|fd| (4, fd.as_fd(), PollFlags::OUT)),
            );
        } else if self.reads_stdin && self.input.is_some() {
            list.push((5, stdin.as_fd(), PollFlags::IN));
        }
        let mut fds: Vec<PollFd<'_>> = list
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<usize> = list
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|((number, ..), _)| *number)
            .collect();
        for number in &ready {
            match number {
                1 => self.signalled(),
                2 | 3 => {
                    let number = number - 2;
                    if let Some(slot) = self.outputs.get_mut(number)
                        && slot.as_ref().map(|fd| copy_output(fd, number)) == Some(Copied::End)
                    {
                        *slot = None;
                    }
                }
                4 => self.write_input(),
                5 => self.read_stdin(stdin.as_fd()),
                _ => {}
            }
        }
        Ok(ready.contains(&0))
    }

    fn signalled(&self) {
        let mut record = [0_u8; 128];
        if rustix::io::read(&self.signals, &mut record) != Ok(record.len()) {
            return;
        }
        match sys::signal_number(&record) {
            Some(libc::SIGWINCH) => self.resize(),
            Some(signal) => self.process.signal(signal),
            None => {}
        }
    }

    fn read_stdin(&mut self, stdin: BorrowedFd<'_>) {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(count) if count > 0 => {
                buffer.truncate(count);
                self.pending = buffer;
                self.write_input();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                self.reads_stdin = false;
                if !self.tty {
                    self.input = None;
                }
            }
        }
    }

    fn write_input(&mut self) {
        let Some(fd) = &self.input else { return };
        match rustix::io::write(fd, &self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The process closed its input.
            Err(_) => {
                self.pending.clear();
                self.input = None;
            }
        }
    }
}
