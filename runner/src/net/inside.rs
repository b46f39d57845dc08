//! Sockets of the container's network, made by a thread that lives in it.
//!
//! A socket belongs for ever to the network namespace its maker was in. A thread can join another
//! network namespace alone, so one thread of the helper makes sockets inside while the others stay
//! on the host; nothing needs to be handed between processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::config::Protocol;
use crate::sys;

/// Bytes of stack of the thread: it only makes system calls.
const STACK_BYTES: usize = 128 << 10;
/// Sockets made before they are asked for, of each kind.
const READY: usize = 4;

/// The thread inside, and the sockets it has ready.
#[derive(Debug)]
pub(crate) struct Inside {
    orders: Sender<Protocol>,
    streams: Receiver<rustix::io::Result<OwnedFd>>,
    datagrams: Receiver<rustix::io::Result<OwnedFd>>,
}

/// The thread inside is gone.
fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

/// Does something in another network namespace, in a thread that has ended when this returns.
///
/// # Errors
///
/// Those of `setns(2)` and of `action`.
pub(crate) fn within<T: Send>(
    netns: &OwnedFd,
    action: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    apart(|| sys::setns(netns.as_fd(), sys::CLONE_NEWNET).and_then(|()| action()))
}

/// Does something in a new network namespace, which goes with the last socket made in it.
///
/// # Errors
///
/// Those of `unshare(2)` and of `action`.
pub(crate) fn nowhere<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    apart(|| sys::unshare(sys::CLONE_NEWNET).and_then(|()| action()))
}

/// Does something in a thread of its own, which has ended when this returns.
fn apart<T: Send>(body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, body)?;
        thread.join().map_err(|_| gone())?
    })
}

impl Inside {
    /// Starts the thread and lets it join the namespace.
    ///
    /// # Errors
    ///
    /// Those of `setns(2)`.
    pub(crate) fn start(netns: OwnedFd) -> io::Result<Self> {
        let (orders, taken) = channel();
        let (stream_out, streams) = channel();
        let (datagram_out, datagrams) = channel();
        let (begun_out, begun) = channel();
        let body = move || {
            let entered = sys::setns(netns.as_fd(), sys::CLONE_NEWNET);
            drop(netns);
            let failed = entered.is_err();
            if begun_out.send(entered).is_err() || failed {
                return;
            }
            drop(begun_out);
            while let Ok(protocol) = taken.recv() {
                let (kind, out) = match protocol {
                    Protocol::Tcp => (SocketType::STREAM, &stream_out),
                    Protocol::Udp => (SocketType::DGRAM, &datagram_out),
                };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let made = socket_with(AddressFamily::INET, kind, flags, None);
                if out.send(made).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("inside".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body)?;
        begun.recv().map_err(|_| gone())??;
        Ok(Self {
            orders,
            streams,
            datagrams,
        })
    }

    /// Has some sockets of a kind made in advance.
    pub(crate) fn prepare(&self, protocol: Protocol) {
        for _ in 0..READY {
            // A thread that is gone is noticed when a socket is taken.
            let _gone = self.orders.send(protocol);
        }
    }

    /// A socket of the container, not blocking and not connected.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`.
    pub(crate) fn socket(&self, protocol: Protocol) -> io::Result<OwnedFd> {
        self.orders.send(protocol).map_err(|_| gone())?;
        let made = match protocol {
            Protocol::Tcp => self.streams.recv(),
            Protocol::Udp => self.datagrams.recv(),
        };
        Ok(made.map_err(|_| gone())??)
    }
}
