//! From a configuration to a running container.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::pipe::{PipeFlags, pipe_with};

use super::id_space::{self, IdSpace};
use super::server::{self, Server};
use super::{Child, MonitorOptions, SERVER_LOG, StartOptions, wait_readable};
use crate::channel::{self, Message};
use crate::config::{ContainerConfig, Network};
use crate::error::{At, Failure, RunnerError};
use crate::filters::Filters;
use crate::log::LogWriter;
use crate::plan::{HostFacts, Plan, ProcessSpec};
use crate::state::{self, State, Status};
use crate::{init, preserved, sys};

/// How long the server may take to end after its mount is gone, in milliseconds.
pub(super) const SERVER_END_MS: u32 = 5000;

/// More than a monitor opens but for very many clients; the kernel's table has places for 256 then.
const LOCK_FD_MIN: i32 = 200;

/// What init meets when its file-system server is gone: `EPIPE`, `ENOTCONN`, `ECONNABORTED`.
const SERVER_GONE: [&str; 3] = ["os error 32)", "os error 107)", "os error 103)"];

/// A container that runs, as its monitor holds it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) dir: PathBuf,
    pub(super) config: ContainerConfig,
    pub(super) state: State,
    pub(super) init: Child,
    pub(super) server: Option<Child>,
    pub(super) supervisor: Option<Child>,
    pub(super) net: Option<crate::net::Helper>,
    /// Standard output and error, or the terminal alone.
    pub(super) outputs: [Option<OwnedFd>; 2],
    /// The writing end of standard input; with a terminal, its slave side, held so that it
    /// never hangs up.
    pub(super) input: Option<OwnedFd>,
    pub(super) tty: bool,
    pub(super) attached: Option<OwnedFd>,
    pub(super) log: LogWriter,
    pub(super) signals: OwnedFd,
    /// Where clients attach; there before anybody hears that the container runs.
    pub(super) listener: OwnedFd,
    pub(super) warnings: Vec<String>,
    /// Its mount namespace, as the links of `/proc` name it, by which its processes are known
    /// when they are among those of another container.
    pub(super) mount_namespace: Option<PathBuf>,
    /// Held for life: tells everybody that the monitor lives.
    pub(super) lock: File,
}

/// Exit code of a container that was killed since its time was over. Source: podman-run(1).
const EXIT_CODE_OF_TIMEOUT: i32 = -1;

impl Running {
    /// Notes that it was killed since its time was over.
    pub(super) fn tell_timeout(&mut self) {
        let longest = self.config.run_timeout_s;
        self.state.exit_code = EXIT_CODE_OF_TIMEOUT;
        self.state.error = format!("the container was killed after {longest} s, as --timeout asks");
    }
}

/// Near and far sides of the standard streams.
struct Pipes {
    near: [Option<OwnedFd>; 3],
    far: [OwnedFd; 3],
}

/// What a start is told.
#[derive(Debug)]
pub(super) struct Start {
    options: StartOptions,
    /// The attached client's stream, where there is one.
    attached: Option<OwnedFd>,
    /// What the container's process gets besides its streams; all above its places.
    preserved: Vec<OwnedFd>,
}

/// Waits until the container is there to be started; `None` when it is not to be. From then on
/// standard error is the container's log.
pub(super) fn await_start(dir: &Path, line: &OwnedFd) -> Result<Option<Start>, RunnerError> {
    match channel::receive(line).at("read the start options of", dir)? {
        Some((Message::Start(options), fds)) => {
            let mut fds = fds.into_iter();
            if let Some(log) = fds.next() {
                sys::dup_onto(log.as_fd(), 2).at("write to the log of", dir)?;
            }
            let attached = options.attach.then(|| fds.next()).flatten();
            let count = options.preserved_fds;
            preserved::close(count);
            let preserved: std::io::Result<Vec<OwnedFd>> =
                fds.map(|fd| preserved::clear_of(fd, count)).collect();
            Ok(Some(Start {
                options,
                attached,
                preserved: preserved.at("preserve descriptors for", dir)?,
            }))
        }
        Some(_) => Err(RunnerError::Failed(Failure::setup(
            "no start options were sent",
        ))),
        None => Ok(None),
    }
}

/// What a start has from whoever asked for it.
#[derive(Debug, Clone, Copy)]
struct With<'a> {
    options: &'a StartOptions,
    preserved: &'a [OwnedFd],
}

/// Starts the container, in the user namespace that was begun for it where that is the right one.
pub(super) fn launch(
    dir: &Path,
    start: Start,
    guessed: Option<IdSpace>,
    monitor: &MonitorOptions,
) -> Result<Running, RunnerError> {
    let lock =
        state::take_lock(dir)?.ok_or_else(|| RunnerError::Running(crate::container::id_of(dir)))?;
    state::sign_lock(&lock).at("sign the lock of", dir)?;
    let lock = first_to_go(lock);
    let with = With {
        options: &start.options,
        preserved: &start.preserved,
    };
    begin(dir, with, (guessed, start.attached), (lock, monitor))
}

/// The same lock under a number above all others: the kernel closes what a killed process had from
/// the highest number down, and whoever sees the end of one of our sockets looks at the lock next.
fn first_to_go(lock: File) -> File {
    // Refused where so many descriptors are not allowed; then it goes later.
    rustix::io::fcntl_dupfd_cloexec(&lock, LOCK_FD_MIN).map_or(lock, File::from)
}

/// Starts a container that ended once more, with nobody attached.
pub(super) fn again(ended: Running, monitor: &MonitorOptions) -> Result<Running, RunnerError> {
    let Running {
        dir, state, lock, ..
    } = ended;
    let count = state.restart_count;
    let with = With {
        options: &StartOptions::default(),
        preserved: &[],
    };
    match begin(&dir, with, (None, None), (lock, monitor)) {
        Ok(mut running) => {
            running.state.restart_count = count;
            state::write(&dir, &running.state)?;
            Ok(running)
        }
        Err(error) => {
            let failed = State {
                status: Status::Exited,
                exit_code: error.exit_code(),
                error: error.to_string(),
                ..state
            };
            state::write(&dir, &failed)?;
            Err(error)
        }
    }
}

fn begin(
    dir: &Path,
    with: With<'_>,
    (guessed, attached): (Option<IdSpace>, Option<OwnedFd>),
    (lock, monitor): (File, &MonitorOptions),
) -> Result<Running, RunnerError> {
    let config = ContainerConfig::load(dir)?;
    let space = IdSpace::of(&config, guessed)?;
    let signals = sys::signal_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE])
        .at("catch signals for", dir)?;
    rustix::process::chdir(dir).at("enter", dir)?;
    let log = LogWriter::open(&dir.join(crate::log::LOG_FILE), &config.log);
    let log = log.at("open the log of", dir)?;
    if config.host.pid {
        // No namespace ends what the container leaves; it becomes ours to end.
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .at("take over what is left by", dir)?;
    }
    let listener = super::serve::listen(dir)?;
    let (server, state) = claim(dir, &config, monitor)?;
    let started = start_processes(dir, &config, with, (server, space));
    let mut started = match started {
        Ok(started) => started,
        Err(error) => {
            crate::cgroup::front::remove(dir, &state.cgroups);
            let failed = State {
                status: Status::Created,
                exit_code: error.exit_code(),
                error: error.to_string(),
                finished_at: crate::time::now(),
                ..State::default()
            };
            // The start error matters more than a state that cannot be written.
            let _unwritten = state::write(dir, &failed);
            return Err(error);
        }
    };
    let pid = started.init.pid.as_raw_nonzero().get();
    let state = State {
        status: Status::Running,
        pid,
        pid_start: state::start_time(pid),
        started_at: crate::time::now(),
        health: config.health.as_ref().map(|_| state::Health {
            status: "starting".to_owned(),
            ..state::Health::default()
        }),
        cgroups: std::mem::take(&mut started.cgroups),
        network: std::mem::take(&mut started.network),
        ..state
    };
    let mount_namespace = config.joins.pid.as_ref().and_then(|_| {
        // It hides itself until it has executed its program.
        crate::ids::patiently(|| std::fs::read_link(format!("/proc/{pid}/ns/mnt"))).ok()
    });
    let told = write_pidfiles(&config, &state).and_then(|()| state::write(dir, &state));
    if let Err(error) = told {
        started.init.signal(libc::SIGKILL);
        return Err(error);
    }
    Ok(Running {
        dir: dir.to_owned(),
        tty: config.tty,
        config,
        state,
        init: started.init,
        server: started.server,
        supervisor: started.supervisor,
        net: started.net,
        outputs: started.outputs,
        input: started.input,
        attached,
        log,
        signals,
        listener,
        warnings: started.warnings,
        mount_namespace,
        lock,
    })
}

/// Tells whoever manages the container, where it asked to be told, who its processes are.
fn write_pidfiles(config: &ContainerConfig, state: &State) -> Result<(), RunnerError> {
    let files = [
        (&config.monitor_pidfile, state.monitor_pid),
        (&config.pidfile, state.pid),
    ];
    for (path, pid) in files {
        if let Some(path) = path {
            std::fs::write(path, pid.to_string()).at("write the process id to", path)?;
        }
    }
    Ok(())
}

/// Starts the server and says in the state who is starting and what will be made: what hangs can
/// then be ended, and what is left be removed, by whoever removes the container.
fn claim(
    dir: &Path,
    config: &ContainerConfig,
    monitor: &MonitorOptions,
) -> Result<(Option<Server>, State), RunnerError> {
    let monitor_pid = rustix::process::getpid().as_raw_nonzero().get();
    let mut state = State {
        monitor_pid,
        monitor_start: state::start_time(monitor_pid),
        boot_id: state::boot_id(),
        cgroups: crate::cgroup::front::planned(config),
        ..State::default()
    };
    let server = server::start(dir, config, monitor.server.as_ref())?;
    if let Some(server) = &server {
        state.server_pid = server.child.pid.as_raw_nonzero().get();
        state.server_start = state::start_time(state.server_pid);
    }
    state::write(dir, &state)?;
    Ok((server, state))
}

struct Started {
    init: Child,
    server: Option<Child>,
    supervisor: Option<Child>,
    net: Option<crate::net::Helper>,
    network: crate::net::NetState,
    outputs: [Option<OwnedFd>; 2],
    input: Option<OwnedFd>,
    cgroups: Vec<PathBuf>,
    warnings: Vec<String>,
}

fn start_processes(
    dir: &Path,
    config: &ContainerConfig,
    with: With<'_>,
    (server, mut space): (Option<Server>, Option<IdSpace>),
) -> Result<Started, RunnerError> {
    let host = HostFacts::detect();
    let plan = Plan::new(config, &host);
    let (server, server_line) = server.map(|server| (server.child, server.line)).unzip();
    let filters = Filters::prepare(&ProcessSpec::main(config), config)?;
    let pipes = if config.tty {
        None
    } else {
        Some(make_pipes(config).at("make the streams of", dir)?)
    };
    let line = line_to_init(with.options.preserved_fds);
    let (ours, theirs) = line.at("make a line to the first process of", dir)?;
    let shm = crate::join::shared_memory(dir, config)?;
    let groups = crate::cgroup::front::make(config)?;
    let process = space.as_ref().map(IdSpace::process);
    let forked = crate::join::fork(dir, config, plan.namespaces, process)?;
    let pid = match forked {
        sys::Fork::Child => {
            drop(ours);
            let streams = pipes
                .as_ref()
                .map(|pipes| pipes.far.each_ref().map(|fd| fd.as_fd()));
            let line = init::Line {
                monitor: theirs.as_fd(),
                server: server_line.as_ref().map(AsFd::as_fd),
                streams,
                cgroups: &groups.doors,
                filters: &filters,
                gate: None,
                preserved: with.preserved,
                mapped_trees: &[],
                shm: shm.as_ref().map(AsFd::as_fd),
            };
            let failure = init::run(&plan.steps, &line);
            let _gone = channel::send(theirs.as_fd(), &Message::Failed(failure), &[]);
            sys::exit_now(125);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(theirs);
    drop(server_line);
    let init = Child::new(pid).at("watch the first process of", dir)?;
    let crate::cgroup::front::Groups {
        dirs: cgroups,
        mut warnings,
        doors,
    } = groups;
    drop(doors);
    let outcome = accompany(
        dir,
        config,
        with.options,
        (&host, space.as_mut()),
        (&init, ours.as_fd()),
    );
    let ((terminal, supervisor), (net, network)) =
        outcome.map_err(|error| undo(dir, &init, server.as_ref(), error))?;
    warnings.extend(network.warnings.iter().cloned());
    let (outputs, input) = near_streams(terminal, pipes);
    Ok(Started {
        init,
        server,
        supervisor,
        net,
        network,
        outputs,
        input,
        cgroups,
        warnings,
    })
}

/// Our side of a line and the first process's, which is out of the way of what is preserved.
fn line_to_init(preserved_fds: u32) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = channel::pair()?;
    Ok((ours, preserved::clear_of(theirs, preserved_fds)?))
}

/// Our sides of the streams: outputs, then input or the terminal's slave side.
fn near_streams(
    terminal: Option<(OwnedFd, OwnedFd)>,
    pipes: Option<Pipes>,
) -> ([Option<OwnedFd>; 2], Option<OwnedFd>) {
    match (terminal, pipes) {
        (Some((master, slave)), _) => ([Some(master), None], Some(slave)),
        (None, Some(pipes)) => {
            let [input, output, error] = pipes.near;
            ([output, error], input)
        }
        (None, None) => ([None, None], None),
    }
}

/// Ends the first process and the server; what to say of the start.
fn undo(dir: &Path, init: &Child, server: Option<&Child>, error: RunnerError) -> RunnerError {
    // One that ends from now on ends because its container does.
    let server = server.map(|server| (wait_readable(server.pidfd.as_fd(), 0), server));
    init.signal(libc::SIGKILL);
    init.reap();
    server_error(dir, server, &error).unwrap_or(error)
}

/// What the server said, when it is the server that failed; sees to its end in any case. With it
/// comes whether it had ended before the first process did.
fn server_error(
    dir: &Path,
    server: Option<(bool, &Child)>,
    error: &RunnerError,
) -> Option<RunnerError> {
    let (dead, server) = server?;
    let text = error.to_string();
    let blamed = dead || SERVER_GONE.iter().any(|errno| text.contains(errno));
    let code = server.wait(SERVER_END_MS).unwrap_or_else(|| {
        server.signal(libc::SIGKILL);
        server.reap()
    });
    if code == 0 || !blamed {
        return None;
    }
    let said =
        super::last_line(&dir.join(SERVER_LOG)).unwrap_or_else(|| format!("exit code {code}"));
    Some(RunnerError::Failed(Failure::setup(format!(
        "the file-system server failed: {said}"
    ))))
}

fn make_pipes(config: &ContainerConfig) -> std::io::Result<Pipes> {
    let (out_near, out_far) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err_near, err_far) = pipe_with(PipeFlags::CLOEXEC)?;
    let (in_near, in_far) = if config.stdin_open {
        let (far, near) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&near, true)?;
        (Some(near), far)
    } else {
        (None, File::open("/dev/null")?.into())
    };
    rustix::io::ioctl_fionbio(&out_near, true)?;
    rustix::io::ioctl_fionbio(&err_near, true)?;
    Ok(Pipes {
        near: [in_near, Some(out_near), Some(err_near)],
        far: [in_far, out_far, err_far],
    })
}

/// Does for init what it cannot do itself, until it has become the container's process.
fn accompany(
    dir: &Path,
    config: &ContainerConfig,
    options: &StartOptions,
    (host, space): (&HostFacts, Option<&mut IdSpace>),
    (init, line): (&Child, BorrowedFd<'_>),
) -> Result<(Parts, Net), RunnerError> {
    match space {
        Some(space) => space.finish(config, line),
        None => id_space::write_id_map(config, host, (init.pid, line)),
    }?;
    let net = connect(dir, config, init, line)?;
    match await_exec(config, options, init, line) {
        Ok(parts) => Ok((parts, net)),
        Err(error) => {
            crate::net::abandon(net, dir);
            Err(error)
        }
    }
}

type Net = (Option<crate::net::Helper>, crate::net::NetState);

/// Starts the network helper, where there is one, and tells init when the network is ready.
fn connect(
    dir: &Path,
    config: &ContainerConfig,
    init: &Child,
    line: BorrowedFd<'_>,
) -> Result<Net, RunnerError> {
    if config.network != Network::Private {
        return Ok(Net::default());
    }
    let net = crate::net::start(dir, config, init)?;
    // The container has its name for itself when it starts.
    crate::net::name_itself(dir, config, &net.1);
    // An init that has failed is heard next.
    let _gone = channel::send(line, &Message::NetworkReady, &[]);
    Ok(net)
}

type Parts = (Option<(OwnedFd, OwnedFd)>, Option<Child>);

/// Hears from init until it has become the container's process.
fn await_exec(
    config: &ContainerConfig,
    options: &StartOptions,
    init: &Child,
    line: BorrowedFd<'_>,
) -> Result<Parts, RunnerError> {
    let (mut terminal, mut supervisor) = (None, None);
    loop {
        match channel::receive(line).at("hear from the first process of", &config.id)? {
            None => break,
            Some((Message::Failed(failure), _)) => return Err(RunnerError::Failed(failure)),
            Some((Message::Terminal, fds)) => {
                let mut fds = fds.into_iter();
                if let (Some(master), Some(slave)) = (fds.next(), fds.next()) {
                    rustix::io::ioctl_fionbio(&master, true)
                        .at("use the terminal of", &config.id)?;
                    crate::terminal::resize(master.as_fd(), options.rows, options.columns);
                    terminal = Some((master, slave));
                }
            }
            Some((Message::Listener, fds)) => {
                if let Some(listener) = fds.into_iter().next() {
                    supervisor = Some(start_supervisor(config, &listener, init.pidfd.as_fd())?);
                }
            }
            Some(_) => return Err(RunnerError::Failed(Failure::setup("init said nonsense"))),
        }
    }
    // A process that ended without a word before it executed anything was killed.
    if config.tty && terminal.is_none() {
        return Err(RunnerError::Failed(Failure::setup(
            "the first process ended too early",
        )));
    }
    Ok((terminal, supervisor))
}

/// Starts the supervisor with the listener as descriptor 3, the host's `/proc` as 4 and init's
/// pid descriptor as 5.
pub(crate) fn start_supervisor(
    config: &ContainerConfig,
    listener: &OwnedFd,
    init: BorrowedFd<'_>,
) -> Result<Child, RunnerError> {
    let proc = File::open("/proc").at("open", "/proc")?;
    let fds = [(listener.as_fd(), 3), (proc.as_fd(), 4), (init, 5)];
    let pid = sys::spawn(&sys::Spawn {
        argv: &config.ids_argv,
        fds: &fds,
        session: false,
    })
    .at("start the id supervisor of", &config.id)?;
    Child::new(pid).at("watch the id supervisor of", &config.id)
}
