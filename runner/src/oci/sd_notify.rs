//! Telling a service manager that a container is ready: what the container's process writes to a socket
//! of its own is passed to the manager's.
//!
//! The manager's socket itself is not given to the container: it takes more than one message, and
//! would take them from whoever is inside.
//!
//! Source: `sd_notify(3)`; the paths inside are runc's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, openat};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv,
    sendto, socket_with,
};

use super::launch::Start;
use super::registry::Container;
use super::spec::{Mount, Spec};
use crate::error::{At, RunnerError};

/// The directory of the container's state that holds the socket.
const DIR: &str = "notify";
/// The socket's name.
const SOCKET: &str = "notify.sock";
/// Where the directory is inside.
const INSIDE: &str = "/run/notify";
/// Longest message read, in bytes; what is longer is cut, as by systemd.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Mounts the directory of a socket that is yet to be made, and says so in the environment.
pub(super) fn share(spec: &mut Spec, state_dir: &Path) {
    spec.mounts.push(Mount {
        destination: INSIDE.into(),
        kind: "bind".to_owned(),
        source: state_dir.join(DIR),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"]
            .map(str::to_owned)
            .to_vec(),
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process
            .env
            .retain(|line| !line.starts_with("NOTIFY_SOCKET="));
        process.env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
    }
}

/// The container's socket, and whom it is for.
#[derive(Debug)]
pub(super) struct Relay {
    socket: OwnedFd,
    manager: String,
}

impl Relay {
    /// Makes the directory that [`share`] has mounted, and the socket of one that is not to wait to
    /// be started.
    ///
    /// # Errors
    ///
    /// Those of `mkdir(2)`, and as [`Relay::open`].
    pub(super) fn prepare(
        container: &Container,
        start: Start,
    ) -> Result<Option<Self>, RunnerError> {
        if container.record.notify_socket.is_empty() {
            return Ok(None);
        }
        let dir = container.path(DIR);
        let made = std::fs::DirBuilder::new().mode(0o755).create(&dir);
        made.at("make", dir)?;
        match start {
            Start::Waits => Ok(None),
            Start::Now { .. } => Self::open(container),
        }
    }

    /// Makes the socket of a container whose program does not run yet; `None` when nobody waits
    /// to hear of it.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)` and `bind(2)`.
    pub(super) fn open(container: &Container) -> Result<Option<Self>, RunnerError> {
        let manager = container.record.notify_socket.clone();
        if manager.is_empty() {
            return Ok(None);
        }
        let dir = container.path(DIR);
        let make = || -> io::Result<OwnedFd> {
            let socket = datagram()?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let handle = openat(CWD, &dir, flags, Mode::empty())?;
            // The true path may be longer than a socket's path can be.
            let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            // Whoever the process is.
            chmodat(
                &handle,
                SOCKET,
                Mode::from_raw_mode(0o777),
                AtFlags::empty(),
            )?;
            Ok(socket)
        };
        let socket = make().at("make the socket of the service manager in", &dir)?;
        Ok(Some(Self { socket, manager }))
    }

    /// Waits until the process, `pid` on the host, says that it is ready, and tells the manager that
    /// and the id; or until it ends.
    ///
    /// # Errors
    ///
    /// Those of `poll(2)` and of sending to the manager.
    pub(super) fn wait(&self, process: &impl AsFd, pid: i32) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(process, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let [said, ended] = fds.map(|fd| !fd.revents().is_empty());
            if said {
                let mut message = [0_u8; MESSAGE_BYTES_MAX];
                let (count, _) = recv(&self.socket, &mut message[..], RecvFlags::DONTWAIT)?;
                if is_ready(message.get(..count).unwrap_or_default()) {
                    return self.tell(pid);
                }
            } else if ended {
                return Ok(());
            }
        }
    }

    fn tell(&self, pid: i32) -> io::Result<()> {
        let text = format!("READY=1\nMAINPID={pid}\n");
        let name = self.manager.as_bytes();
        // Abstract sockets are written with an at sign.
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(std::ffi::OsStr::from_bytes(name))?,
        };
        sendto(datagram()?, text.as_bytes(), SendFlags::NOSIGNAL, &address)?;
        Ok(())
    }
}

fn datagram() -> rustix::io::Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Whether one of a message's lines says that the service is ready.
fn is_ready(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_makes_ready() {
        for (message, ready) in [
            (&b"READY=1"[..], true),
            (b"STATUS=up\nREADY=1\n", true),
            (b"STATUS=READY=1", false),
            (b"READY=10\n", false),
            (b"", false),
        ] {
            assert_eq!(is_ready(message), ready, "{}", message.escape_ascii());
        }
    }
}
