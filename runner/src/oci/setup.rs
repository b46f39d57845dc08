//! Carries out the steps only bundles have, in init.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, fstat, makedev,
    mknodat, openat, openat2, symlinkat,
};
use rustix::mount::{MountPropagationFlags, mount_change, mount_move};

use super::place::{self, Ground, Opened};
use super::spec::Scheduler;
use super::step::{BundleStep, Node, Source};
use super::{hooks, names};
use crate::channel::{self, Message};
use crate::error::{Failure, Step as _};
use crate::init::{self, Line, Made};
use crate::{mounts, process, rooted, sys};

/// Links every container has in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Magic number of devpts. Source: `statfs(2)`.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// Magic number of procfs. Source: `statfs(2)`.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// What only the host's side can reach, opened before the root changes.
#[derive(Debug, Default)]
pub(crate) struct HostSide {
    /// The host's procfs: a handle the container cannot cover.
    pub(crate) proc: Option<OwnedFd>,
    /// Sources of bind mounts, by number.
    sources: Vec<Option<Opened>>,
}

/// Carries out one step.
pub(crate) fn carry_out(
    step: &BundleStep,
    line: &Line<'_>,
    made: &mut Made,
) -> Result<(), Failure> {
    match step {
        BundleStep::EnterCgroups { own_namespace } => init::enter_cgroups(line, *own_namespace),
        BundleStep::OpenSources {
            root,
            propagation,
            sources,
        } => open_sources(root, *propagation, sources, made),
        BundleStep::MountRoot(path) => mount_root(path, made),
        BundleStep::Mount(number, mount) => {
            let source = made.host.sources.get(*number).and_then(Option::as_ref);
            let mapped = line.mapped_trees.get(*number).and_then(Option::as_ref);
            let ground = Ground {
                root: init::root(made)?,
                source,
                mapped: mapped.map(AsFd::as_fd),
            };
            place::mount(mount, &ground)
        }
        BundleStep::MakeDevices { nodes, links, bind } => make_devices(nodes, *links, *bind, made),
        BundleStep::AwaitRuntime => await_runtime(line),
        BundleStep::RunHooks(list) => {
            let state = line.gate.map(|gate| gate.state.borrow().clone());
            hooks::run_all("createContainer", list, &state.unwrap_or_default())
        }
        BundleStep::OpenTerminal => open_terminal(line, made),
        BundleStep::MakeDirectory(path) => {
            make_directory(path, made);
            Ok(())
        }
        BundleStep::Hide(path) => hide(path, made).step(format_args!("hide {}", path.display())),
        BundleStep::Protect(path) => {
            protect(path, made).step(format_args!("protect {}", path.display()))
        }
        BundleStep::MoveRoot => move_root(made),
        BundleStep::ChangeRoot(path) => change_root(path),
        BundleStep::RootPropagation(bits) => {
            change("/", *bits).step("set the propagation of the root")
        }
        BundleStep::Sysctl(..)
        | BundleStep::SetDomainname(_)
        | BundleStep::OomScore(_)
        | BundleStep::Schedule(_)
        | BundleStep::IoPriority(_)
        | BundleStep::MemoryPolicy(_)
        | BundleStep::Personality(_)
        | BundleStep::Label(..) => tune(step, made),
    }
}

/// The steps that set something of the process or its namespaces.
fn tune(step: &BundleStep, made: &Made) -> Result<(), Failure> {
    match step {
        BundleStep::Sysctl(key, value) => {
            write_sysctl(key, value, made).step(format_args!("set the kernel parameter {key}"))
        }
        BundleStep::SetDomainname(name) => {
            rustix::system::setdomainname(name.as_bytes()).step("set the domain name")
        }
        BundleStep::OomScore(score) => {
            write_proc(made, "self/oom_score_adj", &score.to_string()).step("set oom_score_adj")
        }
        BundleStep::Schedule(scheduler) => schedule(scheduler),
        BundleStep::MemoryPolicy(policy) => {
            let (mode, nodes) = super::place_of_memory::parse(policy)?;
            sys::place::set_memory_policy(mode, &nodes).step("set the memory policy")
        }
        BundleStep::IoPriority(priority) => {
            let class = names::number(&names::IO_CLASSES, &priority.class)
                .ok_or_else(|| Failure::setup(format!("unknown class {}", priority.class)))?;
            sys::set_io_priority(class, priority.priority).step("set the I/O priority")
        }
        BundleStep::Personality(domain) => {
            sys::personality(*domain).step("set the execution domain")
        }
        BundleStep::Label(file, text) => {
            write_proc(made, &format!("self/attr/{file}"), text).step("set the security label")
        }
        BundleStep::EnterCgroups { .. }
        | BundleStep::OpenSources { .. }
        | BundleStep::MountRoot(_)
        | BundleStep::Mount(..)
        | BundleStep::MakeDevices { .. }
        | BundleStep::AwaitRuntime
        | BundleStep::RunHooks(_)
        | BundleStep::OpenTerminal
        | BundleStep::MakeDirectory(_)
        | BundleStep::Hide(_)
        | BundleStep::Protect(_)
        | BundleStep::MoveRoot
        | BundleStep::ChangeRoot(_)
        | BundleStep::RootPropagation(_) => Ok(()),
    }
}

/// Enters namespaces by their files.
pub(crate) fn join(list: &[(u64, std::path::PathBuf)]) -> Result<(), Failure> {
    for (kind, path) in list {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let what = format!("enter the namespace {}", path.display());
        let file = openat(CWD, path, flags, Mode::empty()).step(&what)?;
        sys::setns(file.as_fd(), *kind).step(&what)?;
    }
    Ok(())
}

fn change(path: &str, bits: u64) -> io::Result<()> {
    let bits = u32::try_from(bits).unwrap_or_default();
    Ok(mount_change(
        path,
        MountPropagationFlags::from_bits_retain(bits),
    )?)
}

fn open_sources(
    root: &Path,
    propagation: u64,
    sources: &[Option<Source>],
    made: &mut Made,
) -> Result<(), Failure> {
    change("/", propagation).step("set the propagation of the mounts")?;
    if propagation & libc::MS_SHARED != 0 {
        unshare_parent(root).step("make the mount below the root private")?;
    }
    open_host(made)?;
    for source in sources {
        let opened = source.as_ref().map(|source| {
            place::open_source(source).step(format_args!(
                "open the mount source {}",
                source.path.display()
            ))
        });
        made.host.sources.push(opened.transpose()?);
    }
    Ok(())
}

/// Opens the host's procfs while it can be reached.
pub(crate) fn open_host(made: &mut Made) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = openat(CWD, "/proc", flags, Mode::empty()).step("open /proc")?;
    if sys::filesystem_magic(proc.as_fd()).step("look at /proc")? != PROC_SUPER_MAGIC {
        return Err(Failure::setup("/proc of the host is no procfs"));
    }
    made.host.proc = Some(proc);
    Ok(())
}

/// A pivot needs a private mount below the root. Which one that is the kernel knows best: the
/// nearest directory upwards whose propagation can be changed is a mount.
fn unshare_parent(root: &Path) -> io::Result<()> {
    for dir in root.ancestors() {
        match mount_change(dir, MountPropagationFlags::PRIVATE) {
            Err(rustix::io::Errno::INVAL) => {}
            other => return Ok(other?),
        }
    }
    Ok(())
}

fn mount_root(path: &Path, made: &mut Made) -> Result<(), Failure> {
    let what = format!("use the root directory {}", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let point = openat(CWD, path, flags, Mode::empty()).step(&what)?;
    let mount = mounts::copy_path(path).step(&what)?;
    mounts::attach(mount.as_fd(), point.as_fd()).step("attach the root")?;
    made.root = Some(mount);
    Ok(())
}

fn make_devices(nodes: &[Node], links: bool, bind: bool, made: &Made) -> Result<(), Failure> {
    let root = init::root(made)?;
    for node in nodes {
        let what = format!("make the device {}", node.path.display());
        make_device(root, node, bind).step(what)?;
    }
    if !links {
        return Ok(());
    }
    let dev = rooted::make_dirs(root, Path::new("/dev")).step("open /dev")?;
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).step(format_args!("make /dev/{name}")),
        }
    }
    Ok(())
}

fn make_device(root: BorrowedFd<'_>, node: &Node, bind: bool) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let parent = rooted::make_dirs(root, node.path.parent().ok_or_else(invalid)?)?;
    let name = node.path.file_name().ok_or_else(invalid)?;
    let kind = match node.kind {
        'b' => FileType::BlockDevice,
        'p' => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    if bind && kind != FileType::Fifo {
        return bind_device(&parent, name, node, kind);
    }
    let device = makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode);
    match mknodat(&parent, name, kind, mode, device) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == kind
                && (kind == FileType::Fifo || stat.st_rdev == device);
            return if same {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EEXIST))
            };
        }
        Err(rustix::io::Errno::PERM) if kind != FileType::Fifo => {
            return bind_device(&parent, name, node, kind);
        }
        Err(error) => return Err(error.into()),
    }
    let owner = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
    chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(chmodat(&parent, name, mode, AtFlags::empty())?)
}

/// Binds the host's node of the same path, once it is sure to be the same device.
fn bind_device(
    parent: &OwnedFd,
    name: &std::ffi::OsStr,
    node: &Node,
    kind: FileType,
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = openat(CWD, &node.path, flags, Mode::empty())?;
    let stat = fstat(&source)?;
    let same = FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_rdev == makedev(node.major, node.minor);
    if !same {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let copy = mounts::copy(source.as_fd(), false)?;
    mounts::set_device(&copy)?;
    let point = rooted::make_file(parent.as_fd(), Path::new(name))?;
    mounts::attach(copy.as_fd(), point.as_fd())
}

fn await_runtime(line: &Line<'_>) -> Result<(), Failure> {
    channel::send(line.monitor, &Message::Mounted, &[]).step("tell about the mounts")?;
    match channel::receive(line.monitor).step("wait for the hooks")? {
        Some((Message::Proceed(state), _)) => {
            if let Some(gate) = line.gate {
                gate.state.replace(state);
            }
            Ok(())
        }
        _ => Err(Failure::setup(
            "the runtime ended before the container was made",
        )),
    }
}

fn open_terminal(line: &Line<'_>, made: &mut Made) -> Result<(), Failure> {
    let root = init::root(made)?;
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let pts = rooted::open(root, Path::new("/dev/pts"), directory).step("open /dev/pts")?;
    let own = sys::filesystem_magic(pts.as_fd()).step("look at /dev/pts")? == DEVPTS_SUPER_MAGIC;
    let pts = if own {
        pts
    } else {
        openat(CWD, "/dev/pts", directory | OFlags::CLOEXEC, Mode::empty())
            .step("open /dev/pts of the host")?
    };
    let (master, slave) = process::new_terminal(pts.as_fd()).step("open a terminal")?;
    let dev = rooted::make_dirs(root, Path::new("/dev")).step("open /dev")?;
    bind_console(&dev, &slave).step("make /dev/console")?;
    channel::send(
        line.monitor,
        &Message::Terminal,
        &[master.as_fd(), slave.as_fd()],
    )
    .step("hand the terminal to the runtime")?;
    made.terminal = Some(slave);
    Ok(())
}

fn bind_console(dev: &OwnedFd, slave: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // One the image brought is as good a mount point as a new one.
    match openat(
        dev,
        "console",
        flags | OFlags::EXCL,
        Mode::from_raw_mode(0o600),
    ) {
        Ok(_) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let point = openat(dev, "console", flags, Mode::empty())?;
    let copy = mounts::copy(slave.as_fd(), false)?;
    mounts::attach(copy.as_fd(), point.as_fd())
}

/// Whether the directory could be made shows when it is entered.
fn make_directory(path: &Path, made: &Made) {
    if let Some(root) = &made.root {
        let _shown_later = rooted::make_dirs(root.as_fd(), path);
    }
}

/// Opens a path of the container; `None` when there is none to hide or protect.
fn open_inside(path: &Path, made: &Made) -> io::Result<Option<OwnedFd>> {
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let root = made.root.as_ref().ok_or_else(missing)?;
    match rooted::open(root.as_fd(), path, OFlags::PATH) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ELOOP)
            ) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn hide(path: &Path, made: &mut Made) -> io::Result<()> {
    let Some(point) = open_inside(path, made)? else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(CWD, "/dev/null", flags, Mode::empty())?;
    init::hide(&point, &null, &mut made.empty)
}

fn protect(path: &Path, made: &Made) -> io::Result<()> {
    match open_inside(path, made)? {
        Some(point) => init::protect(&point),
        None => Ok(()),
    }
}

/// What `--no-pivot` asks for: the root is moved over the old one, as on an initial ramdisk.
fn move_root(made: &Made) -> Result<(), Failure> {
    rustix::process::fchdir(init::root(made)?).step("enter the new root")?;
    mount_move(".", "/").step("move the new root")?;
    rustix::process::chroot(".").step("change the root")?;
    rustix::process::chdir("/").step("enter the new root")
}

fn change_root(path: &Path) -> Result<(), Failure> {
    rustix::process::chdir(path).step("enter the new root")?;
    rustix::process::chroot(".").step("change the root")
}

/// Writes a file of the host's procfs, through the handle from before anything of the container
/// could lie over it.
fn write_proc(made: &Made, path: &str, text: &str) -> io::Result<()> {
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let proc = made.host.proc.as_ref().ok_or_else(missing)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(proc, path, flags, Mode::empty(), resolve)?;
    let written = rustix::io::write(&file, text.as_bytes())?;
    if written == text.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

fn write_sysctl(key: &str, value: &str, made: &Made) -> io::Result<()> {
    write_proc(made, &format!("sys/{}", key.replace('.', "/")), value)
}

fn schedule(scheduler: &Scheduler) -> Result<(), Failure> {
    let unknown = |what: &str| Failure::setup(format!("unknown scheduler word {what}"));
    let policy = names::number(&names::POLICIES, &scheduler.policy)
        .ok_or_else(|| unknown(&scheduler.policy))?;
    let mut flags = 0;
    for flag in &scheduler.flags {
        let bit = names::number(&names::SCHEDULER_FLAGS, flag).ok_or_else(|| unknown(flag))?;
        flags |= u64::from(bit);
    }
    sys::sched_setattr(sys::SchedAttr {
        policy: policy.into(),
        flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..sys::SchedAttr::default()
    })
    .step("set the scheduling policy")
}
