//! The system calls that have no safe wrapper elsewhere: one call, one function.
#![allow(unsafe_code, reason = "the crate's single room for raw system calls")]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::process::Pid;

pub(crate) mod apart;
pub(crate) mod arguments;
pub(crate) mod given;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod place;

/// Shares the table of descriptors. See `clone(2)`.
pub(crate) const CLONE_FILES: u64 = 0x0000_0400;
/// `CLONE_NEW*` bits; see `clone(2)`.
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
/// See `mount_namespaces(7)`.
pub(crate) const CLONE_NEWNS: u64 = 0x0002_0000;
/// See `pid_namespaces(7)`.
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
/// See `ipc_namespaces(7)`.
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;
/// See `uts_namespaces(7)`.
pub(crate) const CLONE_NEWUTS: u64 = 0x0400_0000;
/// See `network_namespaces(7)`.
pub(crate) const CLONE_NEWNET: u64 = 0x4000_0000;
/// See `cgroup_namespaces(7)`.
pub(crate) const CLONE_NEWCGROUP: u64 = 0x0200_0000;
/// See `time_namespaces(7)`; for `unshare` and `setns` only.
pub(crate) const CLONE_NEWTIME: u64 = 0x0000_0080;
/// The child's parent is the caller's parent.
pub(crate) const CLONE_PARENT: u64 = 0x0000_8000;

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The caller; holds the new process's id.
    Parent(Pid),
}

/// Makes a copy of this process with new namespaces as `flags` say.
///
/// The caller must be single-threaded, so that the child may allocate.
///
/// # Errors
///
/// `EPERM` when the namespaces are not allowed; `ENOSPC` at a namespace limit; `EAGAIN`.
///
/// Source: `clone(2)`.
pub(crate) fn fork(flags: u64) -> io::Result<Fork> {
    let flags = flags | if flags & CLONE_PARENT == 0 { 17 } else { 0 };
    // SAFETY: no stack, no tls and no pid pointers are passed, so this behaves as fork(2); the
    // caller is single-threaded, so no lock of the C library can be left held in the child.
    let ret = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    let raw = i32::try_from(check(ret)?).map_err(|_| invalid())?;
    Ok(Pid::from_raw(raw).map_or(Fork::Child, Fork::Parent))
}

/// Ends this process at once, running no handlers: for the child side of [`fork`] only.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Replaces the process image; returns only on failure.
///
/// Source: `execve(2)`.
pub(crate) fn execve(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all strings are NUL-terminated and both arrays end with a null pointer; they live
    // until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// A change of a mount's attributes. Source: `mount_setattr(2)`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountChange {
    /// `MOUNT_ATTR_*` bits to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` bits to clear first.
    pub(crate) clear: u64,
    /// `MS_SHARED` and the like; 0 leaves it.
    pub(crate) propagation: u64,
    /// User namespace of an id-mapped mount, by number of its descriptor.
    pub(crate) user_namespace: u64,
}

/// Changes attributes of the mount at `fd`, of all below it when `recursive`.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.12; `EPERM` for a locked attribute.
///
/// Source: `mount_setattr(2)`.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    change: MountChange,
    recursive: bool,
) -> io::Result<()> {
    let attr = [
        change.set,
        change.clear,
        change.propagation,
        change.user_namespace,
    ];
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static empty string; `attr` has the layout of struct mount_attr
    // (four u64), its true size is passed, and the kernel only reads it.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            mem::size_of_val(&attr),
        )
    };
    check(ret).map(drop)
}

/// Brings the loopback interface of the current network namespace up.
///
/// Source: `netdevice(7)`, `SIOCSIFFLAGS`.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: ifreq is plain old data for which all-zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo".iter()) {
        *to = from.cast_signed();
    }
    let up = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| invalid())?;
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: the kernel reads one ifreq with a NUL-terminated name from a live local.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(ret.into()).map(drop)
}

/// Blocks `signals` in this thread and opens a descriptor that yields them.
///
/// Source: `signalfd(2)`, `sigprocmask(2)`.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is an initialised sigset_t that lives through the call.
    let ret = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    check(ret.into())?;
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    let fd = RawFd::try_from(check(fd.into())?).map_err(|_| invalid())?;
    // SAFETY: the kernel just returned `fd` to us and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset below gives it its value.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live local.
    unsafe { libc::sigemptyset(&raw mut set) };
    for &signal in signals {
        // SAFETY: `set` is a live, initialised local; a bad number is refused with EINVAL.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Gives all signals their default action and unblocks them, as a new program expects.
///
/// Source: `signal(7)`.
pub(crate) fn reset_signals() {
    (1..=64).for_each(reset_signal);
    unblock_signals();
}

/// Gives a signal its default action.
///
/// Source: `signal(2)`.
pub(crate) fn reset_signal(signal: i32) {
    // SAFETY: SIG_DFL is a valid disposition; numbers that cannot be changed give EINVAL.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Unblocks all signals.
///
/// Source: `sigprocmask(2)`.
pub(crate) fn unblock_signals() {
    let set = signal_set(&[]);
    // SAFETY: `set` is an initialised sigset_t that lives through the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// Reads one `signalfd_siginfo`; returns the signal's number.
pub(crate) fn signal_number(record: &[u8; 128]) -> Option<i32> {
    let bytes: [u8; 4] = record.get(..4)?.try_into().ok()?;
    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel writes the host's order"
    )]
    i32::try_from(u32::from_ne_bytes(bytes)).ok()
}

/// Marks all descriptors from `first` up close-on-exec.
///
/// # Errors
///
/// `EINVAL` before Linux 5.11.
///
/// Source: `close_range(2)`.
pub(crate) fn close_range_cloexec(first: u32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: three integers; setting FD_CLOEXEC closes nothing that is owned here.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    check(ret).map(drop)
}

/// Closes all descriptors from 3 on but one. For a process that never goes back to what owned
/// them: it must end with [`exit_now`].
///
/// Source: `close_range(2)`.
pub(crate) fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = u32::try_from(kept.as_raw_fd()).map_err(|_| invalid())?;
    for (first, last) in [
        (3, kept.saturating_sub(1)),
        (kept.saturating_add(1), u32::MAX),
    ] {
        if first > last {
            continue;
        }
        // SAFETY: three integers; no owner of what is closed is used or dropped any more, since
        // the caller only waits and then ends without unwinding.
        let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        check(ret)?;
    }
    Ok(())
}

/// Ignores a signal.
///
/// Source: `signal(2)`.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition; a number that cannot be changed gives EINVAL.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Takes the write lock of an open file description on the whole file; false when held.
///
/// Source: `fcntl(2)`, "Open file description locks".
pub(crate) fn ofd_lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let lock = whole_file_lock();
    // SAFETY: the kernel reads one struct flock from a live local.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match check(ret.into()) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Says whether some other open file description holds the lock of [`ofd_lock`].
///
/// Source: `fcntl(2)`, `F_OFD_GETLK`.
pub(crate) fn ofd_locked(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    // SAFETY: the kernel reads and writes one struct flock in a live local.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    check(ret.into())?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn whole_file_lock() -> libc::flock {
    // SAFETY: flock is plain old data for which all-zero bytes are a valid value.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = i16::try_from(libc::F_WRLCK).unwrap_or(1);
    lock
}

/// How [`spawn`] starts a program.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    /// Program and arguments; the program is found through `PATH`.
    pub(crate) argv: &'a [OsString],
    /// Descriptors the program gets, and under which numbers.
    pub(crate) fds: &'a [(BorrowedFd<'a>, RawFd)],
    /// Whether it starts a session of its own.
    pub(crate) session: bool,
}

/// Starts a program with this process's environment and no blocked signals.
///
/// # Errors
///
/// Those of `execve(2)`; `EINVAL` for an empty command or an embedded NUL.
///
/// Source: `posix_spawn(3)`.
pub(crate) fn spawn(spawn: &Spawn<'_>) -> io::Result<Pid> {
    let program = spawn.argv.first().ok_or_else(invalid)?;
    spawn_program(program, spawn, None)
}

/// Starts `program` under the name in `spawn`, with an environment of its own when there is one.
///
/// # Errors
///
/// As [`spawn`].
pub(crate) fn spawn_program(
    program: &OsStr,
    spawn: &Spawn<'_>,
    env: Option<&[CString]>,
) -> io::Result<Pid> {
    let program = CString::new(program.as_bytes()).map_err(|_| invalid())?;
    let argv: Vec<CString> = spawn
        .argv
        .iter()
        .map(|text| CString::new(text.as_bytes()).map_err(|_| invalid()))
        .collect::<io::Result<_>>()?;
    let list = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        let strings = strings.iter().map(|text| text.as_ptr().cast_mut());
        strings.chain([ptr::null_mut()]).collect()
    };
    let pointers = list(&argv);
    let own_env = env.map(list);
    // A source must not sit on a number that an earlier step of the list overwrites.
    let above = spawn.fds.iter().map(|(_, to)| to + 1).max().unwrap_or(0);
    let sources = spawn
        .fds
        .iter()
        .map(|(fd, to)| Ok((rustix::io::fcntl_dupfd_cloexec(fd, above)?, *to)))
        .collect::<io::Result<Vec<(OwnedFd, RawFd)>>>()?;
    let mut actions = mem::MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    let mut attr = mem::MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    // SAFETY: init functions write the whole object and fail only for lack of memory.
    unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) };
    // SAFETY: as above.
    unsafe { libc::posix_spawnattr_init(attr.as_mut_ptr()) };
    for (from, to) in &sources {
        // SAFETY: `actions` was initialised above.
        unsafe {
            libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), from.as_raw_fd(), *to)
        };
    }
    let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
    let (none, pipe) = (signal_set(&[]), signal_set(&[libc::SIGPIPE]));
    // SAFETY: `attr` was initialised above, `none` is a live sigset_t.
    unsafe { libc::posix_spawnattr_setsigmask(attr.as_mut_ptr(), &raw const none) };
    // SAFETY: as above.
    unsafe { libc::posix_spawnattr_setsigdefault(attr.as_mut_ptr(), &raw const pipe) };
    if spawn.session {
        flags |= 0x80; // POSIX_SPAWN_SETSID
    }
    // SAFETY: `attr` was initialised above.
    unsafe {
        libc::posix_spawnattr_setflags(attr.as_mut_ptr(), i16::try_from(flags).unwrap_or_default())
    };
    let mut pid = 0;
    // SAFETY: `environ` is only read, while no other thread of ours changes it.
    let inherited = unsafe { environ };
    let env = own_env.as_ref().map_or(inherited, |list| list.as_ptr());
    // SAFETY: every pointer is to a live, initialised object; argv and the environment end with a
    // null pointer.
    let ret = unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            program.as_ptr(),
            actions.as_ptr(),
            attr.as_ptr(),
            pointers.as_ptr(),
            env,
        )
    };
    // SAFETY: both were initialised above and are not used after.
    unsafe { libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr()) };
    // SAFETY: as above.
    unsafe { libc::posix_spawnattr_destroy(attr.as_mut_ptr()) };
    if ret != 0 {
        return Err(io::Error::from_raw_os_error(ret));
    }
    Pid::from_raw(pid).ok_or_else(invalid)
}

unsafe extern "C" {
    static environ: *const *mut libc::c_char;
}

/// Takes over descriptor `fd`, which the process inherited by agreement with its parent.
///
/// # Errors
///
/// `EBADF` when it is not open.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: an integer call; it fails with EBADF on a closed descriptor.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    check(ret.into())?;
    // SAFETY: the descriptor is open, and by the agreement of the re-executed commands nothing
    // else in this fresh process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `fd` descriptor number `target`, without close-on-exec: for standard streams.
///
/// Source: `dup2(2)`.
pub(crate) fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: two integers; the standard stream numbers replaced here are owned by nobody.
    let ret = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    check(ret.into()).map(drop)
}

/// Sends any signal number through a pid descriptor, real-time signals included.
///
/// Source: `pidfd_send_signal(2)`.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means what kill(2) would send.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    };
    check(ret).map(drop)
}

/// Joins all namespaces named in `flags` of the process behind `pidfd` at once.
///
/// Source: `setns(2)`, Linux 5.8.
pub(crate) fn setns(pidfd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    let flags = i32::try_from(flags).map_err(|_| invalid())?;
    // SAFETY: two integers; the caller is single-threaded, so no other thread shares the change.
    let ret = unsafe { libc::setns(pidfd.as_raw_fd(), flags) };
    check(ret.into()).map(drop)
}

/// Moves this process into new namespaces.
///
/// Source: `unshare(2)`.
pub(crate) fn unshare(flags: u64) -> io::Result<()> {
    let flags = i32::try_from(flags).map_err(|_| invalid())?;
    // SAFETY: an integer; namespace flags only are passed, so no memory or descriptor table of
    // other threads is affected.
    let ret = unsafe { libc::unshare(flags) };
    check(ret.into()).map(drop)
}

/// The magic number of the file system `fd` is on.
pub(crate) fn filesystem_magic(fd: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: statfs is plain old data for which all-zero bytes are a valid value.
    let mut buf: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one struct statfs into a live local.
    let ret = unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut buf) };
    check(ret.into())?;
    Ok(buf.f_type)
}

/// Changes the execution domain of this process.
///
/// Source: `personality(2)`.
pub(crate) fn personality(domain: u64) -> io::Result<()> {
    // SAFETY: the call takes an integer.
    let ret = unsafe { libc::personality(domain) };
    check(ret.into()).map(drop)
}

/// `struct sched_attr`, version 0. Source: `sched_setattr(2)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Changes the scheduling policy of this process.
///
/// Source: `sched_setattr(2)`.
pub(crate) fn sched_setattr(mut attr: SchedAttr) -> io::Result<()> {
    attr.size = u32::try_from(mem::size_of::<SchedAttr>()).map_err(|_| invalid())?;
    // SAFETY: the kernel reads one struct whose true size is in its first field.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    check(ret).map(drop)
}

/// Changes the input and output priority of this process: class and level.
///
/// Source: `ioprio_set(2)`.
pub(crate) fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(level);
    // SAFETY: the call takes three integers; process 0 is this one.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    check(ret).map(drop)
}

/// Sends a signal to a process by id: for processes of a control group, whose ids were just read.
///
/// Source: `kill(2)`.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(invalid());
    }
    // SAFETY: the call takes two integers; a positive id means one process.
    let ret = unsafe { libc::kill(pid, signal) };
    check(ret.into()).map(drop)
}

/// `union bpf_attr` as far as loading and attaching need it: 64-bit words, each call its own.
/// Source: `linux/bpf.h`.
fn bpf(command: libc::c_int, attr: &[u64]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `attr` up to the true size passed; the pointers in it, put there by
    // the callers below, are to live memory that the kernel only reads.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attr.as_ptr(),
            mem::size_of_val(attr),
        )
    };
    check(ret)
}

/// Loads a program that decides about access to devices.
///
/// # Errors
///
/// `EPERM` without `CAP_BPF`; `EINVAL` for a program that is none.
///
/// Source: `bpf(2)`, `BPF_PROG_LOAD`.
pub(crate) fn load_device_program(code: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const CGROUP_DEVICE: u64 = 15;
    let count = u64::try_from(code.len()).map_err(|_| invalid())?;
    let words = [
        // Type in the low half, number of instructions in the high one.
        CGROUP_DEVICE | count << 32,
        code.as_ptr() as u64,
        c"GPL".as_ptr() as u64,
        0,
        0,
        0,
    ];
    let fd = RawFd::try_from(bpf(PROG_LOAD, &words)?).map_err(|_| invalid())?;
    // SAFETY: the kernel just returned `fd` to us and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a control group under a program of [`load_device_program`].
///
/// Source: `bpf(2)`, `BPF_PROG_ATTACH`.
pub(crate) fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u64 = 6;
    const ALLOW_MULTI: u64 = 2;
    let number = |fd: BorrowedFd<'_>| u64::try_from(fd.as_raw_fd()).map_err(|_| invalid());
    let words = [
        number(group)? | number(program)? << 32,
        CGROUP_DEVICE | ALLOW_MULTI << 32,
    ];
    bpf(PROG_ATTACH, &words).map(drop)
}
