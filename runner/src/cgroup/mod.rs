//! Control groups of containers and bundles: where they are, making, entering, freezing and
//! removing them. [`front`] is what containers of our own do with them.
//!
//! Version 1 and hybrid hosts: one directory in every version 1 hierarchy that is mounted below
//! `/sys/fs/cgroup`. Version 2: one directory. Without `D-Bus`, names in systemd's form
//! (`slice:prefix:name`) become the directories that systemd would make.

mod devices;
mod files;
mod freeze;
pub(crate) mod front;

pub(crate) use freeze::{freeze, frozen, thaw_process};

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{At, Failure, RunnerError};
use crate::oci::spec::Resources;
use crate::oci::step::Hierarchy;

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The directory of groups whose bundles name none.
const PARENT: &str = "rrun-oci";
/// Times a group is tried to be removed or frozen: its processes need a moment to end or stop.
const PATIENCE_ROUNDS: u32 = 100;
/// Milliseconds between two tries; with [`PATIENCE_ROUNDS`] one second in all.
const PATIENCE_MS: u64 = 10;
/// Deepest group looked into below a container's own, as containers may nest.
const DEPTH_MAX: usize = 32;

/// A version 1 hierarchy of the host.
#[derive(Debug, Clone)]
struct Mounted {
    /// Its directory below [`ROOT`].
    dir: String,
    /// Its controllers, or `name=systemd`.
    controllers: Vec<String>,
    /// The group this process is in.
    own: String,
}

/// The control groups of this host.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Version 1 hierarchies; none on a version 2 host.
    split: Vec<Mounted>,
    /// The version 2 group this process is in, on a version 2 host.
    unified: Option<String>,
}

/// In which version 1 hierarchies a container gets a group; entering each costs time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// In all.
    All,
    /// Where something is asked for, and in the freezer, which every container wants sooner or
    /// later.
    Needed,
    /// Where something is asked for.
    Bounds,
}

/// What a configuration says of control groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// The container's id.
    pub(crate) id: &'a str,
    /// Where its group is to be.
    pub(crate) path: Option<&'a str>,
    /// What bounds it.
    pub(crate) resources: Option<&'a Resources>,
    /// Which hierarchies it is to be in.
    pub(crate) reach: Reach,
}

/// A bound that could not be set.
#[derive(Debug)]
pub(crate) struct Trouble<'w> {
    /// The file that holds it.
    pub(crate) file: &'w str,
    /// The version 1 controller; empty in version 2.
    pub(crate) controller: &'static str,
    /// Whether a host without the file is fine.
    pub(crate) optional: bool,
    /// Why; `None` when there is no group for it.
    pub(crate) error: Option<RunnerError>,
}

/// Hears of each bound that could not be set; an error ends the work.
pub(crate) type Complaint<'c> = &'c mut dyn FnMut(Trouble<'_>) -> Result<(), RunnerError>;

/// The groups of one container.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Their directories.
    pub(crate) dirs: Vec<PathBuf>,
    /// Their doors: who has one thread and writes 0 enters.
    pub(crate) doors: Vec<File>,
}

impl Layout {
    /// Looks at this host.
    pub(crate) fn detect() -> Self {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unified = Path::new(ROOT).join("cgroup.controllers").is_file();
        Self::parse(&text, unified, |dir| Path::new(ROOT).join(dir).is_dir())
    }

    /// Source: `cgroups(7)`, `/proc/pid/cgroup`.
    fn parse(text: &str, is_unified: bool, mounted: impl Fn(&str) -> bool) -> Self {
        let mut layout = Self {
            split: Vec::new(),
            unified: None,
        };
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(own)) = (fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                if is_unified {
                    layout.unified = Some(own.to_owned());
                }
                continue;
            }
            let dir = controllers.strip_prefix("name=").unwrap_or(controllers);
            if !is_unified && mounted(dir) {
                layout.split.push(Mounted {
                    dir: dir.to_owned(),
                    controllers: controllers.split(',').map(str::to_owned).collect(),
                    own: own.to_owned(),
                });
            }
        }
        layout
    }

    /// Whether this host has version 2 only.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified.is_some()
    }

    /// Whether a container gets a group in this hierarchy.
    fn uses(&self, wish: &Wish<'_>, controllers: &[String]) -> bool {
        let freezer = || controllers.iter().any(|name| name == "freezer");
        let bounds = || files::concerned(controllers, wish.resources);
        self.is_unified()
            || match wish.reach {
                Reach::All => true,
                Reach::Needed => freezer() || bounds(),
                Reach::Bounds => bounds(),
            }
    }

    /// Where a container's groups are: directory and controllers of each.
    fn places(&self, path: Option<&str>, id: &str) -> Result<Vec<(PathBuf, &[String])>, Failure> {
        let inside = |own: &str| group_path(path, id, own);
        if let Some(own) = &self.unified {
            return Ok(vec![(Path::new(ROOT).join(inside(own)?), &[][..])]);
        }
        self.split
            .iter()
            .map(|mounted| {
                let base = Path::new(ROOT).join(&mounted.dir);
                let place = base.join(inside(&mounted.own)?);
                Ok((place, mounted.controllers.as_slice()))
            })
            .collect()
    }

    /// How a container sees its groups.
    pub(crate) fn shown(&self, path: Option<&str>, id: &str) -> Result<Vec<Hierarchy>, Failure> {
        let places = self.places(path, id)?;
        Ok(self
            .split
            .iter()
            .zip(places)
            .map(|(mounted, (group, controllers))| {
                let named = controllers.iter().any(|name| name.starts_with("name="));
                let mut options = controllers.to_vec();
                if named {
                    options.insert(0, "none".to_owned());
                }
                Hierarchy {
                    name: mounted.dir.clone(),
                    options,
                    group,
                }
            })
            .collect())
    }
}

/// The path of a container's group below the root of a hierarchy.
fn group_path(path: Option<&str>, id: &str, own: &str) -> Result<PathBuf, Failure> {
    let text = match path {
        None | Some("") => return Ok(Path::new(PARENT).join(id)),
        Some(text) => text,
    };
    let parts: Vec<&str> = text.split(':').collect();
    let joined = match parts.as_slice() {
        [slice, prefix, name] => systemd_path(slice, prefix, name),
        _ if text.starts_with('/') => PathBuf::from(text.trim_start_matches('/')),
        _ => Path::new(own.trim_start_matches('/')).join(text),
    };
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !joined.components().all(plain) {
        return Err(Failure::setup(format!("invalid cgroupsPath {text}")));
    }
    Ok(joined)
}

/// The directory systemd makes for a scope: `a-b.slice` lies in `a.slice`.
///
/// Source: `systemd.slice(5)`.
fn systemd_path(slice: &str, prefix: &str, name: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut seen = String::new();
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        if !seen.is_empty() {
            seen.push('-');
        }
        seen.push_str(part);
        path.push(format!("{seen}.slice"));
    }
    if Path::new(name)
        .extension()
        .is_some_and(|end| end == "slice")
    {
        path.push(name);
    } else if prefix.is_empty() {
        path.push(format!("{name}.scope"));
    } else {
        path.push(format!("{prefix}-{name}.scope"));
    }
    path
}

/// The directories [`make`] will make.
pub(crate) fn planned(layout: &Layout, wish: &Wish<'_>) -> Result<Vec<PathBuf>, Failure> {
    let all = layout.places(wish.path, wish.id)?.into_iter();
    let used = all.filter(|(_, controllers)| layout.uses(wish, controllers));
    Ok(used.map(|(dir, _)| dir).collect())
}

/// Makes the groups of a container and bounds them.
///
/// Who may not make groups gets none, unless something was asked of them.
///
/// # Errors
///
/// When a bound cannot be set.
pub(crate) fn make(layout: &Layout, wish: &Wish<'_>) -> Result<Groups, RunnerError> {
    let mut groups = Groups::default();
    let resources = wish.resources;
    let wanted = resources.is_some_and(|resources| !resources.is_empty());
    for (dir, controllers) in layout
        .places(wish.path, wish.id)
        .map_err(RunnerError::Failed)?
    {
        if !layout.uses(wish, controllers) {
            continue;
        }
        match make_group(&dir, controllers, layout.is_unified(), resources) {
            Ok(door) => {
                groups.doors.push(door);
                groups.dirs.push(dir);
            }
            Err(error) if refused(&error) && !(wanted && rustix::process::geteuid().is_root()) => {}
            Err(error) => {
                remove(&groups.dirs);
                return Err(error).at("make the control group", dir);
            }
        }
    }
    if let Some(resources) = resources
        && let Err(error) = apply(layout, &groups.dirs, resources, true, &mut strict)
    {
        remove(&groups.dirs);
        return Err(error);
    }
    Ok(groups)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS)
    )
}

fn make_group(
    dir: &Path,
    controllers: &[String],
    unified: bool,
    resources: Option<&Resources>,
) -> io::Result<File> {
    let mut made = PathBuf::from(ROOT);
    for part in dir.strip_prefix(ROOT).unwrap_or(dir).components() {
        if unified && let Some(words) = resources.map(files::unified_controllers) {
            // What could not be enabled shows when the bounds are written.
            let control = made.join("cgroup.subtree_control");
            for word in words {
                let _refused = std::fs::write(&control, format!("+{word}"));
            }
        }
        made.push(part);
        match std::fs::create_dir(&made) {
            Ok(()) => {
                if controllers.iter().any(|name| name == "cpuset") {
                    inherit_cpuset(&made)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    open_door(dir)
}

/// Opens the file of a group by which a process with one thread enters. Where threads have groups,
/// it is the one for threads: a thread that moves itself is let in at once, while a move of whole
/// processes makes the kernel wait until all processors have noticed, 5 to 20 ms.
///
/// Source: `cgroups(7)`, "cgroups version 1"; Linux, `cgroup_procs_write_start`.
fn open_door(dir: &Path) -> io::Result<File> {
    let open = |name: &str| {
        let mut options = File::options();
        options.write(true).custom_flags(libc::O_CLOEXEC);
        options.open(dir.join(name))
    };
    // Version 2 has no such file; version 1 may have handed the other one on alone.
    open("tasks").or_else(|_| open("cgroup.procs"))
}

/// Puts this process, which has one thread, into groups that exist already.
pub(crate) fn enter(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        io::Write::write_all(&mut open_door(dir)?, b"0")?;
    }
    Ok(())
}

/// A new version 1 cpuset is empty, and so may hold nobody, until it is given something.
fn inherit_cpuset(dir: &Path) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let parent = dir.parent().ok_or_else(invalid)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if std::fs::read_to_string(dir.join(file))?.trim().is_empty() {
            std::fs::write(dir.join(file), std::fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// What a bundle that asks for a bound it cannot have gets: an error, or nothing for an ordinary
/// user, who has no groups.
pub(crate) fn strict(trouble: Trouble<'_>) -> Result<(), RunnerError> {
    let rootless = !rustix::process::geteuid().is_root();
    match trouble.error {
        Some(error) => Err(error),
        None if rootless || trouble.optional => Ok(()),
        None => Err(RunnerError::Failed(Failure::setup(format!(
            "could not set {}: the host has no {} control group",
            trouble.file, trouble.controller
        )))),
    }
}

/// Bounds the groups of a container. `fresh` ones are also told which devices may be used.
///
/// # Errors
///
/// What `complain` makes one of.
pub(crate) fn apply(
    layout: &Layout,
    dirs: &[PathBuf],
    resources: &Resources,
    fresh: bool,
    complain: Complaint<'_>,
) -> Result<(), RunnerError> {
    if layout.is_unified() {
        for write in files::unified(resources) {
            set(&write, dirs.first(), complain)?;
        }
        if fresh
            && !resources.devices.is_empty()
            && let Some(dir) = dirs.first()
            && let Err(error) = devices::attach_program(dir, &resources.devices)
        {
            complain(devices::trouble(error))?;
        }
        return Ok(());
    }
    for write in files::split(resources)? {
        let has = |mounted: &&Mounted| mounted.controllers.iter().any(|c| *c == write.controller);
        let base = layout.split.iter().find(has);
        let base = base.map(|mounted| Path::new(ROOT).join(&mounted.dir));
        let dir = base.and_then(|base| dirs.iter().find(|dir| dir.starts_with(&base)));
        set(&write, dir, complain)?;
    }
    if fresh && let Some(dir) = find(dirs, "devices") {
        for (file, rule) in devices::split_rules(&resources.devices) {
            let path = dir.join(file);
            if let Err(error) = std::fs::write(&path, rule).at("write", path) {
                complain(devices::trouble(error))?;
            }
        }
    }
    Ok(())
}

/// Writes one bound, and complains where that fails.
fn set(
    write: &files::Write,
    dir: Option<&PathBuf>,
    complain: Complaint<'_>,
) -> Result<(), RunnerError> {
    let error = match dir {
        None => None,
        Some(dir) => match write.perform(dir) {
            Ok(()) => return Ok(()),
            Err(error) => Some(error),
        },
    };
    complain(Trouble {
        file: &write.file,
        controller: write.controller,
        optional: write.is_optional(),
        error,
    })
}

/// The group in the hierarchy of this name.
fn find<'a>(dirs: &'a [PathBuf], name: &str) -> Option<&'a PathBuf> {
    let base = Path::new(ROOT).join(name);
    dirs.iter().find(|dir| dir.starts_with(&base))
}

/// Opens the doors of groups that exist, or of a group below each of them.
///
/// # Errors
///
/// When a group is gone.
pub(crate) fn doors(dirs: &[PathBuf], below: Option<&str>) -> Result<Vec<File>, RunnerError> {
    let mut doors = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let dir = match below {
            None => dir.clone(),
            Some(name) => {
                let name = Path::new(name.trim_start_matches('/'));
                let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
                if !name.components().all(plain) {
                    let text = format!("invalid control group {}", name.display());
                    return Err(RunnerError::Failed(Failure::setup(text)));
                }
                dir.join(name)
            }
        };
        doors.push(open_door(&dir).at("open the control group", dir)?);
    }
    Ok(doors)
}

/// The processes in the groups of a container, groups below them included.
pub(crate) fn processes(dirs: &[PathBuf]) -> Vec<i32> {
    let mut pids = Vec::new();
    // Any of them holds all; the freezer's cannot be left by accident.
    let Some(dir) = find(dirs, "freezer").or_else(|| dirs.first()) else {
        return pids;
    };
    collect(dir, DEPTH_MAX, &mut pids);
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn collect(dir: &Path, depth: usize, pids: &mut Vec<i32>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    let Some(below) = depth.checked_sub(1) else {
        return;
    };
    for inner in children(dir) {
        collect(&inner, below, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes groups and those below them; what is gone is no error, what stays busy is left.
pub(crate) fn remove(dirs: &[PathBuf]) {
    // Killed processes leave their groups a moment after they have ended; all groups together get
    // one measure of patience, as a foreign process in there may stay for ever.
    let mut rounds = PATIENCE_ROUNDS;
    for dir in dirs {
        while let Err(error) = remove_one(dir, DEPTH_MAX) {
            if error.raw_os_error() != Some(libc::EBUSY) || rounds == 0 {
                break;
            }
            rounds -= 1;
            std::thread::sleep(std::time::Duration::from_millis(PATIENCE_MS));
        }
    }
}

fn remove_one(dir: &Path, depth: usize) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if depth == 0 => return Err(error),
        Err(_) => {}
    }
    for inner in children(dir) {
        remove_one(&inner, depth.saturating_sub(1))?;
    }
    std::fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let text = "3:cpu,cpuacct:/a\n2:name=systemd:/\n1:memory:/\n0::/user\n";
        let split = Layout::parse(text, false, |dir| dir != "memory");
        assert!(!split.is_unified());
        let dirs: Vec<_> = split.split.iter().map(|m| m.dir.as_str()).collect();
        assert_eq!(dirs, ["cpu,cpuacct", "systemd"]);
        let places = split.places(Some("x/y"), "id").unwrap();
        assert_eq!(places[0].0, Path::new("/sys/fs/cgroup/cpu,cpuacct/a/x/y"));
        let unified = Layout::parse(text, true, |_| true);
        let places = unified.places(None, "id").unwrap();
        assert_eq!(places[0].0, Path::new("/sys/fs/cgroup/rrun-oci/id"));
    }

    #[test]
    fn a_thread_enters_by_the_door_for_threads() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().to_owned();
        let written = |name: &str| std::fs::read_to_string(group.join(name)).unwrap_or_default();
        assert!(enter(std::slice::from_ref(&group)).is_err());
        std::fs::write(group.join("cgroup.procs"), "").unwrap();
        enter(std::slice::from_ref(&group)).unwrap();
        assert_eq!(written("cgroup.procs"), "0");
        std::fs::write(group.join("tasks"), "").unwrap();
        enter(std::slice::from_ref(&group)).unwrap();
        assert_eq!(written("tasks"), "0");
    }

    #[test]
    fn paths_are_absolute_relative_or_systemds() {
        let cases = [
            (Some("/a/b"), "a/b"),
            (Some("b"), "own/b"),
            (
                Some("user-1.slice:rrun:x"),
                "user.slice/user-1.slice/rrun-x.scope",
            ),
            (Some(":rrun:x"), "system.slice/rrun-x.scope"),
            (None, "rrun-oci/id"),
        ];
        for (path, expected) in cases {
            let made = group_path(path, "id", "/own").unwrap();
            assert_eq!(made, Path::new(expected), "input {path:?}");
        }
        assert!(group_path(Some("/../x"), "id", "/").is_err());
    }
}
