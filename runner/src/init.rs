//! Carries out a [`Plan`](crate::plan::Plan) as the container's first process.

pub(crate) mod ahead;
mod nodes;
mod user_mounts;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, mkdirat, openat, symlinkat};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Signal;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::channel::{self, Message};
use crate::config::{Rlimit, Shm};
use crate::error::{Failure, Step as _};
use crate::oci::gate::Gate;
use crate::oci::setup::{self, HostSide};
use crate::plan::{DeviceNodes, Place, RootSource, Step};
use crate::{mounts, process, rooted, rootfs, sys};

/// What init inherits from the monitor.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// To the monitor.
    pub(crate) monitor: BorrowedFd<'a>,
    /// To the file-system server.
    pub(crate) server: Option<BorrowedFd<'a>>,
    /// Standard streams, when there is no terminal.
    pub(crate) streams: Option<[BorrowedFd<'a>; 3]>,
    /// The doors of the container's groups.
    pub(crate) cgroups: &'a [File],
    /// The system call filters.
    pub(crate) filters: &'a crate::filters::Filters,
    /// Where the process waits to be started.
    pub(crate) gate: Option<&'a Gate>,
    /// What the process gets besides its streams, from 3 on; with this line all above its places.
    pub(crate) preserved: &'a [OwnedFd],
    /// What is bound as id-mapped mounts, by the mounts' numbers.
    pub(crate) mapped_trees: &'a [Option<OwnedFd>],
    /// What another container has on `/dev/shm`.
    pub(crate) shm: Option<BorrowedFd<'a>>,
}

/// What the steps so far have made.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) root: Option<OwnedFd>,
    /// The number of the root's file system, where that was made for the container.
    root_device: Option<(u32, u32)>,
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    pts: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    /// An empty read-only directory, mounted over what is hidden.
    pub(crate) empty: Option<OwnedFd>,
    /// What was opened on the host's side for a bundle.
    pub(crate) host: HostSide,
    /// Whether the root is served from user space.
    pub(crate) is_served: bool,
    /// Whether device nodes work on its mounts.
    pub(crate) nodes: DeviceNodes,
    /// What mounts of the host spread into, by target.
    pub(crate) spreading: Vec<(PathBuf, OwnedFd)>,
}

/// Runs all steps; returns only when one failed.
pub(crate) fn run(steps: &[Step], line: &Line<'_>) -> Failure {
    let mut made = Made::default();
    // Until the process executes; changes of identity clear it, so it is asked for again.
    let _cleared_later = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // Modes given below are meant as they are.
    rustix::process::umask(Mode::empty());
    for step in steps {
        if let Err(failure) = carry_out(step, line, &mut made) {
            return failure;
        }
    }
    Failure::setup("the plan has no command to execute")
}

/// Carries out one step.
pub(crate) fn carry_out(step: &Step, line: &Line<'_>, made: &mut Made) -> Result<(), Failure> {
    match step {
        Step::EnterCgroups { own_namespace } => enter_cgroups(line, *own_namespace),
        Step::OpenSpreading(list) => user_mounts::open_spreading(list, made),
        Step::BecomeMappedRoot => become_mapped_root(line),
        Step::MakeMountsPrivate => rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .step("make the mounts private"),
        Step::MountRoot(source, nodes) => mount_root(source, *nodes, line, made),
        Step::MountProc { bind_host } => {
            let mount = if *bind_host {
                mounts::copy_path(Path::new("/proc"))
            } else {
                mounts::new("proc", &[], mounts::INERT)
            };
            let mount = attach_top(made, mount.step("mount /proc")?, "proc")?;
            made.host.proc = Some(mount.try_clone().step("use /proc")?);
            made.proc = Some(mount);
            Ok(())
        }
        Step::MountSys {
            bind_host,
            read_only,
        } => mount_sys(*bind_host, *read_only, made),
        Step::MountCgroup { read_only } => {
            mount_cgroup(*read_only, made);
            Ok(())
        }
        Step::MountDev { .. } => mount_dev(step, line, made),
        Step::HostDevices { consoles } => host_devices(*consoles, made),
        Step::OpenTerminal => open_terminal(line, made),
        Step::Mount(mount) => {
            user_mounts::mount(mount, made).map_err(|failure| Failure::setup(failure.text))
        }
        Step::Mask(place, path) => {
            mask(*place, path, made).step(format_args!("hide {path} of {place:?}"))
        }
        Step::ReadOnly(place, path) => {
            read_only(*place, path, made).step(format_args!("protect {path} of {place:?}"))
        }
        Step::ReadOnlyRoot => {
            mounts::set_read_only(root(made)?, false).step("make the root read-only")
        }
        Step::PivotRoot => pivot_root(made),
        Step::LoopbackUp => loopback_up().step("bring the loopback interface up"),
        Step::AwaitNetwork => await_network(line),
        Step::SetHostname(name) => {
            rustix::system::sethostname(name.as_bytes()).step("set the host name")
        }
        Step::SetRlimit(limit) => set_rlimit(limit),
        Step::Bundle(step) => setup::carry_out(step, line, made),
        Step::Execute(spec) => {
            let terminal = made.terminal.take();
            let is_served = made.is_served;
            *made = Made::default();
            let streams = process::Streams {
                terminal,
                pipes: line.streams,
                dies_with_parent: line.gate.is_none(),
                gate: line.gate,
                preserved: line.preserved,
                reads_ahead: is_served,
            };
            Err(process::execute(spec, &streams, line.filters, line.monitor))
        }
    }
}

fn mount_root(
    source: &RootSource,
    nodes: DeviceNodes,
    line: &Line<'_>,
    made: &mut Made,
) -> Result<(), Failure> {
    let mount = rootfs::mount(source, nodes, line)?;
    made.nodes = nodes;
    made.is_served = matches!(source, RootSource::Fuse);
    made.root_device = match source {
        RootSource::Dir(_) => None,
        RootSource::Fuse | RootSource::Overlay(_) => user_mounts::device(&mount).ok(),
    };
    made.root = Some(mount);
    Ok(())
}

pub(crate) fn root(made: &Made) -> Result<BorrowedFd<'_>, Failure> {
    made.root
        .as_ref()
        .map(AsFd::as_fd)
        .ok_or_else(|| Failure::setup("no root is mounted"))
}

pub(crate) fn enter_cgroups(line: &Line<'_>, own_namespace: bool) -> Result<(), Failure> {
    for door in line.cgroups {
        rustix::io::write(door, b"0").step("enter the control group")?;
    }
    if own_namespace {
        sys::unshare(sys::CLONE_NEWCGROUP).step("make the cgroup namespace")?;
    }
    Ok(())
}

fn become_mapped_root(line: &Line<'_>) -> Result<(), Failure> {
    match channel::receive(line.monitor).step("wait for the id map")? {
        Some((Message::IdMapWritten, _)) => {}
        _ => {
            return Err(Failure::setup(
                "the monitor ended before the id map was written",
            ));
        }
    }
    become_root()
}

fn await_network(line: &Line<'_>) -> Result<(), Failure> {
    match channel::receive(line.monitor).step("wait for the network")? {
        Some((Message::NetworkReady, _)) => Ok(()),
        _ => Err(Failure::setup(
            "the monitor ended before the network was ready",
        )),
    }
}

/// Becomes root of the current user namespace. Where that has a single id, which is another, this
/// process has it already.
pub(crate) fn become_root() -> Result<(), Failure> {
    use rustix::io::Errno;
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    // `EINVAL`: the id does not exist here. Source: `setresuid(2)`.
    let absent = |result: rustix::io::Result<()>| match result {
        Err(Errno::INVAL) => Ok(()),
        other => other,
    };
    absent(set_thread_res_gid(gid, gid, gid)).step("become the mapped root group")?;
    // Refused where setgroups is denied; then the groups stay, unmapped.
    let _ignored = set_thread_groups(&[]);
    absent(set_thread_res_uid(uid, uid, uid)).step("become the mapped root user")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("ask to die with the monitor")
}

/// Attaches a mount on a top directory of the root that must be a true directory.
fn attach_top(made: &Made, mount: OwnedFd, name: &str) -> Result<OwnedFd, Failure> {
    let point = rooted::top_dir(root(made)?, name)
        .step(format_args!("use /{name} of the image as a directory"))?;
    mounts::attach(mount.as_fd(), point.as_fd()).step(format_args!("mount /{name}"))?;
    Ok(mount)
}

fn mount_sys(bind_host: bool, read_only: bool, made: &mut Made) -> Result<(), Failure> {
    let mount = if bind_host {
        mounts::copy_path(Path::new("/sys"))
    } else {
        mounts::new("sysfs", &[], mounts::INERT)
    }
    .step("mount /sys")?;
    if read_only {
        mounts::set_read_only(&mount, bind_host).step("make /sys read-only")?;
    }
    made.sys = Some(attach_top(made, mount, "sys")?);
    Ok(())
}

/// Not every host lets a container see its cgroup; one without works as well.
fn mount_cgroup(read_only: bool, made: &Made) {
    let mount = || -> io::Result<()> {
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        let sys = made.sys.as_ref().ok_or_else(missing)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let point = openat(sys, "fs/cgroup", flags, Mode::empty())?;
        let mount = mounts::new("cgroup2", &[], mounts::INERT)?;
        if read_only {
            mounts::set_read_only(&mount, false)?;
        }
        mounts::attach(mount.as_fd(), point.as_fd())
    };
    let _ignored = mount();
}

fn mount_dev(step: &Step, line: &Line<'_>, made: &mut Made) -> Result<(), Failure> {
    let Step::MountDev {
        bind_nodes,
        nodes: list,
        links,
        tty_gid,
        shm,
        shm_size_bytes,
    } = step
    else {
        return Ok(());
    };
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("mode", "755"), ("size", "65536k")];
    let dev = mounts::new("tmpfs", &options, attributes).step("mount /dev")?;
    let dev = attach_top(made, dev, "dev")?;
    for (name, major, minor) in list {
        if *bind_nodes {
            nodes::bind(&dev, name, *major, *minor)
        } else {
            nodes::make(&dev, name, *major, *minor)
        }
        .step(format_args!("make /dev/{name}"))?;
    }
    if made.nodes == DeviceNodes::Barred {
        let names = list.iter().map(|(name, ..)| name.as_str());
        nodes::only_these(&dev, names).step("bar other device nodes")?;
    }
    for (name, target) in links {
        symlinkat(target, &dev, name).step(format_args!("make /dev/{name}"))?;
    }
    mount_shm(&dev, *shm, *shm_size_bytes, line).step("mount /dev/shm")?;
    if let Ok(queue) = mounts::new("mqueue", &[], mounts::INERT) {
        attach_dev(&dev, &queue, "mqueue").step("mount /dev/mqueue")?;
    }
    let pts = new_devpts(*tty_gid).step("mount /dev/pts")?;
    attach_dev(&dev, &pts, "pts").step("mount /dev/pts")?;
    made.pts = Some(pts);
    made.dev = Some(dev);
    Ok(())
}

fn host_devices(consoles: bool, made: &Made) -> Result<(), Failure> {
    let dev = made.dev.as_ref();
    let dev = dev.ok_or_else(|| Failure::setup("no /dev is mounted"))?;
    crate::host_devices::copy_all(dev, consoles).step("make the host's devices")
}

fn mount_shm(dev: &OwnedFd, shm: Shm, size_bytes: u64, line: &Line<'_>) -> io::Result<()> {
    let copy = match (shm, line.shm) {
        (Shm::Absent, _) => return Ok(()),
        (Shm::Joined, Some(mount)) => mount.try_clone_to_owned()?,
        (Shm::Own | Shm::Joined, _) => {
            let size = size_bytes.to_string();
            let options = [("mode", "1777"), ("size", size.as_str())];
            mounts::new("tmpfs", &options, mounts::INERT)?
        }
    };
    attach_dev(dev, &copy, "shm")
}

fn new_devpts(tty_gid: Option<u32>) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let plain = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    if let Some(gid) = tty_gid {
        let gid = gid.to_string();
        let with_group = [plain[0], plain[1], plain[2], ("gid", gid.as_str())];
        // The group may lie outside the id map.
        if let Ok(pts) = mounts::new("devpts", &with_group, attributes) {
            return Ok(pts);
        }
    }
    mounts::new("devpts", &plain, attributes)
}

fn attach_dev(dev: &OwnedFd, mount: &OwnedFd, name: &str) -> io::Result<()> {
    mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let point = openat(dev, name, flags, Mode::empty())?;
    mounts::attach(mount.as_fd(), point.as_fd())
}

fn open_terminal(line: &Line<'_>, made: &mut Made) -> Result<(), Failure> {
    let pts = made
        .pts
        .as_ref()
        .ok_or_else(|| Failure::setup("no devpts is mounted"))?;
    let (master, slave) = process::new_terminal(pts.as_fd()).step("open a terminal")?;
    if let Some(dev) = &made.dev {
        bind_console(dev, &slave).step("make /dev/console")?;
    }
    channel::send(
        line.monitor,
        &Message::Terminal,
        &[master.as_fd(), slave.as_fd()],
    )
    .step("hand the terminal to the monitor")?;
    made.terminal = Some(slave);
    Ok(())
}

fn bind_console(dev: &OwnedFd, slave: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(dev, "console", flags, Mode::from_raw_mode(0o600))?);
    let point = openat(
        dev,
        "console",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let copy = mounts::copy(slave.as_fd(), false)?;
    mounts::attach(copy.as_fd(), point.as_fd())
}

fn place(place: Place, made: &Made) -> io::Result<&OwnedFd> {
    match place {
        Place::Proc => made.proc.as_ref(),
        Place::Sys => made.sys.as_ref(),
    }
    .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// Opens a path of our own pseudo file system; `None` when this kernel has no such path.
fn open_place(fd: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(fd, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::ACCESS) => {
            Ok(None)
        }
        other => Ok(Some(other?)),
    }
}

fn mask(where_: Place, path: &str, made: &mut Made) -> io::Result<()> {
    let Some(point) = open_place(place(where_, made)?, path)? else {
        return Ok(());
    };
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let dev = made.dev.as_ref().ok_or_else(missing)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(dev, "null", flags, Mode::empty())?;
    hide(&point, &null, &mut made.empty)
}

/// Covers a file with the null device, a directory with an empty one.
pub(crate) fn hide(point: &OwnedFd, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(point)?.st_mode) != FileType::Directory {
        nodes::check(null, 1, 3)?;
        return mounts::attach(mounts::copy(null.as_fd(), false)?.as_fd(), point.as_fd());
    }
    if let Some(empty) = empty {
        return mounts::attach(mounts::copy(empty.as_fd(), false)?.as_fd(), point.as_fd());
    }
    let options = [("mode", "555"), ("nr_inodes", "1"), ("size", "4k")];
    let fresh = mounts::new("tmpfs", &options, mounts::INERT)?;
    mounts::set_read_only(&fresh, false)?;
    mounts::attach(fresh.as_fd(), point.as_fd())?;
    *empty = Some(fresh);
    Ok(())
}

fn read_only(where_: Place, path: &str, made: &Made) -> io::Result<()> {
    match open_place(place(where_, made)?, path)? {
        Some(point) => protect(&point),
        None => Ok(()),
    }
}

/// Covers a path with a read-only view of itself.
pub(crate) fn protect(point: &OwnedFd) -> io::Result<()> {
    let copy = mounts::copy(point.as_fd(), true)?;
    mounts::set_read_only(&copy, true)?;
    mounts::attach(copy.as_fd(), point.as_fd())
}

fn pivot_root(made: &mut Made) -> Result<(), Failure> {
    rustix::process::fchdir(root(made)?).step("enter the new root")?;
    rustix::process::pivot_root(".", ".").step("pivot to the new root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("drop the old root")?;
    rustix::process::chdir("/").step("enter the new root")
}

fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sys::loopback_up(socket.as_fd())
}

fn set_rlimit(limit: &Rlimit) -> Result<(), Failure> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let kinds = [
        ("as", Resource::As),
        ("core", Resource::Core),
        ("cpu", Resource::Cpu),
        ("data", Resource::Data),
        ("fsize", Resource::Fsize),
        ("memlock", Resource::Memlock),
        ("msgqueue", Resource::Msgqueue),
        ("nice", Resource::Nice),
        ("nofile", Resource::Nofile),
        ("nproc", Resource::Nproc),
        ("rss", Resource::Rss),
        ("rtprio", Resource::Rtprio),
        ("rttime", Resource::Rttime),
        ("sigpending", Resource::Sigpending),
        ("stack", Resource::Stack),
    ];
    let Some((_, kind)) = kinds.iter().find(|(name, _)| *name == limit.kind) else {
        return Err(Failure::setup(format!(
            "unknown resource limit {}",
            limit.kind
        )));
    };
    let wanted = rustix::process::Rlimit {
        current: limit.soft,
        maximum: limit.hard,
    };
    match setrlimit(*kind, wanted) {
        Ok(()) => Ok(()),
        Err(error) if limit.required => {
            Err(error).step(format_args!("set the resource limit {}", limit.kind))
        }
        Err(_) => {
            let now = getrlimit(*kind);
            let least =
                |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.min(b)).or(a).or(b);
            let hard = least(limit.hard, now.maximum);
            let clamped = rustix::process::Rlimit {
                current: least(limit.soft, hard),
                maximum: hard,
            };
            setrlimit(*kind, clamped).step(format_args!("set the resource limit {}", limit.kind))
        }
    }
}
