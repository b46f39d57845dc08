//! Programs that connect a private network to the outside: `pasta` and `slirp4netns`.

use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid};

use super::config::{Mac, UplinkChoice};
use crate::monitor::wait_readable;
use crate::sys;

/// The container's address behind an uplink without a bridge. Source: `slirp4netns(1)`.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// Length of that network's prefix.
pub(crate) const PREFIX_BITS: u8 = 24;
/// Its gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Where its name server answers, which asks the host's.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Largest packet: few large ones cost less than many small ones.
pub(crate) const MTU: u16 = 65520;
/// The container's interface. Source: Docker.
pub(crate) const INTERFACE: &str = "eth0";
/// How long a program may take to be ready, in milliseconds.
const READY_MS: u32 = 10_000;
/// How long a program that failed may take to end by itself, in milliseconds.
const ENDING_MS: u32 = 500;
/// Where slirp4netns says that it is ready.
const READY_FD: i32 = 8;

/// Which programs this host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// Path of `pasta`.
    pub pasta: Option<PathBuf>,
    /// Path of `slirp4netns`.
    pub slirp4netns: Option<PathBuf>,
}

impl Programs {
    /// What [`UplinkChoice::Auto`] tries on this host for an ordinary user, in order: our own
    /// stack, which starts fastest, carries most and needs least; but where the host itself has
    /// no IPv4, which is all our stack speaks, the programs first.
    #[must_use]
    pub fn order(&self) -> Vec<UplinkChoice> {
        self.order_for(host_has_ipv4())
    }

    fn order_for(&self, ipv4: bool) -> Vec<UplinkChoice> {
        let mut order = Vec::new();
        if self.pasta.is_some() {
            order.push(UplinkChoice::Pasta);
        }
        if self.slirp4netns.is_some() {
            order.push(UplinkChoice::Slirp4netns);
        }
        let place = if ipv4 { 0 } else { order.len() };
        order.insert(place, UplinkChoice::Builtin);
        order
    }
}

/// Whether the host would know where to send a packet by IPv4. None is sent: the address is one
/// that documentation uses. Source: RFC 5737.
fn host_has_ipv4() -> bool {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    socket.is_ok_and(|socket| socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).is_ok())
}

/// A program that is the uplink.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: Pid,
}

impl Uplink {
    /// What the program ended with.
    pub(crate) fn reap(&self) -> String {
        how(waited(self.pid))
    }
}

/// Where an external uplink works: its container's namespace as a file, and files of its own.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// A file that is the container's network namespace.
    pub(crate) netns: &'a Path,
    /// The container directory.
    pub(crate) dir: &'a Path,
    /// The container's hardware address.
    pub(crate) mac: Mac,
}

/// Starts `pasta`, which goes to the background when the container has its interface.
///
/// It runs as root of the container's user namespace, with an address of ours instead of the
/// host's, which thereby stays reachable.
///
/// # Errors
///
/// Says what the program said.
pub(crate) fn pasta(program: &Path, place: &Place<'_>) -> Result<Uplink, String> {
    let pid_file = place.dir.join("pasta.pid");
    let mut argv = words(
        program,
        &[
            "--quiet",
            "--config-net",
            "--netns-only",
            "--ns-ifname",
            INTERFACE,
            "--mtu",
            &MTU.to_string(),
            "--address",
            &ADDRESS.to_string(),
            "--netmask",
            &PREFIX_BITS.to_string(),
            "--gateway",
            &GATEWAY.to_string(),
            "--dns-forward",
            &NAME_SERVER.to_string(),
            "--no-map-gw",
            "--no-dhcp",
            "--no-dhcpv6",
            "-t",
            "none",
            "-u",
            "none",
            "-T",
            "none",
            "-U",
            "none",
        ],
    );
    argv.extend(["--ns-mac-addr".into(), place.mac.to_string().into()]);
    argv.extend(["--pid".into(), pid_file.clone().into()]);
    argv.extend(["--netns".into(), place.netns.into()]);
    let started = Started::new(&argv, None, place)?;
    if !wait_readable(started.uplink.pidfd.as_fd(), READY_MS) {
        return Err(started.failed());
    }
    match waited(started.uplink.pid) {
        Some(status) if status.exit_status() == Some(0) => {}
        status => return Err(started.words(&how(status))),
    }
    let pid = crate::files::read_bounded(&pid_file, 64)
        .ok()
        .and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| "did not say its process id".to_owned())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| started.words(&format!("is gone: {error}")))?;
    Ok(Uplink { pidfd, pid })
}

/// Starts `slirp4netns` and waits until the container has its interface.
///
/// # Errors
///
/// Says what the program said.
pub(crate) fn slirp4netns(program: &Path, place: &Place<'_>) -> Result<Uplink, String> {
    let mut argv = words(
        program,
        &[
            "--configure",
            "--disable-host-loopback",
            "--mtu",
            &MTU.to_string(),
            "--ready-fd",
            &READY_FD.to_string(),
            "--netns-type",
            "path",
        ],
    );
    argv.push(format!("--macaddress={}", place.mac).into());
    argv.extend([place.netns.into(), INTERFACE.into()]);
    let (ready, far) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let started = Started::new(&argv, Some(&far), place)?;
    drop(far);
    let mut byte = [0; 1];
    let said = wait_readable(ready.as_fd(), READY_MS)
        && matches!(rustix::io::read(&ready, &mut byte), Ok(1));
    if said {
        return Ok(started.uplink);
    }
    Err(started.failed())
}

fn words(program: &Path, options: &[&str]) -> Vec<OsString> {
    let program = std::iter::once(program.into());
    program.chain(options.iter().map(OsString::from)).collect()
}

/// A program that is not known to be ready.
struct Started {
    uplink: Uplink,
    log: PathBuf,
    /// Length of the log before.
    start: u64,
}

impl Started {
    fn new(argv: &[OsString], ready: Option<&OwnedFd>, place: &Place<'_>) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let log = place.dir.join(crate::monitor::SERVER_LOG);
        let mut options = File::options();
        let file = options.create(true).append(true).open(&log).map_err(text)?;
        let start = file.metadata().map_err(text)?.len();
        let mut fds = vec![(file.as_fd(), 1), (file.as_fd(), 2)];
        if let Some(ready) = ready {
            fds.push((ready.as_fd(), READY_FD));
        }
        let spawn = sys::Spawn {
            argv,
            fds: &fds,
            session: false,
        };
        let pid = sys::spawn(&spawn).map_err(text)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| text(error.into()))?;
        let uplink = Uplink { pidfd, pid };
        Ok(Self { uplink, log, start })
    }

    /// Ends it if it still runs, and says how it failed.
    fn failed(&self) -> String {
        let ended = wait_readable(self.uplink.pidfd.as_fd(), ENDING_MS);
        if !ended {
            let _ended = sys::pidfd_signal(self.uplink.pidfd.as_fd(), libc::SIGKILL);
            wait_readable(self.uplink.pidfd.as_fd(), ENDING_MS);
        }
        let status = waited(self.uplink.pid);
        self.words(&if ended {
            how(status)
        } else {
            "was not ready in time".to_owned()
        })
    }

    fn words(&self, how: &str) -> String {
        match said_since(&self.log, self.start) {
            Some(said) => format!("{how}: {said}"),
            None => how.to_owned(),
        }
    }
}

fn waited(pid: Pid) -> Option<WaitStatus> {
    let waited = waitpid(Some(pid), WaitOptions::NOHANG);
    waited.ok().flatten().map(|(_, status)| status)
}

fn how(status: Option<WaitStatus>) -> String {
    let code = status.and_then(WaitStatus::exit_status);
    match (code, status.and_then(WaitStatus::terminating_signal)) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last line that was written to a log after its first `start` bytes.
fn said_since(log: &Path, start: u64) -> Option<String> {
    let bytes = crate::files::read_bounded(log, 1 << 20).ok()?;
    let text = String::from_utf8_lossy(bytes.get(usize::try_from(start).ok()?..)?).into_owned();
    text.lines()
        .rev()
        .map(str::trim)
        // Distributions without a system logger make pasta say so at every line.
        .find(|line| !line.is_empty() && !line.contains("syslog"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_stack_comes_first_where_there_is_ipv4() {
        use UplinkChoice::{Builtin, Pasta, Slirp4netns};
        let none = Programs::default();
        assert_eq!(none.order_for(false), [Builtin]);
        let both = Programs {
            pasta: Some("/p".into()),
            slirp4netns: Some("/s".into()),
        };
        assert_eq!(both.order_for(true), [Builtin, Pasta, Slirp4netns]);
        assert_eq!(both.order_for(false), [Pasta, Slirp4netns, Builtin]);
    }
}
