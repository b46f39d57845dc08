//! Published ports: what arrives on the host's side is carried to the container.
//!
//! The host's sockets listen in the host's network, the other sockets are made by [`Inside`] in
//! the container's. No packet passes a network stack of ours, so this is as fast as the kernel's
//! loopback, and works without any uplink.

mod datagram;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with, connect, getsockname, sockopt};

use self::datagram::Sessions;
use self::stream::{Pipes, Progress, Stream};
use super::config::Protocol;
use super::inside::Inside;
use super::listen::Listener;
use super::poll::{Kind, Poller, Slab};

/// Connections carried at once; each holds at most six descriptors.
const STREAMS_MAX: usize = 10_000;
/// Connections accepted in one go before data is carried again.
const ACCEPTS_MAX: usize = 256;
/// The congestion control of sockets whose bytes stay on this host: every kernel has it and every
/// user may choose it. A loopback has no queue to be gentle with, and the host's default may pace
/// what it sends (`bbr` does), which costs a third of the rate.
pub(super) const CONGESTION_NEAR: &str = "reno";

/// The published ports of a container at work.
#[derive(Debug)]
pub(crate) struct Proxy {
    inside: Inside,
    listeners: Vec<Listener>,
    target: std::net::Ipv4Addr,
    streams: Slab<Stream>,
    pipes: Pipes,
    sessions: Sessions,
    /// Streams that have more to move than their turn allowed.
    busy: Vec<usize>,
    /// Listeners that may have more connections than could be taken.
    waiting: Vec<usize>,
}

impl Proxy {
    /// Carries what arrives at `listeners` to `target` in the network of `inside`.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
    pub(crate) fn new(
        inside: Inside,
        listeners: Vec<Listener>,
        target: std::net::Ipv4Addr,
        poller: &Poller,
    ) -> io::Result<Self> {
        for (index, listener) in listeners.iter().enumerate() {
            poller.add(&listener.socket, Kind::Listener, index)?;
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if listeners.iter().any(|one| one.port.protocol == protocol) {
                inside.prepare(protocol);
            }
        }
        Ok(Self {
            inside,
            listeners,
            target,
            streams: Slab::default(),
            pipes: Pipes::default(),
            sessions: Sessions::default(),
            busy: Vec::new(),
            waiting: Vec::new(),
        })
    }

    /// How long to wait for the next event at most, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> Option<u32> {
        if self.busy.is_empty() && self.waiting.is_empty() {
            self.sessions.timeout_ms()
        } else {
            Some(0)
        }
    }

    /// Does what was left over and what is due.
    pub(crate) fn tick(&mut self, poller: &Poller) {
        for index in std::mem::take(&mut self.busy) {
            self.stream(index, poller);
        }
        for index in std::mem::take(&mut self.waiting) {
            self.listener(index, poller);
        }
        self.sessions.expire();
    }

    /// Something arrived at a listener.
    pub(crate) fn listener(&mut self, index: usize, poller: &Poller) {
        let Some(listener) = self.listeners.get(index) else {
            return;
        };
        let target = SocketAddr::new(self.target.into(), listener.port.container_port);
        if listener.port.protocol == Protocol::Udp {
            let socket = &listener.socket;
            self.sessions
                .carry_in(index, socket, target, &self.inside, poller);
            return;
        }
        for _ in 0..ACCEPTS_MAX {
            if self.streams.len() >= STREAMS_MAX {
                return;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match acceptfrom_with(&listener.socket, flags) {
                Ok((client, peer)) => {
                    let server = open(&self.inside, target);
                    let Ok(server) = server else {
                        // The client sees its connection closed.
                        continue;
                    };
                    tune_client(&client, peer);
                    let index = self.streams.next();
                    let watched = poller
                        .add(&client, Kind::Stream, index)
                        .and_then(|()| poller.add(&server, Kind::Stream, index));
                    if watched.is_ok() {
                        self.streams.insert(Stream::new(client, server));
                    }
                }
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                // Nothing more, or no more descriptors: the end of a connection asks again.
                Err(_) => return,
            }
        }
        self.waiting.push(index);
    }

    /// Something happened to a connection.
    pub(crate) fn stream(&mut self, index: usize, poller: &Poller) {
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        match stream.turn(&mut self.pipes) {
            Progress::Waits => {}
            Progress::More => self.busy.push(index),
            Progress::Ended => {
                let full = self.streams.len() >= STREAMS_MAX;
                self.streams.remove(index);
                if full {
                    (0..self.listeners.len()).for_each(|index| self.listener(index, poller));
                }
            }
        }
    }

    /// Something arrived from the container for a client.
    pub(crate) fn session(&mut self, index: usize) {
        self.sessions.carry_out(index, &self.listeners);
    }
}

/// How far the bytes of a socket go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// They stay on this host.
    Near,
    /// They may pass a network, for which the host's own choice is right.
    Far,
}

/// A client is near if it came over the loopback, or from the very address that it went to.
fn reach(peer: IpAddr, own: IpAddr) -> Reach {
    if peer.is_loopback() || peer == own {
        Reach::Near
    } else {
        Reach::Far
    }
}

/// Prepares the socket of a client that is at `peer`.
fn tune_client(client: &OwnedFd, peer: Option<SocketAddrAny>) {
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let own = getsockname(client).and_then(SocketAddr::try_from).ok();
    let ends = peer.zip(own);
    tune(
        client,
        ends.map_or(Reach::Far, |(peer, own)| reach(peer.ip(), own.ip())),
    );
}

/// Prepares a socket for carrying.
fn tune(socket: &OwnedFd, reach: Reach) {
    let _slower = sockopt::set_tcp_nodelay(socket, true);
    if reach == Reach::Near {
        let _slower = sockopt::set_tcp_congestion(socket, CONGESTION_NEAR);
    }
}

/// A socket of the container that is connecting to `target`.
fn open(inside: &Inside, target: SocketAddr) -> io::Result<OwnedFd> {
    let socket = inside.socket(Protocol::Tcp)?;
    tune(&socket, Reach::Near);
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_what_stays_on_this_host_is_near() {
        let cases = [
            ("127.0.0.1", "127.0.0.1", Reach::Near),
            ("127.0.0.9", "127.0.0.1", Reach::Near),
            ("::1", "::1", Reach::Near),
            ("192.0.2.7", "192.0.2.7", Reach::Near),
            ("2001:db8::7", "2001:db8::7", Reach::Near),
            ("192.0.2.8", "192.0.2.7", Reach::Far),
            ("192.0.2.8", "127.0.0.1", Reach::Far),
            ("2001:db8::8", "2001:db8::7", Reach::Far),
        ];
        for (peer, own, expected) in cases {
            let found = reach(peer.parse().unwrap(), own.parse().unwrap());
            assert_eq!(found, expected, "{peer} to {own}");
        }
    }

    #[test]
    fn a_near_client_is_answered_unpaced_and_without_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, peer) = acceptfrom_with(&listener, flags).unwrap();
        tune_client(&socket, peer);
        assert_eq!(sockopt::tcp_congestion(&socket).unwrap(), CONGESTION_NEAR);
        assert!(sockopt::tcp_nodelay(&socket).unwrap());
    }
}
