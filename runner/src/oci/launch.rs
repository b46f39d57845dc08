//! Creating a container from a bundle.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::gate::Gate;
use super::plan::{self, Namespaces, Surroundings};
use super::registry::{Container, Record, Registry, Stage};
use super::spec::{Linux, Process, Spec};

use super::sd_notify::{self, Relay};
use super::{hooks, idmap, setup};
use crate::cgroup;
use crate::channel::{self, Message};
use crate::error::{At, Failure, RunnerError, Step as _};
use crate::filters::Filters;
use crate::monitor::Child;
use crate::plan::{Plan, Step};
use crate::{init, peers, seccomp, state, sys};

/// crun's annotation by which podman's `--group-add keep-groups` arrives.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// How a container is created.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The configuration, when it is not the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// Where the process's id is written.
    pub pid_file: Option<PathBuf>,
    /// The socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// Whether the root is moved instead of pivoted to.
    pub no_pivot: bool,
    /// Descriptors past the standard streams to be inherited.
    pub preserved_fds: u32,
    /// `LISTEN_FDS` of our environment, handed on with that many more descriptors.
    pub listen_fds: u32,
    /// The socket of a service manager that is told when the process is ready; empty without one.
    pub notify_socket: String,
}

/// A container whose process was made.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) container: Container,
    pub(super) spec: Spec,
    pub(super) init: Child,
    /// The terminal's two sides, when nobody else got it.
    pub(super) terminal: Option<(OwnedFd, OwnedFd)>,
    /// Where the process says that it is ready, for a service manager.
    pub(super) relay: Option<Relay>,
}

/// Whether the process waits to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It does.
    Waits,
    /// It goes on, with this process as its runtime.
    Now {
        /// Whether somebody is there to serve a terminal.
        attached: bool,
    },
}

/// What is known before anything is made.
struct Prepared {
    spec: Spec,
    namespaces: Namespaces,
    plan: Plan,
    filters: Filters,
    layout: cgroup::Layout,
    console: Option<OwnedFd>,
    mapped_trees: Vec<Option<OwnedFd>>,
}

/// Makes a container; undoes everything when that fails.
pub(super) fn create(
    registry: &Registry,
    id: &str,
    options: &CreateOptions,
    start: Start,
) -> Result<Created, RunnerError> {
    let (prepared, bytes, record) = prepare(registry, id, options, start)?;
    let container = registry.reserve(record, &bytes)?;
    let mut container = container;
    let made = Relay::prepare(&container, start)
        .and_then(|relay| Ok((relay, make(&mut container, &prepared, options, start)?)));
    match made {
        Ok((relay, (init, terminal))) => Ok(Created {
            container,
            spec: prepared.spec,
            init,
            terminal,
            relay,
        }),
        Err(error) => {
            cgroup::remove(&container.record.cgroups);
            container.forget();
            Err(error)
        }
    }
}

fn failed(failure: Failure) -> RunnerError {
    RunnerError::Failed(failure)
}

/// Reads and checks everything.
fn prepare(
    registry: &Registry,
    id: &str,
    options: &CreateOptions,
    start: Start,
) -> Result<(Prepared, Vec<u8>, Record), RunnerError> {
    let bundle = std::fs::canonicalize(&options.bundle).at("find the bundle", &options.bundle)?;
    let config = options
        .config
        .as_deref()
        .unwrap_or(Path::new("config.json"));
    let (mut spec, bytes) = Spec::load(&bundle.join(config))?;
    pass_listen_fds(&mut spec, options);
    if !options.notify_socket.is_empty() {
        sd_notify::share(&mut spec, &registry.dir(id)?);
    }
    let namespaces = Namespaces::parse(&spec.linux).map_err(failed)?;
    let layout = cgroup::Layout::detect();
    let path = spec.linux.cgroups_path.as_deref();
    let hierarchies = if is_shown(&spec) {
        layout.shown(path, id).map_err(failed)?
    } else {
        Vec::new()
    };
    let around = Surroundings {
        bundle: bundle.clone(),
        hierarchies,
        no_pivot: options.no_pivot,
        preserved_fds: options.preserved_fds.saturating_add(options.listen_fds),
    };
    let mut plan = plan::plan(&spec, &namespaces, &around).map_err(failed)?;
    if spec
        .annotations
        .get(KEEP_GROUPS)
        .is_some_and(|value| value == "1")
    {
        keep_groups(&mut plan);
    }
    check_terminal(&spec, options, start)?;
    let process = spec.process.clone().unwrap_or_default();
    let filters = Filters::of_bundle(filter(&spec, &process)?);
    let console = options.console_socket.as_deref();
    let console = console
        .map(|path| dial(path).at("connect to", path))
        .transpose()?;
    let mapped_trees = idmap::trees(&spec, &plan)?;
    let creator = rustix::process::getpid().as_raw_nonzero().get();
    let root = spec.root.as_ref().map(|root| bundle.join(&root.path));
    let record = Record {
        oci_version: spec.oci_version.clone(),
        id: id.to_owned(),
        creator,
        creator_start: state::start_time(creator),
        boot_id: state::boot_id(),
        bundle,
        rootfs: root.unwrap_or_default(),
        created: crate::time::now(),
        owner: rustix::process::geteuid().as_raw(),
        annotations: spec.annotations.clone(),
        notify_socket: options.notify_socket.clone(),
        cgroups: cgroup::planned(&layout, &wish(&spec, id)).map_err(failed)?,
        ..Record::default()
    };
    let prepared = Prepared {
        spec,
        namespaces,
        plan,
        filters,
        layout,
        console,
        mapped_trees,
    };
    Ok((prepared, bytes, record))
}

/// Has the process keep the runtime's groups.
fn keep_groups(plan: &mut Plan) {
    if let Some(Step::Execute(spec)) = plan.steps.last_mut()
        && let Some(exact) = &mut spec.exact
    {
        exact.keep_groups = true;
    }
}

fn wish<'a>(spec: &'a Spec, id: &'a str) -> cgroup::Wish<'a> {
    cgroup::Wish {
        id,
        path: spec.linux.cgroups_path.as_deref(),
        resources: spec.linux.resources.as_ref(),
        // In all when it names its group or sees them.
        reach: if spec.linux.cgroups_path.is_some() || is_shown(spec) {
            cgroup::Reach::All
        } else {
            cgroup::Reach::Needed
        },
    }
}

/// Whether the container sees its control groups.
fn is_shown(spec: &Spec) -> bool {
    spec.mounts.iter().any(|mount| mount.kind == "cgroup")
}

/// Hands sockets that a service manager opened on to the process.
///
/// Source: `sd_listen_fds(3)`.
fn pass_listen_fds(spec: &mut Spec, options: &CreateOptions) {
    if options.listen_fds > 0
        && let Some(process) = &mut spec.process
    {
        process
            .env
            .push(format!("LISTEN_FDS={}", options.listen_fds));
        process.env.push("LISTEN_PID=1".to_owned());
    }
}

fn check_terminal(spec: &Spec, options: &CreateOptions, start: Start) -> Result<(), RunnerError> {
    let terminal = spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    let served = options.console_socket.is_some() || start == Start::Now { attached: true };
    if terminal && !served {
        let text = "a terminal needs a --console-socket where nobody stays to serve it";
        return Err(failed(Failure::setup(text)));
    }
    Ok(())
}

/// Compiles the filter for a process of a container.
pub(super) fn filter(
    spec: &Spec,
    process: &Process,
) -> Result<Option<seccomp::Filter>, RunnerError> {
    let Some(profile) = &spec.linux.seccomp else {
        return Ok(None);
    };
    let sets = process.capabilities.as_ref();
    let bounding = sets.map(|sets| crate::caps::CapSet::named(&sets.bounding).bits());
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let json = profile.get().as_bytes();
    let filter = seccomp::bundle_filter(json, bounding.unwrap_or_default(), &release);
    let filter = filter.map_err(|error| failed(Failure::setup(error.to_string())))?;
    Ok(Some(filter))
}

/// Connects to a socket; by descriptor, as its path may be longer than an address.
pub(super) fn dial(path: &Path) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let kind = SocketType::STREAM;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// Makes groups and process, and remembers them.
fn make(
    container: &mut Container,
    prepared: &Prepared,
    options: &CreateOptions,
    start: Start,
) -> Result<Parts, RunnerError> {
    let (init, terminal) = start_process(container, prepared, start)?;
    container.record.creator = 0;
    let written = container
        .save()
        .and_then(|()| write_pid_file(options.pid_file.as_deref(), &init));
    if let Err(error) = written {
        init.signal(libc::SIGKILL);
        init.reap();
        return Err(error);
    }
    Ok((init, terminal))
}

/// Writes the id of a process, at once and whole.
pub(super) fn write_pid_file(path: Option<&Path>, process: &Child) -> Result<(), RunnerError> {
    let Some(path) = path else { return Ok(()) };
    let text = process.pid.as_raw_nonzero().to_string();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("pid");
    crate::files::write_atomic(dir.unwrap_or(Path::new(".")), name, text.as_bytes())
}

type Parts = (Child, Option<(OwnedFd, OwnedFd)>);

fn start_process(
    container: &mut Container,
    prepared: &Prepared,
    start: Start,
) -> Result<Parts, RunnerError> {
    let id = container.record.id.clone();
    let groups = cgroup::make(&prepared.layout, &wish(&prepared.spec, &id))?;
    container.record.cgroups.clone_from(&groups.dirs);
    let listener = match start {
        Start::Waits => Some(container.make_gate().at("make the gate of", &id)?),
        Start::Now { .. } => None,
    };
    let gate = Gate::new(listener, prepared.spec.hooks.start_container.clone());
    let (ours, theirs) = channel::pair().at("make a line to the first process of", &id)?;
    let flags = if is_staged(&prepared.namespaces) {
        0
    } else {
        prepared.plan.namespaces
    };
    let pid = match sys::fork(flags).at("make the namespaces of", &id)? {
        sys::Fork::Child => {
            drop(ours);
            let line = init::Line {
                monitor: theirs.as_fd(),
                server: None,
                streams: None,
                cgroups: &groups.doors,
                filters: &prepared.filters,
                gate: Some(&gate),
                preserved: &[],
                mapped_trees: &prepared.mapped_trees,
                shm: None,
            };
            become_init(prepared, &line);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(theirs);
    drop(gate);
    let first = Child::new(pid).at("watch the first process of", &id)?;
    let mut talk = Talk {
        container,
        prepared,
        line: &ours,
        early: VecDeque::new(),
        terminal: None,
    };
    let result = talk.begin(first);
    let (init, outcome) = match result {
        Ok(init) => {
            let outcome = talk.listen(&init, start);
            (init, outcome)
        }
        Err(error) => return Err(error),
    };
    if let Err(error) = outcome {
        init.signal(libc::SIGKILL);
        init.reap();
        return Err(error);
    }
    Ok((init, talk.terminal))
}

/// Whether the namespaces cannot be made by one call: some are entered that init must be born
/// in, or need rights that a new user namespace takes away.
fn is_staged(namespaces: &Namespaces) -> bool {
    let born = sys::CLONE_NEWUSER | sys::CLONE_NEWPID | sys::CLONE_NEWTIME;
    let joins_born = namespaces.join.iter().any(|(bit, _)| bit & born != 0);
    let fresh_user = namespaces.fresh & sys::CLONE_NEWUSER != 0;
    joins_born
        || namespaces.fresh & sys::CLONE_NEWTIME != 0
        || (fresh_user && !namespaces.join.is_empty())
}

/// The child side: enters and makes namespaces, then carries the plan out.
fn become_init(prepared: &Prepared, line: &init::Line<'_>) -> ! {
    let namespaces = &prepared.namespaces;
    let entered = if is_staged(namespaces) {
        match stage(prepared, line) {
            Ok(sys::Fork::Child) => Ok(()),
            Ok(sys::Fork::Parent(_)) => sys::exit_now(0),
            Err(failure) => Err(failure),
        }
    } else {
        setup::join(&namespaces.join)
    };
    let failure = match entered {
        Ok(()) => init::run(&prepared.plan.steps, line),
        Err(failure) => failure,
    };
    let _gone = channel::send(line.monitor, &Message::Failed(failure.clone()), &[]);
    if let Some(gate) = line.gate {
        gate.report(&failure);
    }
    sys::exit_now(125);
}

/// The middle process: enters what init is born in and makes init, a sibling of itself.
fn stage(prepared: &Prepared, line: &init::Line<'_>) -> Result<sys::Fork, Failure> {
    let namespaces = &prepared.namespaces;
    let (user, others): (Vec<_>, Vec<_>) = namespaces
        .join
        .iter()
        .cloned()
        .partition(|(bit, _)| *bit == sys::CLONE_NEWUSER);
    // With the runtime's rights first; what only the container's may enter comes after.
    let later: Vec<_> = others
        .into_iter()
        .filter(|entry| setup::join(std::slice::from_ref(entry)).is_err())
        .collect();
    if !user.is_empty() {
        setup::join(&user)?;
        init::become_root()?;
    }
    setup::join(&later)?;
    if namespaces.fresh & sys::CLONE_NEWTIME != 0 {
        make_time_namespace(&prepared.spec.linux)?;
    }
    let flags = prepared.plan.namespaces | sys::CLONE_PARENT;
    let forked = sys::fork(flags).step("make the namespaces")?;
    if let sys::Fork::Parent(pid) = &forked {
        let message = Message::Process(pid.as_raw_nonzero().get());
        channel::send(line.monitor, &message, &[]).step("tell about the first process")?;
    }
    Ok(forked)
}

/// Makes a time namespace for the processes made from now on and sets its clocks.
///
/// Source: `time_namespaces(7)`.
fn make_time_namespace(linux: &Linux) -> Result<(), Failure> {
    sys::unshare(sys::CLONE_NEWTIME).step("make the time namespace")?;
    for (clock, offset) in &linux.time_offsets {
        let line = format!("{clock} {} {}\n", offset.secs, offset.nanosecs);
        std::fs::write("/proc/self/timens_offsets", line)
            .step(format_args!("set the clock {clock}"))?;
    }
    Ok(())
}

/// The runtime's side of making a process.
struct Talk<'a> {
    container: &'a mut Container,
    prepared: &'a Prepared,
    line: &'a OwnedFd,
    /// Messages that came before the one that was waited for.
    early: VecDeque<(Message, Vec<OwnedFd>)>,
    terminal: Option<(OwnedFd, OwnedFd)>,
}

impl Talk<'_> {
    fn receive(&mut self) -> Result<Option<(Message, Vec<OwnedFd>)>, RunnerError> {
        if let Some(message) = self.early.pop_front() {
            return Ok(Some(message));
        }
        peers::hear(self.line.as_fd(), peers::stopped_child)?;
        channel::receive(self.line).at("hear from the first process of", &self.container.record.id)
    }

    /// Finds out who init is, remembers it, and writes its id map.
    fn begin(&mut self, first: Child) -> Result<Child, RunnerError> {
        let init = if is_staged(&self.prepared.namespaces) {
            let found = self.find_init();
            first.reap();
            found?
        } else {
            first
        };
        let pid = init.pid.as_raw_nonzero().get();
        self.container.record.pid = pid;
        self.container.record.pid_start = state::start_time(pid);
        let mapped = self.map_ids(&init);
        if let Err(error) = mapped {
            init.signal(libc::SIGKILL);
            init.reap();
            return Err(error);
        }
        Ok(init)
    }

    fn find_init(&mut self) -> Result<Child, RunnerError> {
        let mut early = VecDeque::new();
        let lost = || failed(Failure::setup("the namespaces could not be made"));
        let pid = loop {
            match self.receive()? {
                None => return Err(lost()),
                Some((Message::Failed(failure), _)) => return Err(failed(failure)),
                Some((Message::Process(pid), _)) => break pid,
                Some(other) => early.push_back(other),
            }
        };
        self.early = early;
        let pid = rustix::process::Pid::from_raw(pid).ok_or_else(lost)?;
        Child::new(pid).at("watch the first process of", &self.container.record.id)
    }

    fn map_ids(&self, init: &Child) -> Result<(), RunnerError> {
        let linux = &self.prepared.spec.linux;
        if self.prepared.namespaces.fresh & sys::CLONE_NEWUSER == 0 {
            return Ok(());
        }
        idmap::write(init.pid, &linux.uid_mappings, &linux.gid_mappings)?;
        channel::send(self.line.as_fd(), &Message::IdMapWritten, &[])
            .at("start the first process of", &self.container.record.id)
    }

    /// Serves init until it waits to be started or was executed.
    fn listen(&mut self, init: &Child, start: Start) -> Result<(), RunnerError> {
        loop {
            match self.receive()? {
                None if start == Start::Waits => {
                    let code = init.wait(0).unwrap_or_default();
                    let text = format!("the first process ended too early, with {code}");
                    return Err(failed(Failure::setup(text)));
                }
                None | Some((Message::Ready, _)) => return Ok(()),
                Some((Message::Failed(failure), _)) => return Err(failed(failure)),
                Some((Message::Mounted, _)) => {
                    self.give_devices(init)?;
                    self.run_hooks()?;
                }
                Some((Message::Terminal, fds)) => self.take_terminal(fds)?,
                Some((Message::Listener, fds)) => self.hand_listener_over(&fds)?,
                Some(_) => return Err(failed(Failure::setup("init said nonsense"))),
            }
        }
    }

    /// Moves network devices of the host into the container.
    fn give_devices(&self, init: &Child) -> Result<(), RunnerError> {
        let devices = &self.prepared.spec.linux.net_devices;
        if devices.is_empty() {
            return Ok(());
        }
        let path = format!("/proc/{}/ns/net", init.pid.as_raw_nonzero());
        let netns: OwnedFd = std::fs::File::open(&path).at("open", &path)?.into();
        for (outside, device) in devices {
            let inside = if device.name.is_empty() {
                outside
            } else {
                &device.name
            };
            crate::net::give_device(outside, inside, &netns)
                .at("move the network device", outside)?;
        }
        Ok(())
    }

    fn run_hooks(&mut self) -> Result<(), RunnerError> {
        self.container.save()?;
        // To a hook the container exists already, as with runc and crun.
        let text = self.container.state(Stage::Created).to_string();
        let list = &self.prepared.spec.hooks;
        hooks::run_all("prestart", &list.prestart, &text).map_err(failed)?;
        hooks::run_all("createRuntime", &list.create_runtime, &text).map_err(failed)?;
        channel::send(self.line.as_fd(), &Message::Proceed(text), &[])
            .at("go on with", &self.container.record.id)
    }

    fn take_terminal(&mut self, fds: Vec<OwnedFd>) -> Result<(), RunnerError> {
        let mut fds = fds.into_iter();
        let (Some(master), Some(slave)) = (fds.next(), fds.next()) else {
            return Err(failed(Failure::setup("init sent no terminal")));
        };
        let process = self.prepared.spec.process.as_ref();
        if let Some(size) = process.and_then(|process| process.console_size) {
            crate::terminal::resize(master.as_fd(), size.height, size.width);
        }
        match &self.prepared.console {
            Some(socket) => channel::send_bytes(socket.as_fd(), b"/dev/ptmx", &[master.as_fd()])
                .at("hand the terminal over for", &self.container.record.id)?,
            None => self.terminal = Some((master, slave)),
        }
        Ok(())
    }

    /// Sends the listener of the filter to whoever supervises the container.
    ///
    /// Source: runtime-spec, `config-linux.md`, "The Container Process State".
    fn hand_listener_over(&self, fds: &[OwnedFd]) -> Result<(), RunnerError> {
        super::notify::send(self.container, &self.prepared.spec, fds)
    }
}
