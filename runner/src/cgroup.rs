//! Control groups, where the host lets us have them.
//!
//! Version 1 hierarchies are used where their directories can be written (by root), version 2
//! where a directory above our own group is ours (root, or delegated). Otherwise there is none:
//! the end of the pid namespace reaches every process anyway.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{ContainerConfig, Limits};
use crate::error::{At, RunnerError};
use crate::state::{self, Status};

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The directory of ours that holds one directory per container.
const PARENT: &str = "rrun";
/// Length of a scheduling period in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// Times the processes are looked for again, since they may fork while they are moved.
const GATHER_ROUNDS_MAX: usize = 16;
/// What is wrong when there is no group to freeze.
const NO_GROUP: &str = "pause containers: no control group can be made for this user";

/// The groups of a container, not entered yet.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Their directories.
    pub(crate) dirs: Vec<PathBuf>,
    /// Their `cgroup.procs`: who writes 0 enters.
    pub(crate) doors: Vec<File>,
    /// What could not be honoured.
    pub(crate) warnings: Vec<String>,
}

/// Makes the groups of a container, best effort.
pub(crate) fn make(config: &ContainerConfig) -> Groups {
    let mut groups = Groups::default();
    // Entering a group waits for all processors (some 5 ms), so only limits are worth it; pause
    // makes its group when it is asked for.
    if !config.limits.any() {
        return groups;
    }
    if is_unified() {
        make_unified(config, &mut groups);
    } else {
        make_split(config, &mut groups);
    }
    groups
}

fn is_unified() -> bool {
    Path::new(ROOT)
        .join("cgroup.controllers")
        .try_exists()
        .unwrap_or(false)
}

fn make_unified(config: &ContainerConfig, groups: &mut Groups) {
    let Some(parent) = unified_parent() else {
        if config.limits.any() {
            groups
                .warnings
                .push(unenforced("no control group is delegated to this user"));
        }
        return;
    };
    let wanted = controllers(&config.limits);
    if !wanted.is_empty() {
        let words: Vec<String> = wanted.iter().map(|name| format!("+{name}")).collect();
        // What could not be enabled shows when the limits are written.
        let _refused = std::fs::write(parent.join("cgroup.subtree_control"), words.join(" "));
    }
    let dir = parent.join(&config.id);
    let Ok(door) = make_group(&dir) else { return };
    for (file, value) in unified_limits(&config.limits) {
        if let Err(error) = std::fs::write(dir.join(file), value) {
            groups
                .warnings
                .push(unenforced(&format!("{file}: {error}")));
        }
    }
    groups.dirs.push(dir);
    groups.doors.push(door);
}

/// The nearest directory above our own group in which we may make groups.
fn unified_parent() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    if rustix::process::geteuid().is_root() {
        let parent = Path::new(ROOT).join(PARENT);
        let all = "+cpu +memory +pids";
        let _refused = std::fs::write(Path::new(ROOT).join("cgroup.subtree_control"), all);
        return make_dir(&parent).is_ok().then_some(parent);
    }
    // Leaving our own group needs write access to the common ancestor of both.
    let own = Path::new(ROOT).join(own.trim_start_matches('/'));
    own.ancestors()
        .skip(1)
        .take_while(|dir| dir.starts_with(ROOT))
        .filter(|dir| {
            File::options()
                .write(true)
                .open(dir.join("cgroup.procs"))
                .is_ok()
        })
        .map(|dir| dir.join(PARENT))
        .find(|dir| make_dir(dir).is_ok())
}

fn make_split(config: &ContainerConfig, groups: &mut Groups) {
    for controller in controllers(&config.limits) {
        let parent = Path::new(ROOT).join(controller).join(PARENT);
        let dir = parent.join(&config.id);
        let made = make_dir(&parent).and_then(|()| make_group(&dir));
        match made {
            Ok(door) => {
                groups.doors.push(door);
                groups.dirs.push(dir);
            }
            Err(error) => groups
                .warnings
                .push(unenforced(&format!("{controller}: {error}"))),
        }
    }
    for (controller, file, value) in split_limits(&config.limits) {
        let dir = Path::new(ROOT)
            .join(controller)
            .join(PARENT)
            .join(&config.id);
        if groups.dirs.contains(&dir)
            && let Err(error) = std::fs::write(dir.join(file), value)
        {
            groups
                .warnings
                .push(unenforced(&format!("{file}: {error}")));
        }
    }
}

/// Writes limits to groups that exist; what could not be honoured.
pub(crate) fn update(limits: &Limits, groups: &[PathBuf]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut files: Vec<(&str, String)> = unified_limits(limits);
    files.extend(
        split_limits(limits)
            .into_iter()
            .map(|(_, file, value)| (file, value)),
    );
    let mut enforced = Vec::new();
    for (file, value) in &files {
        let paths = groups.iter().map(|group| group.join(file));
        for path in paths.filter(|path| path.try_exists().unwrap_or(false)) {
            match std::fs::write(&path, value) {
                Ok(()) => enforced.push(*file),
                Err(error) => warnings.push(unenforced(&format!("{file}: {error}"))),
            }
        }
    }
    if limits.any() && enforced.is_empty() && warnings.is_empty() {
        warnings.push(unenforced(
            "the container has no control group; it will from its next start",
        ));
    }
    warnings
}

fn unenforced(why: &str) -> String {
    format!("a resource limit is not enforced ({why})")
}

fn controllers(limits: &Limits) -> Vec<&'static str> {
    [
        (limits.memory_bytes.is_some(), "memory"),
        (limits.pids.is_some(), "pids"),
        (limits.cpu_milli.is_some(), "cpu"),
    ]
    .into_iter()
    .filter_map(|(wanted, name)| wanted.then_some(name))
    .collect()
}

fn unified_limits(limits: &Limits) -> Vec<(&'static str, String)> {
    let cpu = limits
        .cpu_milli
        .map(|m| format!("{} {PERIOD_US}", m * PERIOD_US / 1000));
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    [
        ("memory.max", number(limits.memory_bytes)),
        ("pids.max", number(limits.pids)),
        ("cpu.max", cpu),
    ]
    .into_iter()
    .filter_map(|(file, value)| value.map(|value| (file, value)))
    .collect()
}

fn split_limits(limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let quota = limits.cpu_milli.map(|m| m * PERIOD_US / 1000);
    [
        (
            "memory",
            "memory.limit_in_bytes",
            number(limits.memory_bytes),
        ),
        ("pids", "pids.max", number(limits.pids)),
        (
            "cpu",
            "cpu.cfs_period_us",
            quota.map(|_| PERIOD_US.to_string()),
        ),
        ("cpu", "cpu.cfs_quota_us", number(quota)),
    ]
    .into_iter()
    .filter_map(|(controller, file, value)| value.map(|value| (controller, file, value)))
    .collect()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn make_group(dir: &Path) -> io::Result<File> {
    make_dir(dir)?;
    File::options().write(true).open(dir.join("cgroup.procs"))
}

/// Puts this process into groups that exist already.
pub(crate) fn join(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        std::fs::write(dir.join("cgroup.procs"), "0")?;
    }
    Ok(())
}

/// Where a container's processes are when it is or was paused.
fn pause_groups(id: &str, dirs: &[PathBuf]) -> Vec<PathBuf> {
    let old = Path::new(ROOT).join("freezer").join(PARENT).join(id);
    let new = Path::new(ROOT).join(PARENT).join(id);
    dirs.iter().cloned().chain([old, new]).collect()
}

/// Whether a container is frozen.
pub(crate) fn frozen(id: &str, dirs: &[PathBuf]) -> bool {
    pause_groups(id, dirs).iter().any(|group| {
        std::fs::read_to_string(group.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
            || std::fs::read_to_string(group.join("freezer.state"))
                .is_ok_and(|text| text.trim() != "THAWED")
    })
}

/// Freezes the processes of a container, or lets them go on.
///
/// # Errors
///
/// When it does not run, or the host lets us make no group.
pub(crate) fn freeze(dir: &Path, freeze: bool) -> Result<(), RunnerError> {
    let id = crate::container::id_of(dir);
    let state = state::read(dir)?;
    match (state.status, freeze) {
        (Status::Running, true) | (Status::Paused, false) => {}
        (Status::Paused, true) => return Err(already(&id, "already paused")),
        (Status::Running, false) => return Err(already(&id, "not paused")),
        (Status::Created | Status::Exited | Status::Restarting, _) => {
            return Err(RunnerError::NotRunning(id));
        }
    }
    if freeze
        && !state
            .cgroups
            .iter()
            .any(|group| group.join("cgroup.freeze").is_file())
    {
        gather(dir, &id)?;
    }
    for group in pause_groups(&id, &state.cgroups) {
        let (new, old) = (group.join("cgroup.freeze"), group.join("freezer.state"));
        if new.try_exists().unwrap_or(false) {
            return std::fs::write(&new, if freeze { "1" } else { "0" }).at("write", new);
        }
        if old.try_exists().unwrap_or(false) {
            let word = if freeze { "FROZEN" } else { "THAWED" };
            return std::fs::write(&old, word).at("write", old);
        }
    }
    Err(RunnerError::Unsupported(NO_GROUP))
}

fn already(id: &str, what: &str) -> RunnerError {
    RunnerError::Failed(crate::error::Failure::setup(format!(
        "container {id} is {what}"
    )))
}

/// Brings all processes of a container into a group that can be frozen.
fn gather(dir: &Path, id: &str) -> Result<(), RunnerError> {
    let parent = if is_unified() {
        unified_parent().ok_or(RunnerError::Unsupported(NO_GROUP))?
    } else {
        Path::new(ROOT).join("freezer").join(PARENT)
    };
    let group = parent.join(id);
    if make_dir(&parent).and_then(|()| make_dir(&group)).is_err() {
        return Err(RunnerError::Unsupported(NO_GROUP));
    }
    let mut before = Vec::new();
    for _ in 0..GATHER_ROUNDS_MAX {
        let now = crate::container::processes(dir)?;
        if now == before {
            break;
        }
        for pid in &now {
            match std::fs::write(group.join("cgroup.procs"), pid.to_string()) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error).at("fill", group),
            }
        }
        before = now;
    }
    Ok(())
}

/// Whether the kernel killed something in the groups for lack of memory.
pub(crate) fn out_of_memory(groups: &[PathBuf]) -> bool {
    groups.iter().any(|group| {
        ["memory.events", "memory.oom_control"].iter().any(|file| {
            std::fs::read_to_string(group.join(file)).is_ok_and(|text| {
                text.lines().any(|line| {
                    line.strip_prefix("oom_kill ")
                        .is_some_and(|count| count.trim() != "0")
                })
            })
        })
    })
}

/// Removes the groups of a container that has ended.
pub(crate) fn remove(id: &str, dirs: &[PathBuf]) {
    for group in pause_groups(id, dirs) {
        // A group that is still busy is harmless, and removed with the container.
        let _busy = std::fs::remove_dir(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_files_of_both_versions() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            pids: Some(5),
            cpu_milli: Some(1500),
        };
        let new: Vec<String> = unified_limits(&limits)
            .iter()
            .map(|(f, v)| format!("{f}={v}"))
            .collect();
        assert_eq!(
            new,
            ["memory.max=1048576", "pids.max=5", "cpu.max=150000 100000"]
        );
        let old: Vec<String> = split_limits(&limits)
            .iter()
            .map(|(_, f, v)| format!("{f}={v}"))
            .collect();
        assert_eq!(
            old,
            [
                "memory.limit_in_bytes=1048576",
                "pids.max=5",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000"
            ]
        );
        assert!(controllers(&Limits::default()).is_empty());
    }
}
