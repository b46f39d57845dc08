//! Becoming the container's process: streams, ids, capabilities, directory, program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid, openat, openat2};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::caps::CapSet;
use crate::channel::{self, Message};
use crate::error::{Failure, FailureClass, Step as _};
use crate::filters::Filters;
use crate::init::ahead;
use crate::oci::gate::Gate;
use crate::plan::ProcessSpec;
use crate::users::{self, Identity};
use crate::{preserved, rooted, sys};

/// Highest capability number asked about: the kernel's sets are 64 bits wide.
const CAPABILITIES_MAX: u32 = 63;
/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most interpreters of interpreters followed. Source: `execve(2)`.
const INTERPRETERS_MAX: usize = 5;

/// What becomes the standard streams.
#[derive(Debug)]
pub(crate) struct Streams<'a> {
    /// A terminal's slave side.
    pub(crate) terminal: Option<OwnedFd>,
    /// Otherwise, three descriptors.
    pub(crate) pipes: Option<[BorrowedFd<'a>; 3]>,
    /// Whether the process is killed when its parent ends.
    pub(crate) dies_with_parent: bool,
    /// Where it waits, all but executed, until it is started.
    pub(crate) gate: Option<&'a Gate>,
    /// Copies of what it gets besides, from 3 on.
    pub(crate) preserved: &'a [OwnedFd],
    /// Whether what it reads first is asked for ahead, since each request costs.
    pub(crate) reads_ahead: bool,
}

/// Opens a new terminal in the devpts instance mounted at `pts`: master and slave.
///
/// # Errors
///
/// Those of `open(2)` and of the ioctls in `ioctl_tty(2)`.
pub(crate) fn new_terminal(pts: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// Becomes the process that `spec` describes; returns only when that failed.
pub(crate) fn execute(
    spec: &ProcessSpec,
    streams: &Streams<'_>,
    filters: &Filters,
    line: BorrowedFd<'_>,
) -> Failure {
    match prepare(spec, streams, filters, line) {
        Ok((program, argv, env)) => {
            if spec.init
                && let Err(failure) = crate::reaper::split(spec.tty)
            {
                return failure;
            }
            exec_failure(spec, &sys::execve(&program, &argv, &env))
        }
        Err(failure) => failure,
    }
}

type Image = (CString, Vec<CString>, Vec<CString>);

fn prepare(
    spec: &ProcessSpec,
    streams: &Streams<'_>,
    filters: &Filters,
    line: BorrowedFd<'_>,
) -> Result<Image, Failure> {
    let umask = spec.exact.as_ref().map_or(0o022, |exact| exact.umask);
    rustix::process::umask(Mode::from_raw_mode(umask));
    let identity = identify(spec)?;
    let cwd = open_cwd(spec)?;
    // From here on little else is asked of the file system, which would wait behind it.
    if streams.reads_ahead {
        ahead::ask(spec);
    }
    set_streams(streams, &identity).step("set the standard streams up")?;
    sys::reset_signals();
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    }
    drop_bounding_set(spec.caps).step("drop capabilities")?;
    let keep_groups = spec.exact.as_ref().is_some_and(|exact| exact.keep_groups);
    set_ids(&identity, spec.squash, keep_groups)?;
    let sets = final_sets(spec, &identity).step("read the capabilities")?;
    // Directories and programs are looked at with the rights the process will have.
    raise_all(sets.effective).step("keep capabilities")?;
    enter_cwd(&cwd, &spec.cwd)?;
    drop(cwd);
    let mut env = spec.env.clone();
    if !env.iter().any(|line| line.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    let program = find_program(spec, &env)?;
    preserved::place(streams.preserved).step("preserve descriptors")?;
    let placed = u32::try_from(streams.preserved.len()).unwrap_or_default();
    let kept = spec.preserved_fds.max(placed);
    sys::close_range_cloexec(kept.saturating_add(3)).step("close descriptors")?;
    if streams.dies_with_parent {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .step("ask to die with the monitor")?;
    }
    // Whoever supervises the filter gets its listener from the runtime, which is gone once the
    // process waits to be started.
    let early = filters.notifies();
    if early {
        become_confined(spec, filters, sets, line)?;
    }
    if let Some(gate) = streams.gate {
        gate.pass(line)?;
    }
    if !early {
        become_confined(spec, filters, sets, line)?;
    }
    let strings = |list: &[String]| -> Result<Vec<CString>, Failure> {
        list.iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| Failure::not_executable("an argument holds a zero byte"))
    };
    Ok((program, strings(&spec.argv)?, strings(&env)?))
}

/// Who the process is: by number, or by name in the container's own files.
pub(crate) fn identify(spec: &ProcessSpec) -> Result<Identity, Failure> {
    let Some(exact) = &spec.exact else {
        return users::resolve_here(&spec.user, &spec.group_add);
    };
    let has_home = spec.env.iter().any(|line| line.starts_with("HOME="));
    let home = if has_home {
        String::new()
    } else {
        users::resolve_here(&exact.uid.to_string(), &[])?.home
    };
    Ok(Identity {
        uid: exact.uid,
        gid: exact.gid,
        groups: exact.groups.clone(),
        home,
    })
}

/// Installs the filters and leaves the process the capabilities it is to have.
///
/// A filter needs `CAP_SYS_ADMIN` or the promise of no new privileges. With the promise it comes
/// last, so that it need not allow what is done here.
fn become_confined(
    spec: &ProcessSpec,
    filters: &Filters,
    sets: Sets,
    line: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let install = || -> Result<(), Failure> {
        if let Some(listener) = filters.install().step("install the system call filter")? {
            channel::send(line, &Message::Listener, &[listener.as_fd()])
                .step("hand the system call listener over")?;
        }
        Ok(())
    };
    if spec.no_new_privileges {
        set_capabilities(sets).step("set the capabilities")?;
        return install();
    }
    raise_all(CapabilitySet::all()).step("keep capabilities")?;
    install()?;
    set_capabilities(sets).step("set the capabilities")
}

/// Opens the working directory, made when absent where Docker makes it: for `run -w` and images.
fn open_cwd(spec: &ProcessSpec) -> Result<OwnedFd, Failure> {
    let path = Path::new(if spec.cwd.is_empty() { "/" } else { &spec.cwd });
    let bad = |error: io::Error| {
        Failure::not_executable(format!(
            "could not chdir to the working directory {}: {error}",
            path.display()
        ))
    };
    if !path.is_absolute() {
        let text = format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            path.display()
        );
        return Err(Failure::setup(text));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, "/", flags, Mode::empty()).map_err(|e| bad(e.into()))?;
    if spec.makes_cwd {
        return rooted::make_dirs(root.as_fd(), path).map_err(bad);
    }
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| bad(error.into()))
}

/// Enters the directory as the final user, and proves that it lies inside the root.
fn enter_cwd(cwd: &OwnedFd, text: &str) -> Result<(), Failure> {
    let bad = |error: io::Error| {
        Failure::not_executable(format!(
            "could not chdir to the working directory {text}: {error}"
        ))
    };
    rustix::process::fchdir(cwd).map_err(|error| bad(error.into()))?;
    let inside = rustix::process::getcwd(Vec::new()).map_err(|error| bad(error.into()))?;
    if inside.to_bytes().first() != Some(&b'/') {
        return Err(bad(io::Error::other("it is outside the container")));
    }
    Ok(())
}

/// Makes this process the leader of a session of its own, without a terminal, unless it is one.
///
/// # Errors
///
/// Those of `setsid(2)` but `EPERM`, which a leader gets.
pub(crate) fn leave_session() -> io::Result<()> {
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

fn set_streams(streams: &Streams<'_>, identity: &Identity) -> io::Result<()> {
    let owner = Some(Uid::from_raw(identity.uid));
    leave_session()?;
    let fds = match (&streams.terminal, streams.pipes) {
        (Some(slave), _) => {
            rustix::process::ioctl_tiocsctty(slave)?;
            [slave.as_fd(); 3]
        }
        (None, Some(pipes)) => pipes,
        (None, None) => {
            give_streams(identity);
            return Ok(());
        }
    };
    for (number, fd) in (0..).zip(fds) {
        // Lets a process that is not root open /dev/stdout; not every stream can be given away.
        if identity.uid != 0 && !is_null(fd) {
            let _ignored = rustix::fs::fchown(fd, owner, None);
        }
        let own = is_null(fd).then(own_null).flatten();
        sys::dup_onto(own.as_ref().map_or(fd, AsFd::as_fd), number)?;
    }
    Ok(())
}

/// The container's own null device. Root inside could change owner and mode of the host's through
/// a descriptor of it.
fn own_null() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = openat(CWD, "/dev/null", flags, Mode::empty()).ok()?;
    // A container that runs may have put something else there.
    is_null(fd.as_fd()).then_some(fd)
}

/// Gives inherited streams to the process's user, so that it can open them again, except the
/// null device, which is everybody's. What cannot be given away stays.
fn give_streams(identity: &Identity) {
    let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    for (number, fd) in (0..).zip([
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]) {
        let Ok(stat) = rustix::fs::fstat(fd) else {
            continue;
        };
        if let Some(own) = is_null(fd).then(own_null).flatten() {
            let _kept = sys::dup_onto(own.as_fd(), number);
        } else if !is_null(fd) && stat.st_uid != identity.uid {
            let _kept = rustix::fs::fchown(fd, Some(owner.0), Some(owner.1));
        }
    }
}

/// Whether this is the null device, which is the host's and everybody's.
fn is_null(fd: BorrowedFd<'_>) -> bool {
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_rdev == null)
}

fn drop_bounding_set(keep: CapSet) -> io::Result<()> {
    for number in 0..=CAPABILITIES_MAX {
        if keep.contains(number) {
            continue;
        }
        let Some(one) = CapabilitySet::from_bits(1 << number) else {
            continue;
        };
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last capability this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn set_ids(identity: &Identity, squash: bool, keep_groups: bool) -> Result<(), Failure> {
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let refused = |error: rustix::io::Errno| {
        Failure::not_executable(format!(
            "cannot run as user {}:{}, not all its ids exist in the container: {error}",
            identity.uid, identity.gid
        ))
    };
    rustix::thread::set_keep_capabilities(true).step("keep capabilities")?;
    if squash {
        return check_single(identity);
    }
    let set = || -> rustix::io::Result<()> {
        let set_groups = || match keep_groups {
            true => Ok(()),
            false => rustix::thread::set_thread_groups(&groups),
        };
        match set_groups() {
            // Where only one group is mapped, groups cannot be set, and none were asked for.
            Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
            other => other?,
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    };
    set().map_err(refused)
}

/// Where only one id exists, this process has it already. Root pretends to be anybody.
fn check_single(identity: &Identity) -> Result<(), Failure> {
    let (uid, gid) = own_ids();
    if uid == 0 || (uid, gid) == (identity.uid, identity.gid) {
        return Ok(());
    }
    Err(Failure::not_executable(format!(
        "cannot run as user {}:{}: the container has a single id, {uid}:{gid}; with a range of ids \
         for you in /etc/subuid and /etc/subgid a new container has all",
        identity.uid, identity.gid
    )))
}

/// User and group id of this process.
pub(crate) fn own_ids() -> (u32, u32) {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    (uid.as_raw(), gid.as_raw())
}

/// The capability sets a process ends up with.
#[derive(Debug, Clone, Copy)]
struct Sets {
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

/// The wanted capabilities, as far as this process has them.
fn final_sets(spec: &ProcessSpec, identity: &Identity) -> io::Result<Sets> {
    let have = rustix::thread::capabilities(None)?.permitted;
    let grantable = |wanted: CapSet| CapabilitySet::from_bits_retain(wanted.bits()) & have;
    if let Some(exact) = &spec.exact {
        let permitted = grantable(exact.permitted);
        let inheritable = grantable(exact.inheritable);
        return Ok(Sets {
            effective: grantable(exact.effective) & permitted,
            permitted,
            inheritable,
            ambient: grantable(exact.ambient) & permitted & inheritable,
        });
    }
    // Who has the only id, and that is root's, is root whoever it was to be.
    let root = identity.uid == 0 || (spec.squash && own_ids().0 == 0);
    let keep = if root {
        grantable(spec.caps)
    } else {
        CapabilitySet::empty()
    };
    Ok(Sets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
        ambient: CapabilitySet::empty(),
    })
}

/// After an id change only the permitted set is left; makes that part of it effective again.
fn raise_all(wanted: CapabilitySet) -> io::Result<()> {
    let have = rustix::thread::capabilities(None)?.permitted;
    let sets = CapabilitySets {
        effective: have & wanted,
        permitted: have,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn set_capabilities(wanted: Sets) -> io::Result<()> {
    // Ambient first: it must stay within the other sets.
    let _old_kernel = rustix::thread::clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: wanted.effective,
        permitted: wanted.permitted,
        inheritable: wanted.inheritable,
    };
    rustix::thread::set_capabilities(None, sets)?;
    for number in 0..=CAPABILITIES_MAX {
        let Some(one) = CapabilitySet::from_bits(1 << number) else {
            continue;
        };
        if wanted.ambient.contains(one) {
            rustix::thread::configure_capability_in_ambient_set(one, true)?;
        }
    }
    Ok(rustix::thread::set_keep_capabilities(false)?)
}

/// Finds the program through `PATH` as `execvp(3)` does, and refuses a way back to our own file.
fn find_program(spec: &ProcessSpec, env: &[String]) -> Result<CString, Failure> {
    let name = spec
        .argv
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure {
            class: FailureClass::Setup,
            text: "no command specified".to_owned(),
        })?;
    let mut denied = None;
    for candidate in candidates(name, env) {
        match check_program(&candidate) {
            Ok(()) => {
                return CString::new(candidate)
                    .map_err(|_| Failure::not_executable("the command holds a zero byte"));
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                _ => denied = denied.or(Some(error)),
            },
        }
    }
    Err(match denied {
        Some(error) => exec_failure(spec, &error),
        None if name.contains('/') => {
            exec_failure(spec, &io::Error::from_raw_os_error(libc::ENOENT))
        }
        None => Failure {
            class: FailureClass::NotFound,
            text: format!("exec: \"{name}\": executable file not found in $PATH"),
        },
    })
}

/// Where a program may be, in the order in which it is looked for. Source: `execvp(3)`.
pub(crate) fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().rev().find_map(|line| line.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|dir| {
            if dir.is_empty() {
                name.to_owned()
            } else {
                format!("{dir}/{name}")
            }
        })
        .collect()
}

/// Checks that a program can be executed and that neither it nor its interpreters are magic links,
/// through which a container could reach this very program's file on the host.
///
/// Source: CVE-2019-5736.
fn check_program(path: &str) -> io::Result<()> {
    let mut path = path.to_owned();
    for _ in 0..INTERPRETERS_MAX {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(
            CWD,
            &path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_MAGICLINKS,
        )?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind != rustix::fs::FileType::RegularFile {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        rustix::fs::accessat(
            CWD,
            &path,
            rustix::fs::Access::EXEC_OK,
            rustix::fs::AtFlags::EACCESS,
        )?;
        let head = beginning(&path).unwrap_or_default();
        let Some(interpreter) = interpreter(&head) else {
            return Ok(());
        };
        path = interpreter;
    }
    Ok(())
}

/// The beginning of a program; `None` of one that cannot be read.
fn beginning(path: &str) -> Option<Vec<u8>> {
    let mut head = [0_u8; 256];
    let count = rustix::io::read(open_regular(Path::new(path))?, &mut head).ok()?;
    head.get(..count).map(<[u8]>::to_vec)
}

/// Opens a regular file to be read; others are none of ours to touch, and may have come to be where
/// one was.
pub(crate) fn open_regular(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).ok()?;
    let mode = rustix::fs::fstat(&file).ok()?.st_mode;
    let kind = rustix::fs::FileType::from_raw_mode(mode);
    (kind == rustix::fs::FileType::RegularFile).then_some(file)
}

/// The interpreter that a script names, from its beginning; `None` for other files.
pub(crate) fn interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    text.split_whitespace().next().map(str::to_owned)
}

/// Docker's words and exit code for a program that cannot be executed.
fn exec_failure(spec: &ProcessSpec, error: &io::Error) -> Failure {
    let name = spec.argv.first().map_or("", String::as_str);
    let (class, reason) = match error.raw_os_error() {
        Some(libc::ENOENT) if name.contains('/') => (
            FailureClass::NotFound,
            "no such file or directory".to_owned(),
        ),
        Some(libc::ENOENT) => (
            FailureClass::NotFound,
            "executable file not found in $PATH".to_owned(),
        ),
        Some(libc::EACCES) => (FailureClass::NotExecutable, "permission denied".to_owned()),
        Some(libc::ENOEXEC) => (FailureClass::NotExecutable, "exec format error".to_owned()),
        Some(libc::ELOOP) => (
            FailureClass::NotExecutable,
            "leads through a magic link".to_owned(),
        ),
        _ => (FailureClass::NotExecutable, error.to_string()),
    };
    Failure {
        class,
        text: format!("exec: \"{name}\": {reason}"),
    }
}
