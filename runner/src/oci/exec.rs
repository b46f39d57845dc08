//! A further process in a container made from a bundle.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::launch::{dial, write_pid_file};
use super::names::NAMESPACES;
use super::registry::{Container, Registry, Stage};
use super::spec::{Capabilities, Process, Spec};
use super::{plan, setup, wrong_stage};
use crate::cgroup;
use crate::channel::{self, Message};
use crate::error::{At, Failure, RunnerError, Step as _};
use crate::exec::{ExecSpec, carry};
use crate::filters::Filters;
use crate::init::{self, Made};
use crate::monitor::Child;
use crate::plan::{ProcessSpec, Step};
use crate::{process, sys};

/// A process, and how it is run.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The whole process; the fields below then only add to it.
    pub process: Option<Process>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=VALUE` lines on top of the container's.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User and group id.
    pub user: Option<(u32, Option<u32>)>,
    /// Supplementary groups on top of the container's.
    pub additional_gids: Vec<u32>,
    /// Capabilities on top of the container's.
    pub capabilities: Vec<String>,
    /// Whether gaining privileges is forbidden.
    pub no_new_privileges: bool,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// `AppArmor` profile.
    pub apparmor_profile: Option<String>,
    /// `SELinux` label.
    pub process_label: Option<String>,
    /// A control group below the container's.
    pub cgroup: Option<String>,
    /// Whether it may be made in a frozen container, to run once that goes on.
    pub ignore_paused: bool,
    /// Whether to return as soon as it runs.
    pub detach: bool,
    /// Where its id is written.
    pub pid_file: Option<PathBuf>,
    /// The socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// Descriptors past the standard streams to be inherited.
    pub preserved_fds: u32,
}

/// Runs a process in a container; its exit code.
///
/// The calling process must be single-threaded.
///
/// # Errors
///
/// When the container does not run, or the process cannot be made.
pub fn exec(registry: &Registry, id: &str, options: &ExecOptions) -> Result<i32, RunnerError> {
    let container = registry.load(id)?;
    let stage = container.stage();
    let paused = options.ignore_paused && stage == Stage::Paused;
    if !matches!(stage, Stage::Running | Stage::Created) && !paused {
        return Err(wrong_stage(&container, "exec in", stage));
    }
    let (_, pidfd) = container
        .open()
        .ok_or_else(|| wrong_stage(&container, "exec in", Stage::Stopped))?;
    let spec = container.spec()?;
    let unknown = options.capabilities.iter().find(|name| {
        crate::caps::CapSet::named(std::slice::from_ref(*name)) == crate::caps::CapSet::EMPTY
    });
    if let Some(name) = unknown {
        let text = format!("unknown capability {name}");
        return Err(RunnerError::Failed(Failure::setup(text)));
    }
    let process = describe(&spec, options);
    super::check::check_process(&process).map_err(RunnerError::Failed)?;
    if process.terminal && options.detach && options.console_socket.is_none() {
        let text = "a terminal needs a --console-socket where nobody stays to serve it";
        return Err(RunnerError::Failed(Failure::setup(text)));
    }
    let entry = Entry {
        doors: cgroup::doors(&container.record.cgroups, options.cgroup.as_deref())?,
        spec: plan::process_spec(&process, options.preserved_fds),
        filters: Filters::of_bundle(super::launch::filter(&spec, &process)?),
        steps: {
            let mut steps = Vec::new();
            plan::push_process(&mut steps, &process);
            steps
        },
        kinds: foreign_namespaces(&container),
        root: open_root(&container).at("open the root of", id)?,
        affinity: affinity(&process).map_err(RunnerError::Failed)?,
        pidfd,
        detach: options.detach,
    };
    let console = options.console_socket.as_deref();
    let console = console
        .map(|path| dial(path).at("connect to", path))
        .transpose()?;
    let made = make(&container, &spec, &entry, &process, console.as_ref())?;
    write_pid_file(options.pid_file.as_deref(), &made.process)?;
    if options.detach {
        return Ok(0);
    }
    if made.terminal.is_none() {
        let signals = sys::signal_fd(&crate::attach::forwarded_signals());
        let signals = signals.at("catch signals for", id)?;
        return Ok(super::wait(&made.process, &signals));
    }
    let how = ExecSpec {
        tty: true,
        stdin: true,
        ..ExecSpec::default()
    };
    carry(&how, &made.process, made.terminal, [None, None, None])
        .map(crate::exec::Outcome::code)
        .at("carry the terminal of", id)
}

/// The process as a whole: the one given, or the container's with changes.
fn describe(spec: &Spec, options: &ExecOptions) -> Process {
    let own = spec.process.clone().unwrap_or_default();
    let mut process = options.process.clone().unwrap_or_else(|| Process {
        args: options.args.clone(),
        terminal: options.terminal,
        console_size: None,
        ..own.clone()
    });
    process.terminal |= options.terminal;
    for line in &options.env {
        let key = line.split_once('=').map_or(line.as_str(), |(key, _)| key);
        let same = |old: &String| old.split_once('=').is_some_and(|(name, _)| name == key);
        process.env.retain(|old| !same(old));
        process.env.push(line.clone());
    }
    if let Some(cwd) = &options.cwd {
        process.cwd.clone_from(cwd);
    }
    if process.cwd.is_empty() {
        "/".clone_into(&mut process.cwd);
    }
    if let Some((uid, gid)) = options.user {
        process.user.uid = uid;
        process.user.gid = gid.unwrap_or(process.user.gid);
    }
    process
        .user
        .additional_gids
        .extend(&options.additional_gids);
    process.no_new_privileges |= options.no_new_privileges;
    if options.process.is_some() && process.capabilities.is_none() {
        process.capabilities.clone_from(&own.capabilities);
    }
    if !options.capabilities.is_empty() {
        let sets = process
            .capabilities
            .get_or_insert_with(Capabilities::default);
        for name in &options.capabilities {
            // Never inheritable: programs with file capabilities would gain more than was asked.
            // Source: CVE-2022-29162.
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.push(name.clone());
            }
        }
    }
    if options.apparmor_profile.is_some() {
        process
            .apparmor_profile
            .clone_from(&options.apparmor_profile);
    }
    if options.process_label.is_some() {
        process.selinux_label.clone_from(&options.process_label);
    }
    process
}

/// The kinds of namespaces in which the container's process is not where we are.
fn foreign_namespaces(container: &Container) -> u64 {
    let pid = container.record.pid;
    let other = |file: &str| {
        let ours = std::fs::read_link(format!("/proc/self/ns/{file}"));
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{file}"));
        // A namespace we may not look at is not ours.
        ours.ok() != theirs.ok()
    };
    let foreign = NAMESPACES.iter().filter(|(_, _, file)| other(file));
    foreign.fold(0, |bits, (_, bit, _)| bits | bit)
}

fn open_root(container: &Container) -> std::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(
        format!("/proc/{}/root", container.record.pid),
        flags,
        Mode::empty(),
    )?)
}

/// What the child sides need.
struct Entry {
    /// Its processors, before and after it enters the control groups.
    affinity: (Vec<u64>, Vec<u64>),
    doors: Vec<std::fs::File>,
    spec: ProcessSpec,
    filters: Filters,
    steps: Vec<Step>,
    kinds: u64,
    pidfd: OwnedFd,
    /// The root directory of the container's process.
    root: OwnedFd,
    detach: bool,
}

struct MadeProcess {
    process: Child,
    terminal: Option<(OwnedFd, OwnedFd)>,
}

fn make(
    container: &Container,
    spec: &Spec,
    entry: &Entry,
    process: &Process,
    console: Option<&OwnedFd>,
) -> Result<MadeProcess, RunnerError> {
    let id = &container.record.id;
    let (ours, theirs) = channel::pair().at("make a line into", id)?;
    let middle = match sys::fork(0).at("make a process for", id)? {
        sys::Fork::Child => {
            drop(ours);
            let line = init::Line {
                monitor: theirs.as_fd(),
                server: None,
                streams: None,
                cgroups: &entry.doors,
                filters: &entry.filters,
                gate: None,
                preserved: &[],
                mapped_trees: &[],
                shm: None,
            };
            if let Err(failure) = enter(entry, &line) {
                let _gone = channel::send(line.monitor, &Message::Failed(failure), &[]);
            }
            sys::exit_now(125);
        }
        sys::Fork::Parent(pid) => Child::new(pid).at("watch a process in", id)?,
    };
    drop(theirs);
    let heard = hear(container, spec, &ours, process, console);
    middle.reap();
    heard
}

/// The processors before and after the control groups are entered.
fn affinity(process: &Process) -> Result<(Vec<u64>, Vec<u64>), Failure> {
    let asked = process.exec_cpu_affinity.clone().unwrap_or_default();
    let mask = super::place_of_memory::mask;
    Ok((mask(&asked.initial)?, mask(&asked.last)?))
}

/// Joins the container and makes the process there; the caller then ends.
fn enter(entry: &Entry, line: &init::Line<'_>) -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // Nobody inside may look at this process or reach its program file.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("protect the process")?;
    let mut made = Made::default();
    setup::open_host(&mut made)?;
    // Entering a group may change the processors, so each list has its moment.
    set_affinity(&entry.affinity.0)?;
    init::enter_cgroups(line, false)?;
    set_affinity(&entry.affinity.1)?;
    let user = entry.kinds & sys::CLONE_NEWUSER;
    if user != 0 {
        // All at once, so that rights in the container's user namespace count for the others.
        sys::setns(entry.pidfd.as_fd(), entry.kinds).step("enter the container")?;
        init::become_root()?;
    } else if entry.kinds != 0 {
        sys::setns(entry.pidfd.as_fd(), entry.kinds).step("enter the container")?;
    }
    if entry.kinds & sys::CLONE_NEWNS == 0 {
        // No mount namespace: the container has only a root of its own.
        rustix::process::fchdir(&entry.root).step("enter the root")?;
        rustix::process::chroot(".").step("change the root")?;
    }
    // The joined pid namespace is for children only; this one is a child of our parent.
    match sys::fork(sys::CLONE_PARENT).step("make the process")? {
        sys::Fork::Parent(pid) => {
            let pid = pid.as_raw_nonzero().get();
            channel::send(line.monitor, &Message::Process(pid), &[]).step("tell about the process")
        }
        sys::Fork::Child => {
            let failure = become_process(entry, line, &mut made);
            let _gone = channel::send(line.monitor, &Message::Failed(failure), &[]);
            sys::exit_now(125);
        }
    }
}

fn set_affinity(mask: &[u64]) -> Result<(), Failure> {
    if mask.is_empty() {
        return Ok(());
    }
    sys::place::set_affinity(mask).step("set the processors of execCPUAffinity")
}

fn become_process(entry: &Entry, line: &init::Line<'_>, made: &mut Made) -> Failure {
    for step in &entry.steps {
        if let Err(failure) = init::carry_out(step, line, made) {
            return failure;
        }
    }
    let terminal = if entry.spec.tty {
        match crate::exec::open_terminal(line.monitor) {
            Ok(slave) => Some(slave),
            Err(failure) => return failure,
        }
    } else {
        None
    };
    *made = Made::default();
    let streams = process::Streams {
        terminal,
        pipes: None,
        dies_with_parent: !entry.detach,
        gate: None,
        preserved: &[],
        reads_ahead: false,
    };
    process::execute(&entry.spec, &streams, line.filters, line.monitor)
}

fn hear(
    container: &Container,
    spec: &Spec,
    line: &OwnedFd,
    description: &Process,
    console: Option<&OwnedFd>,
) -> Result<MadeProcess, RunnerError> {
    let id = &container.record.id;
    let (mut process, mut terminal) = (None, None);
    loop {
        match channel::receive(line).at("hear from", id)? {
            None => {
                let ended = || RunnerError::Failed(Failure::setup("the container ended"));
                let process: Child = process.ok_or_else(ended)?;
                return Ok(MadeProcess { process, terminal });
            }
            Some((Message::Process(pid), _)) => {
                let pid = rustix::process::Pid::from_raw(pid);
                process = pid.and_then(|pid| Child::new(pid).ok());
            }
            Some((Message::Terminal, fds)) => {
                let mut fds = fds.into_iter();
                let pair = fds.next().zip(fds.next());
                if let (Some(size), Some((master, _))) = (description.console_size, &pair) {
                    crate::terminal::resize(master.as_fd(), size.height, size.width);
                }
                match (console, pair) {
                    (Some(socket), Some((master, _))) => {
                        channel::send_bytes(socket.as_fd(), b"/dev/ptmx", &[master.as_fd()])
                            .at("hand the terminal over for", id)?;
                    }
                    (_, pair) => terminal = pair,
                }
            }
            Some((Message::Listener, fds)) => super::notify::send(container, spec, &fds)?,
            Some((Message::Failed(failure), _)) => {
                if let Some(process) = process {
                    process.reap();
                }
                return Err(RunnerError::Failed(failure));
            }
            Some(_) => return Err(RunnerError::Failed(Failure::setup("exec said nonsense"))),
        }
    }
}
