//! From a bundle's configuration to a plan.

use std::path::{Path, PathBuf};

use super::check::{check, check_sysctl};
use super::names::NAMESPACES;
use super::options::{self, MountOptions};
use super::spec::{Device, Linux, Mount, Process, Rlimit, Spec};
use super::step::{BundleMount, BundleMountKind, BundleStep, Hierarchy, Node, Source};
use crate::caps::CapSet;
use crate::config::{Rlimit as Limit, Seccomp};
use crate::error::Failure;
use crate::plan::{Exact, Plan, ProcessSpec, Step};
use crate::sys;

/// Device nodes every container has: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
/// What planning needs to know besides the configuration.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// The bundle's directory, absolute.
    pub(crate) bundle: PathBuf,
    /// Version 1 hierarchies as the container sees them.
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// Whether the root is moved instead of pivoted to.
    pub(crate) no_pivot: bool,
    /// Descriptors past the standard streams to be inherited.
    pub(crate) preserved_fds: u32,
}

/// The namespaces of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` bits of those to make.
    pub(crate) fresh: u64,
    /// Those to enter, user first: bit and file.
    pub(crate) join: Vec<(u64, PathBuf)>,
}

impl Namespaces {
    /// Reads the list of the configuration.
    pub(crate) fn parse(linux: &Linux) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        let mut seen = 0;
        for namespace in &linux.namespaces {
            let known = NAMESPACES.iter().find(|(name, ..)| *name == namespace.kind);
            let Some((_, bit, _)) = known else {
                return Err(invalid(format!("unknown namespace {}", namespace.kind)));
            };
            if seen & bit != 0 {
                return Err(invalid(format!(
                    "namespace {} is given twice",
                    namespace.kind
                )));
            }
            seen |= bit;
            match namespace
                .path
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty())
            {
                None => parsed.fresh |= bit,
                Some(path) if path.is_absolute() => parsed.join.push((*bit, path.clone())),
                Some(path) => {
                    let text = format!("namespace path {} is not absolute", path.display());
                    return Err(invalid(text));
                }
            }
        }
        let order = |bit: u64| NAMESPACES.iter().position(|(_, known, _)| *known == bit);
        parsed.join.sort_by_key(|(bit, _)| order(*bit));
        Ok(parsed)
    }

    /// Whether the container has a namespace of this kind that is not the runtime's.
    pub(crate) fn has(&self, bit: u64) -> bool {
        self.fresh & bit != 0 || self.join.iter().any(|(kind, _)| *kind == bit)
    }
}

pub(crate) fn invalid(text: impl Into<String>) -> Failure {
    Failure::setup(format!("invalid configuration: {}", text.into()))
}

/// Computes what creating a container from `spec` does.
pub(crate) fn plan(
    spec: &Spec,
    namespaces: &Namespaces,
    around: &Surroundings,
) -> Result<Plan, Failure> {
    check(spec)?;
    let mut steps = vec![bundle(BundleStep::EnterCgroups {
        own_namespace: namespaces.fresh & sys::CLONE_NEWCGROUP != 0,
    })];
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| invalid("there is no root"))?;
    let root_path = around.bundle.join(&root.path);
    let fresh_user = namespaces.fresh & sys::CLONE_NEWUSER != 0;
    if namespaces.has(sys::CLONE_NEWNS) {
        push_file_system(&mut steps, spec, namespaces, around, &root_path)?;
    } else {
        if !spec.mounts.is_empty() && fresh_user {
            return Err(invalid("mounts need a mount namespace"));
        }
        if fresh_user {
            steps.push(Step::BecomeMappedRoot);
        }
        push_hooks(&mut steps, spec);
        steps.push(bundle(BundleStep::ChangeRoot(root_path)));
    }
    push_names(&mut steps, spec, namespaces)?;
    if let Some(process) = &spec.process {
        let policy = spec.linux.memory_policy.clone();
        steps.extend(policy.map(|policy| bundle(BundleStep::MemoryPolicy(policy))));
        push_process(&mut steps, process);
    }
    if let Some(personality) = &spec.linux.personality {
        let domain = match personality.domain.as_str() {
            "LINUX" => 0,
            "LINUX32" => 8,
            other => return Err(invalid(format!("unknown personality {other}"))),
        };
        steps.push(bundle(BundleStep::Personality(domain)));
    }
    if let Some(process) = &spec.process {
        steps.push(Step::Execute(process_spec(process, around.preserved_fds)));
    }
    Ok(Plan {
        namespaces: namespaces.fresh & !(sys::CLONE_NEWCGROUP | sys::CLONE_NEWTIME),
        steps,
    })
}

fn bundle(step: BundleStep) -> Step {
    Step::Bundle(step)
}

fn push_hooks(steps: &mut Vec<Step>, spec: &Spec) {
    let hooks = &spec.hooks;
    let outside = [&hooks.prestart, &hooks.create_runtime];
    let inside = [&hooks.create_container, &hooks.start_container];
    if outside
        .into_iter()
        .chain(inside)
        .any(|list| !list.is_empty())
        || !spec.linux.net_devices.is_empty()
    {
        steps.push(bundle(BundleStep::AwaitRuntime));
    }
    if !hooks.create_container.is_empty() {
        steps.push(bundle(BundleStep::RunHooks(hooks.create_container.clone())));
    }
}

/// Everything about mounts, from the first to the change of the root.
fn push_file_system(
    steps: &mut Vec<Step>,
    spec: &Spec,
    namespaces: &Namespaces,
    around: &Surroundings,
    root: &Path,
) -> Result<(), Failure> {
    let linux = &spec.linux;
    let propagation = match linux.rootfs_propagation.as_deref() {
        None | Some("") => libc::MS_SLAVE | libc::MS_REC,
        Some(word) => match options::propagation(word) {
            (0, _) => return Err(invalid(format!("unknown rootfsPropagation {word}"))),
            (bits, _) if bits == libc::MS_UNBINDABLE => libc::MS_PRIVATE | libc::MS_REC,
            (bits, recursive) => bits | if recursive { libc::MS_REC } else { 0 },
        },
    };
    let mounts: Vec<(BundleMount, Option<Source>)> = spec
        .mounts
        .iter()
        .map(|mount| resolve(mount, namespaces, around))
        .collect::<Result<_, _>>()?;
    let fresh_user = namespaces.fresh & sys::CLONE_NEWUSER != 0;
    steps.push(bundle(BundleStep::OpenSources {
        root: root.to_owned(),
        propagation,
        sources: mounts.iter().map(|(_, source)| source.clone()).collect(),
    }));
    if fresh_user {
        steps.push(Step::BecomeMappedRoot);
    }
    steps.push(bundle(BundleStep::MountRoot(root.to_owned())));
    let bound_dev = mounts
        .iter()
        .any(|(mount, source)| source.is_some() && mount.destination == Path::new("/dev"));
    let list = mounts.into_iter().enumerate();
    steps.extend(list.map(|(number, (mount, _))| bundle(BundleStep::Mount(number, mount))));
    if !bound_dev {
        steps.push(bundle(BundleStep::MakeDevices {
            nodes: nodes(&linux.devices)?,
            links: true,
            bind: fresh_user,
        }));
    }
    push_hooks(steps, spec);
    if spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal)
    {
        steps.push(bundle(BundleStep::OpenTerminal));
    }
    push_protection(steps, spec);
    steps.push(if around.no_pivot {
        bundle(BundleStep::MoveRoot)
    } else {
        Step::PivotRoot
    });
    if let Some(word) = linux.rootfs_propagation.as_deref() {
        let (bits, recursive) = options::propagation(word);
        // A pivot does not take a shared root, so this comes last.
        if bits != libc::MS_SLAVE && bits != 0 {
            let bits = bits | if recursive { libc::MS_REC } else { 0 };
            steps.push(bundle(BundleStep::RootPropagation(bits)));
        }
    }
    Ok(())
}

/// What of the file system is hidden or cannot be written.
fn push_protection(steps: &mut Vec<Step>, spec: &Spec) {
    let linux = &spec.linux;
    if let Some(process) = &spec.process {
        // Made while the root can still be written.
        steps.push(bundle(BundleStep::MakeDirectory(
            process.cwd.clone().into(),
        )));
    }
    for path in &linux.readonly_paths {
        steps.push(bundle(BundleStep::Protect(path.clone())));
    }
    for path in &linux.masked_paths {
        steps.push(bundle(BundleStep::Hide(path.clone())));
    }
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        steps.push(Step::ReadOnlyRoot);
    }
}

/// Reads one mount, and where it comes from when it is a bind mount.
fn resolve(
    mount: &Mount,
    namespaces: &Namespaces,
    around: &Surroundings,
) -> Result<(BundleMount, Option<Source>), Failure> {
    let mut options = MountOptions::parse(&mount.options);
    if options.id_mapped.is_none()
        && !(mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty())
    {
        options.id_mapped = Some(false);
    }
    let is_bind = mount.kind == "bind" || options.bind.is_some();
    // Before version 1.1 a relative destination meant one below the root.
    let destination = Path::new("/").join(&mount.destination);
    let (kind, source) = if is_bind && !options.remount {
        if mount.source.as_os_str().is_empty() {
            let text = format!("the bind mount on {} has no source", destination.display());
            return Err(invalid(text));
        }
        let source = Source {
            path: around.bundle.join(&mount.source),
            follow: !options.source_nofollow,
            recursive: options.bind == Some(true),
            copy_symlink: options.copy_symlink,
        };
        (BundleMountKind::Bind, Some(source))
    } else if mount.kind == "cgroup" {
        let kind = BundleMountKind::Cgroup {
            hierarchies: around.hierarchies.clone(),
            namespaced: namespaces.has(sys::CLONE_NEWCGROUP),
        };
        (kind, None)
    } else {
        let source = mount.source.to_string_lossy().into_owned();
        (BundleMountKind::New(mount.kind.clone(), source), None)
    };
    let resolved = BundleMount {
        destination,
        kind,
        options,
    };
    Ok((resolved, source))
}

/// The nodes of a container: those every container has, and its own, which win.
fn nodes(devices: &[Device]) -> Result<Vec<Node>, Failure> {
    let own = |path: &str| devices.iter().any(|device| device.path == Path::new(path));
    let standard = DEVICES.iter().filter(|(path, ..)| !own(path));
    let standard = standard.map(|(path, major, minor)| Node {
        path: PathBuf::from(path),
        kind: 'c',
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let own = devices.iter().map(|device| {
        let bad = |what: &str| invalid(format!("device {}: {what}", device.path.display()));
        let kind = match device.kind.as_str() {
            "c" | "u" => 'c',
            "b" => 'b',
            "p" => 'p',
            _ => return Err(bad("unknown type")),
        };
        if !device.path.is_absolute() {
            return Err(bad("the path is not absolute"));
        }
        let number = |value: i64| u32::try_from(value).map_err(|_| bad("a number is negative"));
        Ok(Node {
            path: device.path.clone(),
            kind,
            major: number(device.major)?,
            minor: number(device.minor)?,
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            uid: device.uid.unwrap_or_default(),
            gid: device.gid.unwrap_or_default(),
        })
    });
    standard.map(Ok).chain(own).collect()
}

/// What belongs to namespaces other than that of mounts.
fn push_names(steps: &mut Vec<Step>, spec: &Spec, namespaces: &Namespaces) -> Result<(), Failure> {
    if namespaces.fresh & sys::CLONE_NEWNET != 0 {
        steps.push(Step::LoopbackUp);
    }
    let own_names = namespaces.has(sys::CLONE_NEWUTS);
    for (what, name) in [
        ("hostname", &spec.hostname),
        ("domainname", &spec.domainname),
    ] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !own_names {
            return Err(invalid(format!("{what} needs a uts namespace")));
        }
        steps.push(if what == "hostname" {
            Step::SetHostname(name.clone())
        } else {
            bundle(BundleStep::SetDomainname(name.clone()))
        });
    }
    for (key, value) in &spec.linux.sysctl {
        let same = spec.domainname.as_ref().is_none_or(|name| name == value);
        if key == "kernel.domainname" && !same {
            return Err(invalid("domainname and sysctl kernel.domainname differ"));
        }
        check_sysctl(key, namespaces)?;
        steps.push(bundle(BundleStep::Sysctl(key.clone(), value.clone())));
    }
    Ok(())
}

/// What is set of the process before it is executed.
pub(crate) fn push_process(steps: &mut Vec<Step>, process: &Process) {
    steps.extend(
        process
            .rlimits
            .iter()
            .map(|limit| Step::SetRlimit(rlimit(limit))),
    );
    let score = process.oom_score_adj;
    steps.extend(score.map(|score| bundle(BundleStep::OomScore(score))));
    let scheduler = process.scheduler.clone();
    steps.extend(scheduler.map(|scheduler| bundle(BundleStep::Schedule(scheduler))));
    let priority = process.io_priority.clone();
    steps.extend(priority.map(|priority| bundle(BundleStep::IoPriority(priority))));
    for (file, prefix, label) in [
        ("apparmor/exec", "exec ", &process.apparmor_profile),
        ("exec", "", &process.selinux_label),
    ] {
        if let Some(label) = label.as_ref().filter(|label| !label.is_empty()) {
            let text = format!("{prefix}{label}");
            steps.push(bundle(BundleStep::Label(file.to_owned(), text)));
        }
    }
}

fn rlimit(limit: &Rlimit) -> Limit {
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    let kind = limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind);
    Limit {
        kind: kind.to_ascii_lowercase(),
        soft: bound(limit.soft),
        hard: bound(limit.hard),
        required: true,
    }
}

/// A process of a bundle in the words of our own containers.
pub(crate) fn process_spec(process: &Process, preserved_fds: u32) -> ProcessSpec {
    let sets = process.capabilities.clone().unwrap_or_default();
    ProcessSpec {
        argv: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        makes_cwd: true,
        user: String::new(),
        group_add: Vec::new(),
        tty: process.terminal,
        caps: CapSet::named(&sets.bounding),
        no_new_privileges: process.no_new_privileges,
        seccomp: Seccomp::Unconfined,
        squash: false,
        init: false,
        preserved_fds,
        exact: Some(Exact {
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.clone(),
            keep_groups: false,
            umask: process.user.umask.unwrap_or(0o022),
            effective: CapSet::named(&sets.effective),
            permitted: CapSet::named(&sets.permitted),
            inheritable: CapSet::named(&sets.inheritable),
            ambient: CapSet::named(&sets.ambient),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    fn planned(json: &str) -> Result<Plan, Failure> {
        let spec = spec(json);
        let namespaces = Namespaces::parse(&spec.linux)?;
        plan(&spec, &namespaces, &Surroundings::default())
    }

    const PLAIN: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs","readonly":true},
        "process":{"args":["true"],"cwd":"/","terminal":true},
        "mounts":[{"destination":"/proc","type":"proc"}],"hostname":"box",
        "linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"pid"}],
                 "maskedPaths":["/proc/kcore"],"sysctl":{}}}"#;

    #[test]
    fn the_root_changes_once_everything_below_it_stands() {
        let plan = planned(PLAIN).unwrap();
        let position = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted).unwrap();
        let pivot = position(|step| matches!(step, Step::PivotRoot));
        let terminal = position(|s| matches!(s, Step::Bundle(BundleStep::OpenTerminal)));
        let mask = position(|s| matches!(s, Step::Bundle(BundleStep::Hide(_))));
        let protect = position(|step| matches!(step, Step::ReadOnlyRoot));
        let name = position(|step| matches!(step, Step::SetHostname(_)));
        assert!(terminal < mask && mask < protect && protect < pivot && pivot < name);
        assert!(matches!(plan.steps.last(), Some(Step::Execute(_))));
    }

    #[test]
    fn what_needs_a_namespace_is_refused_without_one() {
        let cases = [
            ("{\"type\":\"uts\"},", "uts namespace"),
            ("{\"type\":\"pid\"}", "given twice"),
        ];
        assert!(
            planned(&PLAIN.replace(cases[0].0, ""))
                .unwrap_err()
                .text
                .contains(cases[0].1)
        );
        let twice = PLAIN.replace(cases[1].0, "{\"type\":\"pid\"},{\"type\":\"pid\"}");
        assert!(planned(&twice).unwrap_err().text.contains(cases[1].1));
        for (key, ok) in [("net.ipv4.ip_forward", false), ("kernel.panic", false)] {
            let json = PLAIN.replace("\"sysctl\":{}", &format!("\"sysctl\":{{\"{key}\":\"1\"}}"));
            assert_eq!(planned(&json).is_ok(), ok, "input {key}");
        }
    }

    #[test]
    fn versions_and_processes_are_checked() {
        for (from, to) in [
            ("\"1.0.2\"", "\"2.0.0\""),
            ("\"1.0.2\"", "\"1.x\""),
            ("[\"true\"]", "[]"),
            ("\"cwd\":\"/\"", "\"cwd\":\"x\""),
        ] {
            assert!(planned(&PLAIN.replace(from, to)).is_err(), "input {to}");
        }
        assert!(planned(&PLAIN.replace("1.0.2", "1.2.0-rc.1")).is_ok());
    }
}
