//! What containers of our own do with control groups: best effort, with one warning for what
//! could not be had.
//!
//! Root's groups are below `rrun` in each hierarchy. Another user's are below a group that was
//! delegated to it: version 1, its own one; version 2, the nearest one above its own. Without
//! any there are no bounds: the end of the pid namespace reaches every process anyway.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Layout, ROOT, Reach, Trouble, Wish, apply, find, make_group};
use crate::config::ContainerConfig;
use crate::error::{At, Failure, RunnerError};
use crate::limits::Limits;
use crate::oci::spec::Resources;
use crate::state::{self, Status};

/// The directory of ours that holds one directory per container.
const PARENT: &str = "rrun";
/// The file of a container directory that lists groups made after the start, one a line.
const LATE: &str = "groups";
/// Largest such file read, in bytes: a line for each of a dozen hierarchies.
const LATE_BYTES_MAX: u64 = 64 << 10;
/// Times the processes are looked for again, since they may fork while they are moved.
const GATHER_ROUNDS_MAX: usize = 16;
/// What is wrong when there is no group to freeze.
const NO_GROUP: &str = "pause containers: no control group can be made for this user";
/// Why a bound is not enforced where this user may make no group.
const UNDELEGATED: &str = "no control group is delegated to this user";
/// Why a bound is not enforced whose file is not there.
const ABSENT: &str = "the control groups of this host do not have it";
/// Why a bound is not enforced that only version 1 knows.
const VERSION_1_ONLY: &str = "version 2 control groups have no such limit";

/// The option of rules about devices.
const DEVICES: &str = "--device-cgroup-rule";

/// Which option a file is written for. Version 1 first, then version 2.
const OPTIONS: [(&str, &str); 27] = [
    ("memory.limit_in_bytes", "--memory"),
    ("memory.memsw.limit_in_bytes", "--memory-swap"),
    ("memory.soft_limit_in_bytes", "--memory-reservation"),
    ("memory.swappiness", "--memory-swappiness"),
    ("memory.oom_control", "--oom-kill-disable"),
    ("cpu.shares", "--cpu-shares"),
    ("cpu.rt_period_us", "--cpu-rt-period"),
    ("cpu.rt_runtime_us", "--cpu-rt-runtime"),
    ("cpuset.cpus", "--cpuset-cpus"),
    ("cpuset.mems", "--cpuset-mems"),
    ("pids.max", "--pids-limit"),
    ("blkio.weight", "--blkio-weight"),
    ("blkio.weight_device", "--blkio-weight-device"),
    ("blkio.throttle.read_bps_device", "--device-read-bps"),
    ("blkio.throttle.write_bps_device", "--device-write-bps"),
    ("blkio.throttle.read_iops_device", "--device-read-iops"),
    ("blkio.throttle.write_iops_device", "--device-write-iops"),
    ("devices", DEVICES),
    ("memory.max", "--memory"),
    ("memory.swap.max", "--memory-swap"),
    ("memory.low", "--memory-reservation"),
    ("cpu.weight", "--cpu-shares"),
    ("io.weight", "--blkio-weight"),
    (
        "io.max",
        "--device-read-bps, --device-write-bps, --device-read-iops or --device-write-iops",
    ),
    ("cpu.cfs_period_us", "--cpu-period"),
    ("cpu.cfs_quota_us", "--cpu-quota"),
    ("cpu.max", "--cpu-quota"),
];

/// The groups of a container, not entered yet.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Their directories.
    pub(crate) dirs: Vec<PathBuf>,
    /// Their doors: who has one thread and writes 0 enters.
    pub(crate) doors: Vec<File>,
    /// What could not be honoured.
    pub(crate) warnings: Vec<String>,
}

/// What could not be honoured: options, and why.
#[derive(Debug, Default)]
struct Unenforced(Vec<(String, Vec<&'static str>)>);

impl Unenforced {
    fn add(&mut self, option: &'static str, why: impl Into<String>) {
        let why = why.into();
        let same = |(known, _): &&mut (String, Vec<_>)| *known == why;
        match self.0.iter_mut().find(same) {
            Some((_, options)) if options.contains(&option) => {}
            Some((_, options)) => options.push(option),
            None => self.0.push((why, vec![option])),
        }
    }

    /// Takes what a write met; swap nobody asked to bound is no matter.
    fn take(&mut self, trouble: &Trouble<'_>, limits: &Limits, no_group: &str) {
        if trouble.optional || (is_swap(trouble.file) && limits.memory_swap_bytes.is_none()) {
            return;
        }
        let why = match &trouble.error {
            None => no_group.to_owned(),
            Some(RunnerError::Io { object, source, .. }) => {
                let file = object.file_name().unwrap_or_default().to_string_lossy();
                if source.kind() == std::io::ErrorKind::NotFound {
                    ABSENT.to_owned()
                } else {
                    format!("{file}: {source}")
                }
            }
            Some(other) => other.to_string(),
        };
        self.add(option(trouble.file, limits), why);
    }

    /// One warning for each reason; there is one as a rule.
    fn warnings(self) -> Vec<String> {
        let text = |(why, options): (String, Vec<&str>)| {
            let verb = if options.len() == 1 { "is" } else { "are" };
            format!("{} {verb} not enforced: {why}", options.join(", "))
        };
        self.0.into_iter().map(text).collect()
    }
}

fn is_swap(file: &str) -> bool {
    ["memory.memsw.limit_in_bytes", "memory.swap.max"].contains(&file)
}

fn option(file: &str, limits: &Limits) -> &'static str {
    let known = OPTIONS.iter().find(|(known, _)| *known == file);
    match known.map_or("a limit", |(_, option)| option) {
        "--cpu-period" | "--cpu-quota" if limits.cpu_milli.is_some() => "--cpus",
        option => option,
    }
}

/// Where the groups of a container are to be: a path below each hierarchy, or relative to the
/// caller's own group there.
fn place(layout: &Layout, config: &ContainerConfig) -> Option<String> {
    let id = &config.id;
    let parent = config.limits.parent.trim_end_matches('/');
    if !parent.is_empty() {
        return Some(match parent.ends_with(".slice") && !parent.contains('/') {
            true => format!("{parent}:{PARENT}:{id}"),
            false => format!("{parent}/{id}"),
        });
    }
    own_place(layout).map(|base| format!("{base}/{id}"))
}

/// Our directory of groups.
fn own_place(layout: &Layout) -> Option<String> {
    if rustix::process::geteuid().is_root() {
        return Some(format!("/{PARENT}"));
    }
    let Some(own) = &layout.unified else {
        return Some(PARENT.to_owned());
    };
    // Leaving our own group needs write access to the common ancestor of both.
    let own = Path::new(ROOT).join(own.trim_start_matches('/'));
    let parent = own
        .ancestors()
        .skip(1)
        .take_while(|dir| dir.starts_with(ROOT))
        .find(|dir| {
            let door = File::options().write(true).open(dir.join("cgroup.procs"));
            door.is_ok() && super::make_dir(&dir.join(PARENT)).is_ok()
        })?;
    let parent = parent.strip_prefix(ROOT).ok()?;
    Some(format!("/{}", parent.join(PARENT).to_str()?))
}

/// Whether a container gets groups at its start. To enter one of version 2 waits for all processors
/// (some 5 ms), to make and remove those of version 1 takes its time too, so only limits are worth
/// it; pause makes its group when it is asked for.
fn wants_groups(config: &ContainerConfig) -> bool {
    config.limits.any() || !config.limits.parent.is_empty()
}

/// The groups that [`make`] would make, to be written down before it does: whoever is killed
/// meanwhile leaves groups that somebody knows of.
pub(crate) fn planned(config: &ContainerConfig) -> Vec<PathBuf> {
    if !wants_groups(config) {
        return Vec::new();
    }
    let layout = Layout::detect();
    let path = place(&layout, config);
    let resources = config.limits.resources();
    let wanted = wanted(&layout, config, path.as_deref(), &resources);
    wanted.into_iter().map(|(dir, _)| dir).collect()
}

/// Directories of the groups a container is to be in, and the controllers of each.
fn wanted<'l>(
    layout: &'l Layout,
    config: &ContainerConfig,
    path: Option<&str>,
    resources: &Resources,
) -> Vec<(PathBuf, &'l [String])> {
    let wish = Wish {
        id: &config.id,
        path,
        resources: Some(resources),
        reach: if config.limits.parent.is_empty() {
            Reach::Bounds
        } else {
            Reach::All
        },
    };
    if path.is_none() {
        return Vec::new();
    }
    let mut places = layout.places(path, wish.id).unwrap_or_default();
    places.retain(|(_, controllers)| layout.uses(&wish, controllers));
    places
}

/// Makes the groups of a container, best effort but for devices of root's containers.
///
/// # Errors
///
/// When root's container would reach devices that it may not use.
pub(crate) fn make(config: &ContainerConfig) -> Result<Groups, RunnerError> {
    if !wants_groups(config) {
        return Ok(Groups::default());
    }
    let mut trouble = Unenforced::default();
    let groups = make_new(config, &[], &mut trouble);
    if rustix::process::geteuid().is_root()
        && let Some((why, _)) = trouble.0.iter().find(|(_, list)| list.contains(&DEVICES))
    {
        super::remove(&groups.dirs);
        return Err(RunnerError::Failed(Failure::setup(format!(
            "could not keep the host's devices from the container: {why} (--privileged gives them all)"
        ))));
    }
    Ok(Groups {
        warnings: trouble.warnings(),
        ..groups
    })
}

/// Makes groups where they are needed and there are none yet, and bounds all of them.
fn make_new(config: &ContainerConfig, existing: &[PathBuf], trouble: &mut Unenforced) -> Groups {
    let limits = &config.limits;
    let resources = limits.resources();
    let layout = Layout::detect();
    let mut groups = Groups::default();
    let path = place(&layout, config);
    let mut why = UNDELEGATED.to_owned();
    for (dir, controllers) in wanted(&layout, config, path.as_deref(), &resources) {
        if existing.contains(&dir) {
            continue;
        }
        match make_group(&dir, controllers, layout.is_unified(), Some(&resources)) {
            Ok(door) => {
                groups.doors.push(door);
                groups.dirs.push(dir);
            }
            Err(error) if super::refused(&error) => {}
            Err(error) => why = format!("could not make {}: {error}", dir.display()),
        }
    }
    if layout.is_unified() {
        version_1_only(limits, trouble);
    }
    let all = [existing, &groups.dirs].concat();
    let barred = match layout.is_unified() {
        true => !all.is_empty(),
        false => find(&all, "devices").is_some(),
    };
    if !limits.devices.is_empty() && !barred {
        trouble.add(DEVICES, why.clone());
    }
    let root = rustix::process::geteuid().is_root();
    let mut complain = |one: Trouble<'_>| {
        let missing = format!("this host has no {} control group", one.controller);
        // Who may make groups has one wherever there is the hierarchy.
        let no_group = if root && !one.controller.is_empty() {
            &missing
        } else {
            &why
        };
        trouble.take(&one, limits, no_group);
        Ok(())
    };
    // Nothing is made an error of.
    let _complained = apply(&layout, &all, &resources, true, &mut complain);
    groups
}

/// What version 2 has no files for.
fn version_1_only(limits: &Limits, trouble: &mut Unenforced) {
    let asked = [
        (limits.swappiness.is_some(), "--memory-swappiness"),
        (limits.oom_kill_disable, "--oom-kill-disable"),
        (limits.cpu_rt_period_us.is_some(), "--cpu-rt-period"),
        (limits.cpu_rt_runtime_us.is_some(), "--cpu-rt-runtime"),
    ];
    for (_, option) in asked.into_iter().filter(|(asked, _)| *asked) {
        trouble.add(option, VERSION_1_ONLY);
    }
}

/// Brings the groups of a running container in line with its limits, making those that are
/// missing; what could not be honoured.
///
/// # Errors
///
/// When its processes cannot be found.
pub(crate) fn update(
    dir: &Path,
    config: &ContainerConfig,
    groups: &[PathBuf],
) -> Result<Vec<String>, RunnerError> {
    let mut trouble = Unenforced::default();
    let new = make_new(config, groups, &mut trouble);
    if !new.dirs.is_empty() {
        remember(dir, &new.dirs)?;
        gather(dir, &new.dirs)?;
    }
    Ok(trouble.warnings())
}

/// The groups of a container that were made after its start.
pub(crate) fn late(dir: &Path) -> Vec<PathBuf> {
    let bytes = crate::files::read_bounded(&dir.join(LATE), LATE_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(PathBuf::from).collect()
}

/// Writes down groups before anybody enters them.
fn remember(dir: &Path, groups: &[PathBuf]) -> Result<(), RunnerError> {
    let mut all = late(dir);
    all.extend(groups.iter().cloned());
    let lines: Vec<String> = all
        .iter()
        .map(|group| format!("{}\n", group.display()))
        .collect();
    crate::files::write_atomic(dir, LATE, lines.concat().as_bytes())
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
    let mut groups = state.cgroups;
    let freezes = |group: &PathBuf| group.join("cgroup.freeze").is_file();
    if freeze && find(&groups, "freezer").is_none() && !groups.iter().any(freezes) {
        let group = freezer(&id)?;
        remember(dir, std::slice::from_ref(&group))?;
        gather(dir, std::slice::from_ref(&group))?;
        groups.push(group);
    }
    super::freeze(&groups, freeze)
}

fn already(id: &str, what: &str) -> RunnerError {
    RunnerError::Failed(Failure::setup(format!("container {id} is {what}")))
}

/// Makes a group that can be frozen.
fn freezer(id: &str) -> Result<PathBuf, RunnerError> {
    let layout = Layout::detect();
    let none = || RunnerError::Unsupported(NO_GROUP);
    let path = format!("{}/{id}", own_place(&layout).ok_or_else(none)?);
    let places = layout
        .places(Some(&path), id)
        .map_err(RunnerError::Failed)?;
    let freezes = |controllers: &[String]| controllers.iter().any(|name| name == "freezer");
    let found = places
        .into_iter()
        .find(|(_, controllers)| layout.is_unified() || freezes(controllers));
    let (group, controllers) = found.ok_or_else(none)?;
    make_group(&group, controllers, layout.is_unified(), None).map_err(|_| none())?;
    Ok(group)
}

/// Brings all processes of a container into groups.
fn gather(dir: &Path, groups: &[PathBuf]) -> Result<(), RunnerError> {
    let mut before = Vec::new();
    for _ in 0..GATHER_ROUNDS_MAX {
        let now = crate::container::processes(dir)?;
        if now == before {
            break;
        }
        for (group, pid) in groups
            .iter()
            .flat_map(|group| now.iter().map(move |pid| (group, pid)))
        {
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
pub(crate) fn remove(dir: &Path, groups: &[PathBuf]) {
    let late = late(dir);
    if !late.is_empty() {
        super::remove(&late);
        let _gone = std::fs::remove_file(dir.join(LATE));
    }
    super::remove(groups);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_names_all_options_of_one_reason() {
        let mut trouble = Unenforced::default();
        let limits = Limits {
            cpu_milli: Some(500),
            ..Limits::default()
        };
        for file in [
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
        ] {
            let one = Trouble {
                file,
                controller: "memory",
                optional: false,
                error: None,
            };
            trouble.take(&one, &limits, "why");
        }
        assert_eq!(
            trouble.warnings(),
            ["--memory, --cpus are not enforced: why"]
        );
    }

    #[test]
    fn groups_are_below_the_parent_that_was_asked_for() {
        let layout = Layout::parse("1:memory:/own\n", false, |_| true);
        let place = |parent: &str| {
            let config = ContainerConfig {
                id: "id".to_owned(),
                limits: Limits {
                    parent: parent.to_owned(),
                    ..Limits::default()
                },
                ..ContainerConfig::default()
            };
            place(&layout, &config)
        };
        assert_eq!(place("/a/b/").as_deref(), Some("/a/b/id"));
        assert_eq!(place("b").as_deref(), Some("b/id"));
        assert_eq!(place("x.slice").as_deref(), Some("x.slice:rrun:id"));
    }
}
