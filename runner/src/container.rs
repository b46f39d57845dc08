//! Container directories: making, finding, ending and removing them.

mod ending;

pub use ending::{Stopped, end, is_stopping, kill, stop, wait};

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{ContainerConfig, Root};
use crate::error::{At, Failure, RunnerError};
use crate::overlay::Dialect;
use crate::state::{self, State, Status};
use crate::{names, sys};
use ending::{KILLED_MAX, end_starting, kill_server, wait_end};

/// A container as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its directory.
    pub dir: PathBuf,
    /// What it is.
    pub config: ContainerConfig,
    /// What it does.
    pub state: State,
}

/// The id of a container directory: its name.
pub(crate) fn id_of(dir: &Path) -> String {
    dir.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes a container directory with its configuration and takes its name, all or nothing.
///
/// # Errors
///
/// When the name is taken or bad, or the directory cannot be written.
pub fn create(containers: &Path, config: &ContainerConfig) -> Result<PathBuf, RunnerError> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(containers)
        .at("make", containers)?;
    let dir = containers.join(&config.id);
    let staging = crate::staging::Staging::enter(containers)?;
    let new = staging.dir.join(&config.id);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&new)
        .at("make the container", &new)?;
    let fill = || -> Result<(), RunnerError> {
        let point = new.join(crate::rootfs::MOUNT_POINT);
        make_private_dir(&point).at("make", point)?;
        config.save(&new)?;
        // Held until the container is there.
        let _giving = match config.name.as_str() {
            "" => None,
            name => Some(names::take(containers, name, &config.id)?),
        };
        std::fs::rename(&new, &dir).at("make the container", &dir)
    };
    if let Err(error) = fill() {
        // What matters is why it failed, not that debris is left.
        let _left = std::fs::remove_dir_all(&new);
        return Err(error);
    }
    Ok(dir)
}

/// How long a removal by force goes on while others come to have the container's lock.
const LOCKED_MAX: Duration = Duration::from_secs(2);
/// How long at least after it has waited for one that does not end, which is 4.5 s at most: what
/// ends with a killed monitor has the lock for a moment longer.
const LOCKED_AFTER_MAX: Duration = Duration::from_millis(400);
/// Between two tries.
const LOCKED_PAUSE: Duration = Duration::from_millis(2);

/// Removes a container; a running one only with `force`, which kills it first.
///
/// # Errors
///
/// When it runs, or its files cannot be removed.
pub fn remove(dir: &Path, force: bool) -> Result<(), RunnerError> {
    let until = Instant::now() + LOCKED_MAX;
    let mut removed = try_remove(dir, force);
    let until = until.max(Instant::now() + LOCKED_AFTER_MAX);
    // A monitor whose command was killed begins in this moment, or one that was killed had begun
    // processes that are not gone yet.
    while force && matches!(removed, Err(RunnerError::Running(_))) && Instant::now() < until {
        std::thread::sleep(LOCKED_PAUSE);
        if matches!(dir.try_exists(), Ok(false)) {
            return Ok(());
        }
        removed = try_remove(dir, force);
    }
    removed
}

fn try_remove(dir: &Path, force: bool) -> Result<(), RunnerError> {
    let state = state::read(dir)?;
    if matches!(
        state.status,
        Status::Running | Status::Paused | Status::Restarting
    ) {
        if !force {
            return Err(RunnerError::Running(id_of(dir)));
        }
        stop(dir, Duration::ZERO, None)?;
    }
    if force && state.status == Status::Created && state::monitor_alive(dir)? {
        end_starting(dir)?;
    }
    // It may have removed itself at its end.
    if matches!(dir.try_exists(), Ok(false)) {
        return Ok(());
    }
    cleanup(dir)?;
    // A monitor that has written the end has little left to do.
    if state::read_claim(dir)?.status == Status::Exited {
        wait_end(dir, Some(KILLED_MAX))?;
    }
    let Some(_lock) = state::take_lock(dir)? else {
        return Err(RunnerError::Running(id_of(dir)));
    };
    match ContainerConfig::load(dir) {
        Ok(config) => remove_files(dir, &config),
        // A damaged container must be removable.
        Err(_) => remove_files(
            dir,
            &ContainerConfig {
                id: id_of(dir),
                ..Default::default()
            },
        ),
    }
}

/// Finishes what a killed monitor left: the first process, control groups, the socket, the state.
///
/// # Errors
///
/// When the corrected state cannot be written.
pub fn cleanup(dir: &Path) -> Result<(), RunnerError> {
    let claim = state::read_claim(dir)?;
    let truth = state::read(dir)?;
    let dead = truth.status == Status::Exited && claim.status != Status::Exited;
    if !dead {
        // A start that was killed did not come to say what it had.
        let began = claim.status == Status::Created && claim.monitor_start != 0;
        if began && !state::monitor_alive(dir)? {
            kill_server(&claim);
            crate::net::forget(dir);
            crate::cgroup::front::remove(dir, &claim.cgroups);
        }
        return Ok(());
    }
    if claim.boot_id == state::boot_id()
        && let Some((_, pidfd)) = state::open_init(&claim)
    {
        let _ended = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        ending::wait_killed(&claim, pidfd.as_fd());
    }
    if claim.boot_id == state::boot_id() {
        crate::net::cleanup(&claim.network, dir);
    }
    crate::cgroup::front::remove(dir, &claim.cgroups);
    let _gone = std::fs::remove_file(dir.join(crate::monitor::SOCKET));
    let state = State {
        pid: 0,
        server_pid: 0,
        cgroups: Vec::new(),
        network: crate::net::NetState::default(),
        finished_at: if truth.finished_at.is_empty() || truth.boot_id == state::boot_id() {
            crate::time::now()
        } else {
            truth.finished_at.clone()
        },
        ..truth
    };
    state::write(dir, &state)
}

/// Removes name and directory of a container whose lock the caller holds.
pub(crate) fn remove_files(dir: &Path, config: &ContainerConfig) -> Result<(), RunnerError> {
    if let Some(containers) = dir.parent()
        && !config.name.is_empty()
    {
        names::release(containers, &config.name, &config.id)?;
    }
    let overlaid = match &config.root {
        Root::Fuse { overlay, .. } => *overlay == Some(Dialect::User),
        Root::Dir(_) => false,
    };
    match crate::tree::remove(dir) {
        // Files of subordinate ids, which only root of their namespace may remove.
        Err(error) if overlaid && error.kind() == io::ErrorKind::PermissionDenied => {
            crate::userns::remove_tree(&config.id_map, &dir.join("upper"))?;
            crate::userns::remove_tree(&config.id_map, &dir.join("work"))?;
            crate::tree::remove(dir).at("remove", dir)
        }
        other => other.at("remove", dir),
    }
}

/// All containers, in no order; directories that are no container are passed over.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn list(containers: &Path) -> Result<Vec<Container>, RunnerError> {
    let entries = match std::fs::read_dir(containers) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list", containers),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| names::is_id(&entry.file_name().to_string_lossy()))
        // A container may go while we look.
        .filter_map(|entry| load(&entry.path()).ok())
        .collect())
}

/// One container.
///
/// # Errors
///
/// When its configuration or state cannot be read.
pub fn load(dir: &Path) -> Result<Container, RunnerError> {
    Ok(Container {
        dir: dir.to_owned(),
        config: ContainerConfig::load(dir)?,
        state: state::read(dir)?,
    })
}

/// Whether a container that does not run is to be started when the host has come up, by its
/// restart policy: one that was started before and, but for `always`, was not stopped by hand.
///
/// Source: moby daemon, `restore` and `ShouldRestart`.
pub fn wants_restart(one: &Container) -> bool {
    if one.state.status != Status::Exited || one.state.started_at.is_empty() {
        return false;
    }
    let policy = &one.config.restart;
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !crate::monitor::stopped_by_hand(&one.dir),
        "on-failure" => {
            one.state.exit_code != 0
                && (policy.retries_max == 0 || one.state.restart_count < policy.retries_max)
                && !crate::monitor::stopped_by_hand(&one.dir)
        }
        _ => false,
    }
}

/// Freezes all processes of the container.
///
/// # Errors
///
/// When it does not run, or the host gave it no control group.
pub fn pause(dir: &Path) -> Result<(), RunnerError> {
    crate::cgroup::front::freeze(dir, true)
}

/// Lets the processes of a frozen container go on.
///
/// # Errors
///
/// As [`pause`].
pub fn unpause(dir: &Path) -> Result<(), RunnerError> {
    crate::cgroup::front::freeze(dir, false)
}

/// Brings the limits of a running container in line with its configuration; what could not be.
///
/// # Errors
///
/// When its configuration or state cannot be read, or its processes cannot be found.
pub fn update_limits(dir: &Path) -> Result<Vec<String>, RunnerError> {
    let (config, state) = (ContainerConfig::load(dir)?, state::read(dir)?);
    if !matches!(state.status, Status::Running | Status::Paused) {
        return Ok(Vec::new());
    }
    crate::cgroup::front::update(dir, &config, &state.cgroups)
}

/// Host ids of the processes in the container, the first one first.
///
/// # Errors
///
/// When it does not run.
pub fn processes(dir: &Path) -> Result<Vec<i32>, RunnerError> {
    let state = state::read(dir)?;
    let not_running = || RunnerError::NotRunning(id_of(dir));
    let (init, _pidfd) = state::open_init(&state).ok_or_else(not_running)?;
    let init = init.as_raw_nonzero().get();
    let config = ContainerConfig::load(dir)?;
    // Where it has no PID namespace of its own, its mount namespace tells its processes.
    let kind = if config.host.pid || config.joins.pid.is_some() {
        "mnt"
    } else {
        "pid"
    };
    let own = std::fs::read_link(format!("/proc/{init}/ns/{kind}")).map_err(|_| not_running())?;
    let mut found = in_namespace(kind, &own);
    found.retain(|pid| *pid != init);
    found.sort_unstable();
    found.insert(0, init);
    Ok(found)
}

/// The processes in a namespace: its kind, and what the links of `/proc/PID/ns` say of it.
pub(crate) fn in_namespace(kind: &str, namespace: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            link.is_ok_and(|link| link == namespace)
        })
        .collect()
}

/// The children of a process, of all its threads.
///
/// Source: `proc_tid_children(5)`.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .filter_map(Result::ok)
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let mut found = Vec::new();
    for list in lists {
        found.extend(
            list.split_whitespace()
                .filter_map(|word| word.parse::<i32>().ok()),
        );
    }
    found
}

/// Joins the user and mount namespaces of a running container, as its root; its root directory.
///
/// The calling process must be single-threaded.
///
/// # Errors
///
/// When it does not run, or may not be joined.
pub fn enter(dir: &Path) -> Result<std::os::fd::OwnedFd, RunnerError> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    crate::peers::answer(dir)?;
    let config = ContainerConfig::load(dir)?;
    let state = state::read(dir)?;
    let not_running = || RunnerError::NotRunning(id_of(dir));
    let (_, pidfd) = state::open_init(&state).ok_or_else(not_running)?;
    // Nobody inside may look at this process or reach its program file.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at("protect the helper of", dir)?;
    let mut namespaces = sys::CLONE_NEWNS;
    if config.has_user_namespace() {
        namespaces |= sys::CLONE_NEWUSER;
    }
    sys::setns(pidfd.as_fd(), namespaces).at("enter", dir)?;
    if config.has_user_namespace() {
        crate::init::become_root().map_err(RunnerError::Failed)?;
    }
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, "/", flags, rustix::fs::Mode::empty())
        .at("open the root of", dir)
}

/// Mounts the root of a container that does not run, for this process alone; the descriptor is
/// that of the root directory. Only for one whose writes the kernel's overlayfs takes: it must not
/// be written to in another way. Until the process ends the container cannot be started.
///
/// The calling process must be single-threaded, and root where the container's ids are.
///
/// # Errors
///
/// When it runs, or the kernel refuses.
pub fn mount(dir: &Path) -> Result<Mounted, RunnerError> {
    let config = ContainerConfig::load(dir)?;
    let Root::Fuse {
        overlay: Some(dialect),
        ..
    } = config.root
    else {
        return Err(RunnerError::Failed(Failure::setup(format!(
            "container {} has a server that takes its writes",
            config.id
        ))));
    };
    let lock = state::take_lock(dir)?.ok_or_else(|| RunnerError::Running(id_of(dir)))?;
    rustix::process::chdir(dir).at("enter", dir)?;
    // Outside of the namespace, or it would keep alive the mount whose end it waits for.
    let server = crate::monitor::start_server(dir, &config, None)?;
    sys::unshare(sys::CLONE_NEWNS).at("make a mount namespace for", dir)?;
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .at("make private the mounts of", dir)?;
    let line = server.as_ref().map(|server| server.line.as_fd());
    let line = line.ok_or_else(|| RunnerError::NotRunning(config.id.clone()))?;
    let mount = crate::rootfs::mount_overlay(line, dialect).map_err(RunnerError::Failed)?;
    crate::rootfs::attach_root(&mount).map_err(RunnerError::Failed)?;
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::openat(&mount, ".", flags, rustix::fs::Mode::empty())
        .at("open the root of", dir)?;
    Ok(Mounted { root, lock })
}

/// The root of a container that does not run.
#[derive(Debug)]
pub struct Mounted {
    /// The root directory.
    pub root: std::os::fd::OwnedFd,
    /// Keeps the container from being started.
    #[expect(dead_code, reason = "held for what it does, not read")]
    lock: std::fs::File,
}

/// Makes the container's mounts write what they hold in memory, so that readers of its files from
/// outside see it. Does nothing for a container that does not run.
///
/// # Errors
///
/// Those of `syncfs(2)`.
pub fn sync(dir: &Path, helper_argv: &[OsString]) -> Result<(), RunnerError> {
    let state = state::read(dir)?;
    let Some((_pid, pidfd)) = state::open_init(&state) else {
        return Ok(());
    };
    let Some((program, arguments)) = helper_argv.split_first() else {
        return Ok(());
    };
    crate::peers::answer(dir)?;
    let mut helper = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::from(pidfd))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .at("start the helper that syncs", dir)?;
    if let Err(error) = crate::peers::await_end(helper.id(), || crate::peers::stopped_part(dir)) {
        // It ends when the server goes on; whoever waited for it does not wait.
        let _ended = helper.kill();
        return Err(error);
    }
    let output = helper.wait_with_output();
    let output = output.at("hear from the helper that syncs", dir)?;
    if output.status.success() || state::open_init(&state).is_none() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(std::io::Error::other(said)).at("write back the files of", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_by_force_outlasts_who_has_the_lock_for_a_moment() {
        let home = tempfile::tempdir().unwrap();
        let config = ContainerConfig {
            id: names::random_id().unwrap(),
            ..ContainerConfig::default()
        };
        let dir = create(home.path(), &config).unwrap();
        let lock = state::take_lock(&dir).unwrap().unwrap();
        let refused = remove(&dir, false);
        assert!(matches!(refused, Err(RunnerError::Running(_))));
        // Longer than a monitor may take to say in the lock who it is.
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            drop(lock);
        });
        remove(&dir, true).unwrap();
        ends.join().unwrap();
        assert!(!dir.try_exists().unwrap());
    }
}
