//! An OCI runtime: containers from bundles, by the operations of the runtime specification.
//!
//! A configuration ([`Spec`]) becomes a [`Plan`](crate::Plan), which init carries out as it does
//! those of our own containers. Between `create` and `start` the process waits on a socket in its
//! state directory ([`gate`]). Nothing stays behind but that directory: what a container does is
//! asked of the kernel ([`Container::stage`]).
//!
//! Source: OCI runtime-spec 1.2.

mod check;
mod copy;
mod exec;
mod features;
pub(crate) mod gate;
mod hooks;
mod idmap;
mod launch;
mod names;
mod notify;
mod options;
mod place;
mod place_of_memory;
mod plan;
mod registry;
mod sd_notify;
pub(crate) mod setup;
pub(crate) mod spec;
pub(crate) mod step;
mod template;

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

pub use exec::{ExecOptions, exec};
pub use features::features;
pub use launch::CreateOptions;
pub use options::MountOptions;
pub use registry::{Container, Record, Registry, Stage};
pub use spec::{
    BlockIo, DeviceRule, Process, Resources, Spec, ThrottleDevice, WeightDevice, load_process,
    load_resources,
};
pub use step::{BundleMount, BundleMountKind, BundleStep, Hierarchy, Node, Source};
pub use template::template;

use crate::attach::forwarded_signals;
use crate::cgroup;
use crate::channel::{self, Message};
use crate::error::{At, Failure, RunnerError};
use crate::monitor::Child;
use crate::{peers, sys};
use sd_notify::Relay;

/// Milliseconds a killed process may take to end.
const KILL_MS: u32 = 4_000;
/// Times processes of a group are killed again, as they may fork meanwhile.
const KILL_ROUNDS_MAX: usize = 64;

/// Makes a container whose process waits to be started.
///
/// # Errors
///
/// When anything the configuration asks for cannot be had; nothing is left behind then.
pub fn create(registry: &Registry, id: &str, options: &CreateOptions) -> Result<(), RunnerError> {
    launch::create(registry, id, options, launch::Start::Waits).map(drop)
}

/// How [`run`] ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Whether it returns as soon as the process runs.
    pub detach: bool,
    /// Whether the container stays when its process ended.
    pub keep: bool,
}

/// How a container's life ended, as far as this process saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code of its process.
    pub code: i32,
    /// What failed and changes nothing.
    pub warnings: Vec<String>,
}

/// Makes a container, starts it and, unless detached, waits for its end.
///
/// # Errors
///
/// As [`create`].
pub fn run(
    registry: &Registry,
    id: &str,
    options: &CreateOptions,
    run: RunOptions,
) -> Result<Outcome, RunnerError> {
    let attached = !run.detach;
    // Blocked before there is a process, so that none is lost.
    let signals = attached
        .then(|| sys::signal_fd(&forwarded_signals()))
        .transpose();
    let signals = signals.at("catch signals for", id)?;
    let created = launch::create(registry, id, options, launch::Start::Now { attached })?;
    let ready = announce(created.relay, &created.init, attached);
    ready.at("hear of the process of", id)?;
    let poststart = &created.spec.hooks.poststart;
    let state = || created.container.state(Stage::Running).to_string();
    if !poststart.is_empty()
        && let Err(failure) = hooks::run_all("poststart", poststart, &state())
    {
        created.init.signal(libc::SIGKILL);
        created.init.reap();
        let _less_than_this = clean(&created.container, &created.spec);
        return Err(RunnerError::Failed(failure));
    }
    let Some(signals) = signals else {
        return Ok(Outcome::default());
    };
    let code = match created.terminal {
        Some(terminal) => {
            drop(signals);
            let how = crate::exec::ExecSpec {
                tty: true,
                stdin: true,
                ..crate::exec::ExecSpec::default()
            };
            let none = [None, None, None];
            crate::exec::carry(&how, &created.init, Some(terminal), none)
                .map(crate::exec::Outcome::code)
                .at("carry the terminal of", id)?
        }
        None => wait(&created.init, &signals),
    };
    let warnings = if run.keep {
        Vec::new()
    } else {
        clean(&created.container, &created.spec)
    };
    Ok(Outcome { code, warnings })
}

/// Passes on that a process is ready, meanwhile when it is attended to.
fn announce(relay: Option<Relay>, process: &Child, attached: bool) -> std::io::Result<()> {
    let Some(relay) = relay else { return Ok(()) };
    let pid = process.pid.as_raw_nonzero().get();
    if !attached {
        return relay.wait(&process.pidfd, pid);
    }
    let pidfd = process.pidfd.try_clone()?;
    let thread = std::thread::Builder::new();
    // A manager that is gone needs no telling.
    thread.spawn(move || relay.wait(&pidfd, pid)).map(drop)
}

/// Waits for the end of a process and hands signals on meanwhile.
fn wait(process: &Child, signals: &impl AsFd) -> i32 {
    loop {
        let mut fds = [
            PollFd::new(&process.pidfd, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[1].revents().is_empty() {
            let mut record = [0_u8; 128];
            if rustix::io::read(signals, &mut record) == Ok(record.len())
                && let Some(signal) = sys::signal_number(&record)
                && signal != libc::SIGWINCH
            {
                process.signal(signal);
            }
        }
        if !fds[0].revents().is_empty() {
            return process.reap();
        }
    }
}

fn wrong_stage(container: &Container, verb: &str, stage: Stage) -> RunnerError {
    RunnerError::Failed(Failure::setup(format!(
        "cannot {verb} container {}: it is {}",
        container.record.id,
        stage.word()
    )))
}

/// Lets the process of a created container go on.
///
/// # Errors
///
/// When the container does not wait to be started, or its program cannot be executed.
pub fn start(registry: &Registry, id: &str) -> Result<(), RunnerError> {
    let container = registry.load(id)?;
    let stage = container.stage();
    if stage != Stage::Created {
        return Err(wrong_stage(&container, "start", stage));
    }
    let spec = container.spec()?;
    if spec.process.is_none() {
        let text = format!("container {id} has no process to start");
        return Err(RunnerError::Failed(Failure::setup(text)));
    }
    let relay = Relay::open(&container)?;
    let line = container.knock().at("start the process of", id)?;
    container.close_gate();
    peers::hear(line.as_fd(), || {
        peers::stopped_in_family(container.record.pid)
    })?;
    // The connection ends, without a word, when the program is executed.
    if let Some((Message::Failed(failure), _)) =
        channel::receive(&line).at("hear from the process of", id)?
    {
        // It is about to end, and whoever deletes the container next must not meet it alive.
        end(&container, libc::SIGKILL);
        return Err(RunnerError::Failed(failure));
    }
    let state = container.state(Stage::Running).to_string();
    if let Some(relay) = relay
        && let Some((_, process)) = container.open()
    {
        let waited = relay.wait(&process, container.record.pid);
        waited.at("hear of the process of", id)?;
    }
    if let Err(failure) = hooks::run_all("poststart", &spec.hooks.poststart, &state) {
        // The specification: the container is stopped, and its life goes on with its end.
        end(&container, libc::SIGKILL);
        let _less_than_this = clean(&container, &spec);
        return Err(RunnerError::Failed(failure));
    }
    Ok(())
}

/// Sends a signal to a container's process, or to all its processes.
///
/// # Errors
///
/// When it has ended.
pub fn kill(registry: &Registry, id: &str, signal: i32, all: bool) -> Result<(), RunnerError> {
    let container = registry.load(id)?;
    let stage = container.stage();
    let alive = container.open();
    if all {
        let pids = cgroup::processes(&container.record.cgroups);
        if let Some((_, pidfd)) = &alive {
            let _ended = sys::pidfd_signal(pidfd.as_fd(), signal);
        }
        for pid in pids.into_iter().filter(|pid| *pid != container.record.pid) {
            let _ended = sys::kill(pid, signal);
        }
        return Ok(());
    }
    let Some((_, pidfd)) = alive else {
        return Err(wrong_stage(&container, "kill", stage));
    };
    sys::pidfd_signal(pidfd.as_fd(), signal).at("signal the process of", id)
}

/// Ends the processes of a container and waits until its first one is gone.
fn end(container: &Container, signal: i32) {
    if cgroup::frozen(&container.record.cgroups) {
        // A frozen process of version 1 does not even die.
        let _gone = cgroup::freeze(&container.record.cgroups, false);
    }
    if let Some((_, pidfd)) = container.open() {
        cgroup::thaw_process(container.record.pid);
        let _ended = sys::pidfd_signal(pidfd.as_fd(), signal);
        crate::monitor::wait_readable(pidfd.as_fd(), KILL_MS);
    }
    // Without a process namespace of its own the others live on.
    for _ in 0..KILL_ROUNDS_MAX {
        let pids = cgroup::processes(&container.record.cgroups);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ended = sys::kill(pid, signal);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Removes what is left of a container that has ended, and runs its last hooks. The container is
/// gone whatever they say, so all are run; what failed of them is returned.
fn clean(container: &Container, spec: &Spec) -> Vec<String> {
    cgroup::remove(&container.record.cgroups);
    container.forget();
    let state = container.state(Stage::Stopped).to_string();
    let hooks = spec.hooks.poststop.iter();
    let ran = hooks.map(|hook| hooks::run_all("poststop", std::slice::from_ref(hook), &state));
    ran.filter_map(|said| said.err().map(|failure| failure.text))
        .collect()
}

/// Removes a container. With `force` also one that runs, that is damaged, or that is not there.
/// Returns what failed and changes nothing.
///
/// # Errors
///
/// When it runs, unless forced; when it does not exist.
pub fn delete(registry: &Registry, id: &str, force: bool) -> Result<Vec<String>, RunnerError> {
    let container = match registry.load(id) {
        Ok(container) => container,
        Err(_) if force => {
            registry.clear(id)?;
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let stage = container.stage();
    // One that was never started has done nothing yet: it may go, as with runc and crun.
    if !matches!(stage, Stage::Stopped | Stage::Created) && !force {
        return Err(wrong_stage(&container, "delete", stage));
    }
    end(&container, libc::SIGKILL);
    let spec = container.spec().unwrap_or_default();
    Ok(clean(&container, &spec))
}

/// Freezes the processes of a container, or lets them go on.
///
/// # Errors
///
/// When it does not run, or has no control group.
pub fn freeze(registry: &Registry, id: &str, freeze: bool) -> Result<(), RunnerError> {
    let container = registry.load(id)?;
    let stage = container.stage();
    let (verb, fits) = if freeze {
        ("pause", matches!(stage, Stage::Running | Stage::Created))
    } else {
        ("resume", stage == Stage::Paused)
    };
    if !fits {
        return Err(wrong_stage(&container, verb, stage));
    }
    cgroup::freeze(&container.record.cgroups, freeze)
}

/// The host's ids of a container's processes.
///
/// # Errors
///
/// When there is no such container.
pub fn processes(registry: &Registry, id: &str) -> Result<Vec<i32>, RunnerError> {
    let container = registry.load(id)?;
    let mut pids = cgroup::processes(&container.record.cgroups);
    if pids.is_empty() && container.open().is_some() {
        pids.push(container.record.pid);
    }
    Ok(pids)
}

/// Changes the bounds of a container.
///
/// # Errors
///
/// When it has ended, or a bound cannot be set.
pub fn update(registry: &Registry, id: &str, resources: &Resources) -> Result<(), RunnerError> {
    let container = registry.load(id)?;
    let stage = container.stage();
    if stage == Stage::Stopped {
        return Err(wrong_stage(&container, "update", stage));
    }
    let layout = cgroup::Layout::detect();
    let groups = &container.record.cgroups;
    cgroup::apply(&layout, groups, resources, false, &mut cgroup::strict)
}
