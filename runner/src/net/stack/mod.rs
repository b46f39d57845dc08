//! The uplink of our own: a network stack in user space that ends the container's streams and
//! carries their bytes over sockets of the host.
//!
//! The container's side of an interface is the kernel's; this side reads whole frames. A segment
//! that asks for a stream waits until the host has reached the same address, so the container
//! sees a refused connection as refused. From then on the stack ([`smoltcp`]) speaks TCP to the
//! container and we copy between its buffers and the host's socket. Datagrams need no stack.
//!
//! IPv4 only, as the container has no other address.

mod datagram;
mod device;
mod frame;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with, sockopt,
};
use smoltcp::iface::{Config, Interface as Protocols, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use self::datagram::{Ports, destination};
use self::device::Interface;
use self::frame::{Ends, Frame, classify};
use super::config::Mac;
use super::inside::{nowhere, within};
use super::netlink::{Peer, Route};
use super::poll::{Kind, Poller, Slab};
use super::proxy::CONGESTION_NEAR;
use super::uplink::{ADDRESS, GATEWAY, INTERFACE, MTU, NAME_SERVER, PREFIX_BITS};
use crate::sys;

/// Bytes of each of a stream's two buffers: some large segments, so that one is on its way while
/// another is acknowledged. Untouched pages cost nothing.
const BUFFER_BYTES: usize = 512 << 10;
/// Streams at once; more are refused.
const FLOWS_MAX: usize = 1024;
/// Frames taken before data is carried on.
const FRAMES_MAX: usize = 64;
/// The other end of a container's interface, where that is no TAP.
const OTHER_END: &str = "up0";
/// Bytes of frames that may wait in a packet socket: a stream's worth.
const RECEIVED_BYTES: usize = 4 << 20;
/// Where a network namespace says what its sockets' congestion control is. Source: `tcp(7)`.
const CONGESTION_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// What `bbr` and its later versions are called: they pace what they send.
const PACING: &str = "bbr";
/// Our own hardware address. Source: `slirp4netns(1)` has the like.
const OWN_MAC: EthernetAddress = EthernetAddress([0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]);

/// One stream: the host's socket, and ours once the host's is connected.
#[derive(Debug)]
struct Flow {
    ends: Ends,
    host: OwnedFd,
    stage: Stage,
    /// Whether all the container said has been said to the host.
    told_end: bool,
    /// Whether the host has said all.
    heard_end: bool,
}

#[derive(Debug)]
enum Stage {
    /// The host's socket is connecting; holds the segment that asked for it.
    Connecting(Vec<u8>),
    /// Bytes go both ways.
    Open(SocketHandle),
}

/// Our network stack and everything it carries.
pub(super) struct Stack {
    interface: Interface,
    protocols: Protocols,
    sockets: SocketSet<'static>,
    flows: Slab<Flow>,
    by_ends: HashMap<Ends, usize>,
    ports: Ports,
    /// The container's hardware address, from its last frame.
    neighbour: EthernetAddress,
    /// Streams on which something may have happened.
    touched: Vec<usize>,
    /// Whether frames may wait that nobody will tell of again.
    more: bool,
    began: Instant,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("flows", &self.flows)
            .finish_non_exhaustive()
    }
}

/// Takes the pace from the streams of the network namespace this thread is in, if its host's
/// choice has one: what they send goes to us, over neither a network nor a queue, and we carry it on
/// over sockets of the host, which have the host's choice.
///
/// # Errors
///
/// Those of reading and writing the kernel parameter.
fn unpace() -> io::Result<()> {
    if std::fs::read_to_string(CONGESTION_FILE)?.starts_with(PACING) {
        std::fs::write(CONGESTION_FILE, CONGESTION_NEAR)?;
    }
    Ok(())
}

impl Stack {
    /// Makes the interface of the container whose network namespace is `netns`.
    ///
    /// It is a TAP. Where the user may not open `/dev/net/tun` it is one end of a pair, whose other
    /// end is in a network namespace of nobody, that lives as long as the packet socket in it.
    /// With `unpaced` the container's sockets do not take over a congestion control that paces.
    ///
    /// # Errors
    ///
    /// Those of namespaces, of the device's ioctls and of netlink.
    pub(super) fn make_interface(netns: &OwnedFd, mac: Mac, unpaced: bool) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let configure = |mtu| {
            if unpaced {
                // What cannot be set only makes it slower.
                let _slower = unpace();
            }
            let network = (ADDRESS, PREFIX_BITS);
            super::netlink::configure(INTERFACE, Some(mac), mtu, network, GATEWAY)
        };
        let tap = within(netns, || {
            let fd = openat(CWD, "/dev/net/tun", flags, Mode::empty())?;
            sys::net::become_interface(fd.as_fd(), INTERFACE)?;
            configure(Some(MTU))?;
            Ok(fd)
        });
        match tap {
            Err(error) if is_no_device(&error) => {}
            other => return other,
        }
        let socket = nowhere(|| {
            let route = Route::open()?;
            let peer = Peer {
                name: INTERFACE,
                mac,
                mtu: MTU,
                netns: netns.as_fd(),
            };
            route.add_pair(OTHER_END, MTU, None, &peer)?;
            sys::net::packet_socket(route.index(OTHER_END)?)
        })?;
        // As many frames as may be; the kernel lowers it.
        let _smaller = sockopt::set_socket_recv_buffer_size(&socket, RECEIVED_BYTES);
        within(netns, || configure(None))?;
        Ok(socket)
    }

    /// Serves the interface behind `fd`.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
    pub(super) fn new(fd: OwnedFd, poller: &Poller) -> io::Result<Self> {
        poller.add(&fd, Kind::Interface, 0)?;
        let mut interface = Interface::new(fd);
        let began = Instant::now();
        let mut config = Config::new(HardwareAddress::Ethernet(OWN_MAC));
        config.random_seed = random();
        let mut protocols = Protocols::new(config, &mut interface, smoltcp::time::Instant::ZERO);
        // Every address is ours: the container speaks to the world through us.
        protocols.set_any_ip(true);
        protocols.update_ip_addrs(|addresses| {
            for ip in [GATEWAY, NAME_SERVER] {
                // There is room for two.
                let _full = addresses.push(IpCidr::new(IpAddress::Ipv4(ip), PREFIX_BITS));
            }
        });
        Ok(Self {
            interface,
            protocols,
            sockets: SocketSet::new(Vec::new()),
            flows: Slab::default(),
            by_ends: HashMap::new(),
            ports: Ports::default(),
            neighbour: EthernetAddress::BROADCAST,
            touched: Vec::new(),
            more: false,
            began,
        })
    }

    fn now(&self) -> smoltcp::time::Instant {
        let micros = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        smoltcp::time::Instant::from_micros(micros)
    }

    /// How long to wait for the next event at most, in milliseconds.
    pub(super) fn timeout_ms(&mut self) -> Option<u32> {
        if self.more || !self.touched.is_empty() {
            return Some(0);
        }
        let now = self.now();
        let due = self.protocols.poll_delay(now, &self.sockets);
        let due =
            due.map(|delay| u32::try_from(delay.total_micros().div_ceil(1000)).unwrap_or(u32::MAX));
        [due, self.ports.timeout_ms()].into_iter().flatten().min()
    }

    /// Takes the frames that wait.
    pub(super) fn receive(&mut self, poller: &Poller) {
        self.more = true;
        for _ in 0..FRAMES_MAX {
            let Some(bytes) = self.interface.read() else {
                self.more = false;
                return;
            };
            let length = bytes.len();
            match classify(bytes, &[GATEWAY, NAME_SERVER]) {
                Frame::Segment { ends, opens } => match self.by_ends.get(&ends).copied() {
                    Some(index) => {
                        let flow = self.flows.get_mut(index);
                        // Asked again while the host is still connecting.
                        if flow.is_some_and(|flow| matches!(flow.stage, Stage::Open(_))) {
                            self.hand_over(length);
                            self.touched.push(index);
                        }
                    }
                    None if opens => {
                        let bytes = bytes.to_vec();
                        self.open(ends, bytes, poller);
                    }
                    // The stack says that there is no such stream.
                    None => self.hand_over(length),
                },
                Frame::Datagram { ends, payload } => {
                    let sender = frame::sender(bytes);
                    self.ports.carry_out(ends, payload, poller);
                    self.neighbour = sender.unwrap_or(self.neighbour);
                }
                Frame::Neighbour => self.hand_over(length),
                Frame::Other => {}
            }
        }
    }

    /// Lets the stack have the frame that was read last.
    fn hand_over(&mut self, length: usize) {
        self.interface.offer(length);
        self.ingress();
    }

    fn ingress(&mut self) {
        let now = self.now();
        let (interface, sockets) = (&mut self.interface, &mut self.sockets);
        // What changed is known from the frame's addresses.
        let _changed = self.protocols.poll_ingress_single(now, interface, sockets);
    }

    /// Refuses the stream that a segment asks for: nobody listens for it in the stack.
    fn refuse(&mut self, segment: &[u8]) {
        self.interface.offer_again(segment);
        self.ingress();
    }

    /// Starts to connect the host's side of a stream.
    fn open(&mut self, ends: Ends, segment: Vec<u8>, poller: &Poller) {
        let target = destination(ends.far).filter(|_| self.flows.len() < FLOWS_MAX);
        let host = target.and_then(|target| connecting(target).ok());
        let Some(host) = host else {
            return self.refuse(&segment);
        };
        let index = self.flows.next();
        if poller.add(&host, Kind::Flow, index).is_err() {
            return self.refuse(&segment);
        }
        self.flows.insert(Flow {
            ends,
            host,
            stage: Stage::Connecting(segment),
            told_end: false,
            heard_end: false,
        });
        self.by_ends.insert(ends, index);
        self.touched.push(index);
    }

    /// Something happened to the host's side of a stream.
    pub(super) fn flow(&mut self, index: usize) {
        self.touched.push(index);
    }

    /// Answers came for a port of the container.
    pub(super) fn datagram(&mut self, index: usize) {
        let Self {
            ports,
            interface,
            neighbour,
            ..
        } = self;
        ports.carry_in(index, |ends, payload| {
            interface.write(|out| frame::datagram(out, (OWN_MAC, *neighbour), ends, payload));
        });
    }

    /// Carries on what was touched and what is due.
    pub(super) fn tick(&mut self, poller: &Poller) {
        if self.more {
            self.receive(poller);
        }
        let mut ended = Vec::new();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for index in touched {
            if self.carry(index) {
                ended.push(index);
            }
        }
        let now = self.now();
        let (interface, sockets) = (&mut self.interface, &mut self.sockets);
        self.protocols.poll_maintenance(now);
        while self.protocols.poll_egress(now, interface, sockets)
            == smoltcp::iface::PollResult::SocketStateChanged
        {}
        // Only now has the container been told of an end.
        for index in ended {
            if let Some(flow) = self.flows.remove(index) {
                self.by_ends.remove(&flow.ends);
                if let Stage::Open(handle) = flow.stage {
                    self.sockets.remove(handle);
                }
            }
        }
        self.ports.expire();
    }

    /// Carries one stream on; true when it is at its end.
    fn carry(&mut self, index: usize) -> bool {
        let Some(flow) = self.flows.get_mut(index) else {
            return false;
        };
        if let Stage::Connecting(segment) = &mut flow.stage {
            match connected(&flow.host) {
                Ok(false) => return false,
                Ok(true) => {
                    let segment = std::mem::take(segment);
                    self.accept(index, &segment);
                }
                Err(_) => {
                    let segment = std::mem::take(segment);
                    self.refuse(&segment);
                    return true;
                }
            }
        }
        let Some(flow) = self.flows.get_mut(index) else {
            return false;
        };
        match flow.stage {
            Stage::Open(handle) => exchange(flow, self.sockets.get_mut::<Socket<'_>>(handle)),
            Stage::Connecting(_) => false,
        }
    }

    /// The host's side is connected: the stack takes the segment that asked for it.
    fn accept(&mut self, index: usize, segment: &[u8]) {
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        let buffer = || SocketBuffer::new(vec![0_u8; BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let listens = socket.listen(IpListenEndpoint {
            addr: Some(IpAddress::Ipv4(*flow.ends.far.ip())),
            port: flow.ends.far.port(),
        });
        // The port is not 0, and the socket is new.
        debug_assert!(listens.is_ok(), "a new socket listens");
        flow.stage = Stage::Open(self.sockets.add(socket));
        self.interface.offer_again(segment);
        self.ingress();
    }
}

/// Whether an error says that there is no TAP to be had: no device, or not for this user.
fn is_no_device(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::ENOENT | libc::ENODEV | libc::ENXIO)
    )
}

/// A seed that nobody can tell: the numbers of segments come from it.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without it numbers can be guessed, by the container itself.
    let _none = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// A socket of the host that is connecting.
fn connecting(target: SocketAddr) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    let _slower = sockopt::set_tcp_nodelay(&socket, true);
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connecting socket is connected.
fn connected(socket: &OwnedFd) -> io::Result<bool> {
    sockopt::socket_error(socket)??;
    match rustix::net::getpeername(socket) {
        Ok(peer) => Ok(peer.is_some()),
        Err(Errno::NOTCONN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves bytes between the host's socket and the stack's; true when the stream is at its end.
fn exchange(flow: &mut Flow, socket: &mut Socket<'_>) -> bool {
    let mut broken = false;
    while socket.can_recv() && !broken {
        let sent = socket.recv(|bytes| {
            match send(&flow.host, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error)),
            }
        });
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(Errno::AGAIN | Errno::INTR)) => break,
            Ok(Err(_)) | Err(_) => broken = true,
        }
    }
    let said_all = matches!(
        socket.state(),
        State::CloseWait | State::LastAck | State::Closing | State::TimeWait
    ) && !socket.can_recv();
    if said_all && !flow.told_end {
        flow.told_end = true;
        // A socket that is gone is noticed when it is read.
        let _gone = shutdown(&flow.host, Shutdown::Write);
    }
    while socket.can_send() && !flow.heard_end && !broken {
        let heard = socket.send(|room| match recv(&flow.host, room, RecvFlags::DONTWAIT) {
            Ok((count, _)) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        });
        match heard {
            Ok(Ok(0)) => flow.heard_end = true,
            Ok(Ok(_)) => {}
            Ok(Err(Errno::AGAIN | Errno::INTR)) => break,
            Ok(Err(_)) | Err(_) => broken = true,
        }
    }
    if broken {
        socket.abort();
        return true;
    }
    if flow.heard_end && socket.may_send() {
        socket.close();
    }
    matches!(socket.state(), State::Closed | State::TimeWait)
}
