//! The private line between two of our processes: whole messages, each with descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// Largest message in bytes: they hold one error text or the start options.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Most descriptors in one message. Source: `unix(7)`, `SCM_MAX_FD`.
pub(crate) const FDS_MAX: usize = 253;

/// What goes over the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Message {
    /// The id map is written.
    IdMapWritten,
    /// Two descriptors: the terminal's master side, and its slave side, held so that it never hangs up.
    Terminal,
    /// One descriptor: the system call listener.
    Listener,
    /// One descriptor: a detached mount.
    Mount,
    /// The process that [`crate::exec`] made; its id on the host.
    Process(i32),
    /// The network is ready; to the container's first process, without saying what it is.
    NetworkReady,
    /// What the network became, and whether a process stays that holds it.
    Network(Box<crate::net::NetState>, bool),
    /// Something failed.
    Failed(Failure),
    /// The start options; with the log, the stream of a client that is attached from the beginning,
    /// a process of the user namespace, each where there is one, and what the container's process is
    /// to have besides.
    Start(crate::monitor::StartOptions),
    /// The mounts of a bundle stand; hooks outside may run.
    Mounted,
    /// They have run; holds the container's state for the hooks inside.
    Proceed(String),
    /// The process waits to be started.
    Ready,
    /// The container runs.
    Started {
        /// What could not be honoured.
        warnings: Vec<String>,
    },
}

/// A connected pair of lines.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message.
///
/// # Errors
///
/// Those of `sendmsg(2)`; `EPIPE` when the other side is gone.
pub(crate) fn send(
    line: BorrowedFd<'_>,
    message: &Message,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.truncate(MESSAGE_BYTES_MAX);
    send_bytes(line, &bytes, fds)
}

/// Sends raw bytes and descriptors in one message.
pub(crate) fn send_bytes(
    line: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    sendmsg(
        line,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message; `None` when the other side closed the line.
///
/// # Errors
///
/// Those of `recvmsg(2)`; `InvalidData` for what is not a message.
pub(crate) fn receive(line: impl AsFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = vec![0_u8; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(
            line.as_fd(),
            &mut parts,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, fds)))
}
