//! Messages to the kernel about its network: interfaces, addresses, routes, packet filters.
//!
//! Source: `netlink(7)`, `rtnetlink(7)`, `linux/rtnetlink.h`, `linux/if_link.h`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send,
    socket_with,
};

use super::config::Mac;

/// Flags of a request. Source: `linux/netlink.h`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
/// The kernel's answer to a request. Source: `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
/// Source: `linux/rtnetlink.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
/// Asks for all there are, and ends the answer. Source: `linux/netlink.h`.
const DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
/// An address that was given by hand, and one that is valid everywhere. Source: `linux/if_addr.h`.
const IFA_F_PERMANENT: u8 = 0x80;
const UNIVERSE: u8 = 0;
/// Largest list of addresses read, in bytes: some thousand of them.
const DUMP_BYTES_MAX: usize = 1 << 20;
/// Marks an attribute that holds attributes. Source: `linux/netlink.h`.
const NESTED: u16 = 0x8000;
/// Attributes of an interface. Source: `linux/if_link.h`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// Attributes of an address. Source: `linux/if_addr.h`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Attributes of a route. Source: `linux/rtnetlink.h`.
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// An interface that is up. Source: `linux/if.h`.
const IFF_UP: u32 = 1;
/// `AF_INET` as these messages hold it.
const INET: u8 = 2;
/// Bytes of the largest answer; a request's answer quotes the request.
const ANSWER_BYTES: usize = 8 << 10;

#[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's order")]
fn short(value: u16) -> [u8; 2] {
    value.to_ne_bytes()
}

#[expect(clippy::host_endian_bytes, reason = "netlink speaks the host's order")]
fn long(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut this = Self { bytes: Vec::new() };
        // The length and the number are filled in when it is sent.
        this.put(&long(0));
        this.put(&short(kind));
        this.put(&short(flags | REQUEST));
        this.put(&[0; 8]);
        this
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn set_length(&mut self, at: usize) {
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&short(length));
        }
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let at = self.bytes.len();
        self.put(&short(0));
        self.put(&short(kind));
        self.put(value);
        self.set_length(at);
        self.align();
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// An attribute that holds what `fill` writes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.put(&short(0));
        self.put(&short(kind | NESTED));
        fill(self);
        self.set_length(at);
    }

    /// The message with its length and number.
    pub(super) fn finish(mut self, number: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&long(length));
        }
        if let Some(place) = self.bytes.get_mut(8..12) {
            place.copy_from_slice(&long(number));
        }
        self.bytes
    }
}

/// Sends messages and waits for the answer to each that asks for one: `expected` of them.
pub(super) fn exchange(socket: &OwnedFd, bytes: &[u8], expected: usize) -> io::Result<()> {
    send(socket, bytes, SendFlags::empty())?;
    let mut answer = vec![0_u8; ANSWER_BYTES];
    let mut seen = 0;
    while seen < expected {
        let (count, _) = match recv(socket, &mut *answer, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let mut rest = answer.get(..count).unwrap_or_default();
        while let Some(errno) = error_of(rest) {
            if errno != 0 {
                return Err(io::Error::from_raw_os_error(-errno));
            }
            seen += 1;
            let length = usize::try_from(word(rest, 0)).unwrap_or(count);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..at + 2).and_then(|two| two.try_into().ok());
    found.map_or(0, u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    found.map_or(0, u32::from_ne_bytes)
}

/// The negative errno of an answer at the start of `bytes`; 0 for success.
fn error_of(bytes: &[u8]) -> Option<i32> {
    let kind = bytes.get(4..6)?;
    (bytes.len() >= 20 && kind == short(NLMSG_ERROR)).then(|| word(bytes, 16).cast_signed())
}

/// A socket to the kernel's netlink family `protocol`, routes and interfaces without one, in the caller's network namespace.
pub(super) fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        protocol,
    )?)
}

/// The other end of a pair of interfaces.
#[derive(Debug)]
pub(super) struct Peer<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
    pub(super) mtu: u16,
    pub(super) netns: BorrowedFd<'a>,
}

/// Interfaces, addresses and routes of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Route {
    socket: OwnedFd,
}

impl Route {
    pub(super) fn open() -> io::Result<Self> {
        open(None).map(|socket| Self { socket })
    }

    fn call(&self, request: Request) -> io::Result<()> {
        exchange(&self.socket, &request.finish(1), 1)
    }

    /// The number of the interface `name`.
    pub(super) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(netdevice::name_to_index(&self.socket, name)?)
    }

    /// Makes a bridge that is up.
    pub(super) fn add_bridge(&self, name: &str) -> io::Result<()> {
        let mut request = link(RTM_NEWLINK, ACK | CREATE | EXCL, 0, true);
        request.text(IFLA_IFNAME, name);
        request.nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
        self.call(request)
    }

    /// Makes a pair of interfaces: one here, which is up and under `master` if there is one.
    pub(super) fn add_pair(
        &self,
        name: &str,
        mtu: u16,
        master: Option<u32>,
        peer: &Peer<'_>,
    ) -> io::Result<()> {
        let mut request = link(RTM_NEWLINK, ACK | CREATE | EXCL, 0, true);
        request.text(IFLA_IFNAME, name);
        request.attribute(IFLA_MTU, &long(u32::from(mtu)));
        if let Some(master) = master {
            request.attribute(IFLA_MASTER, &long(master));
        }
        request.nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |other| {
                    // It cannot be brought up before it has its other end.
                    other.put(&link_header(0, false));
                    other.text(IFLA_IFNAME, peer.name);
                    other.attribute(IFLA_ADDRESS, &peer.mac.0);
                    other.attribute(IFLA_MTU, &long(u32::from(peer.mtu)));
                    let fd = peer.netns.as_raw_fd().cast_unsigned();
                    other.attribute(IFLA_NET_NS_FD, &long(fd));
                });
            });
        });
        self.call(request)
    }

    /// Removes an interface.
    pub(super) fn remove(&self, index: u32) -> io::Result<()> {
        self.call(link(RTM_DELLINK, ACK, index, false))
    }

    /// Sets hardware address and packet size of an interface and brings it up.
    pub(super) fn set_up(&self, index: u32, mac: Option<Mac>, mtu: Option<u16>) -> io::Result<()> {
        if let Some(mac) = mac {
            // Some interfaces take a hardware address only while they are down.
            let mut request = link(RTM_NEWLINK, ACK, index, false);
            request.attribute(IFLA_ADDRESS, &mac.0);
            self.call(request)?;
        }
        let mut request = link(RTM_NEWLINK, ACK, index, true);
        if let Some(mtu) = mtu {
            request.attribute(IFLA_MTU, &long(u32::from(mtu)));
        }
        self.call(request)
    }

    /// Gives an interface an address.
    pub(super) fn add_address(&self, index: u32, ip: Ipv4Addr, prefix_bits: u8) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWADDR, ACK | CREATE | EXCL);
        request.put(&[INET, prefix_bits, 0, 0]);
        request.put(&long(index));
        let mask = u32::MAX.checked_shr(u32::from(prefix_bits)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(ip.to_bits() | mask);
        request.attribute(IFA_LOCAL, &ip.octets());
        request.attribute(IFA_ADDRESS, &ip.octets());
        request.attribute(IFA_BROADCAST, &broadcast.octets());
        self.call(request)
    }

    /// The lasting addresses of an interface, as [`Self::put_address`] takes them: family, bits of
    /// the prefix, attributes.
    pub(super) fn addresses(&self, index: u32) -> io::Result<Vec<(u8, u8, Vec<u8>)>> {
        let mut request = Request::new(RTM_GETADDR, DUMP);
        request.put(&[0; 8]);
        send(&self.socket, &request.finish(1), SendFlags::empty())?;
        let mut found = Vec::new();
        let mut read = 0;
        let mut buffer = vec![0_u8; 4 * ANSWER_BYTES];
        while read < DUMP_BYTES_MAX {
            let (count, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
            read += count;
            let mut rest = buffer.get(..count).unwrap_or_default();
            while rest.len() >= HEADER {
                let length = usize::try_from(word(rest, 0)).unwrap_or(0);
                let message = rest.get(..length).filter(|message| message.len() >= HEADER);
                let Some(message) = message else { break };
                let kind = message.get(4..6).unwrap_or_default();
                if kind == short(NLMSG_DONE) {
                    return Ok(found);
                }
                if let Some(errno) = error_of(message) {
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                if kind == short(RTM_NEWADDR) {
                    found.extend(lasting(message, index));
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Err(io::Error::from_raw_os_error(libc::EMSGSIZE))
    }

    /// Gives an interface an address as it was read from another.
    pub(super) fn put_address(
        &self,
        index: u32,
        (family, prefix_bits, attributes): &(u8, u8, Vec<u8>),
    ) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWADDR, ACK | CREATE | EXCL);
        request.put(&[*family, *prefix_bits, 0, UNIVERSE]);
        request.put(&long(index));
        request.put(attributes);
        self.call(request)
    }

    /// Moves an interface into another network namespace, where it has another name.
    pub(super) fn give(&self, index: u32, name: &str, netns: BorrowedFd<'_>) -> io::Result<()> {
        let mut request = link(RTM_NEWLINK, ACK, index, false);
        request.text(IFLA_IFNAME, name);
        let fd = netns.as_raw_fd().cast_unsigned();
        request.attribute(IFLA_NET_NS_FD, &long(fd));
        self.call(request)
    }

    /// Sends packets for elsewhere to `gateway`.
    pub(super) fn add_default_route(&self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWROUTE, ACK | CREATE | EXCL);
        // Main table, set at start, universal, to one machine.
        request.put(&[INET, 0, 0, 0, 254, 3, 0, 1]);
        request.put(&long(0));
        request.attribute(RTA_GATEWAY, &gateway.octets());
        request.attribute(RTA_OIF, &long(index));
        self.call(request)
    }
}

/// Bytes of a message's header. Source: `struct nlmsghdr`.
const HEADER: usize = 16;

/// What is to be kept of an address: of this interface, given by hand, valid everywhere.
fn lasting(message: &[u8], index: u32) -> Option<(u8, u8, Vec<u8>)> {
    let own = message.get(HEADER..HEADER + 8)?;
    let [family, prefix_bits, flags, scope, ..] = *own else {
        return None;
    };
    let kept = word(own, 4) == index && flags & IFA_F_PERMANENT != 0 && scope == UNIVERSE;
    if !kept {
        return None;
    }
    let mut attributes = Vec::new();
    let mut rest = message.get(HEADER + 8..)?;
    while rest.len() >= 4 {
        let length = usize::from(half(rest, 0));
        let kind = half(rest, 2);
        let whole = rest.get(..length.max(4).next_multiple_of(4).min(rest.len()))?;
        if [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(&kind) {
            attributes.extend_from_slice(whole);
        }
        rest = rest.get(whole.len()..)?;
    }
    Some((family, prefix_bits, attributes))
}

/// `struct ifinfomsg`.
fn link_header(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    let flags = if up { IFF_UP } else { 0 };
    for (at, value) in [(4, index), (8, flags), (12, flags)] {
        if let Some(place) = header.get_mut(at..at + 4) {
            place.copy_from_slice(&long(value));
        }
    }
    header
}

fn link(kind: u16, flags: u16, index: u32, up: bool) -> Request {
    let mut request = Request::new(kind, flags);
    request.put(&link_header(index, up));
    request
}

/// Gives the interface `name` of this network namespace an address and the way out.
pub(super) fn configure(
    name: &str,
    mac: Option<Mac>,
    mtu: Option<u16>,
    address: (Ipv4Addr, u8),
    gateway: Ipv4Addr,
) -> io::Result<()> {
    let route = Route::open()?;
    let index = route.index(name)?;
    // There is nobody to speak IPv6 with, so the kernel need not ask for routers. Source: Docker.
    let _without = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    route.set_up(index, mac, mtu)?;
    route.add_address(index, address.0, address.1)?;
    route.add_default_route(index, gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_aligned_and_know_their_length() {
        let mut request = Request::new(RTM_NEWLINK, ACK);
        request.put(&link_header(7, true));
        request.text(IFLA_IFNAME, "ab");
        request.nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "veth"));
        let bytes = request.finish(9);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(word(&bytes, 0) as usize, bytes.len());
        assert_eq!(word(&bytes, 8), 9);
        // 16 header, 16 ifinfomsg, 4 + 3 padded to 8, 4 + (4 + 5 padded to 12).
        assert_eq!(bytes.len(), 16 + 16 + 8 + 16);
        assert_eq!(&bytes[32..34], short(7));
    }

    #[test]
    fn answers_are_errors_or_success() {
        let mut answer = [0_u8; 36];
        answer[..4].copy_from_slice(&long(36));
        answer[4..6].copy_from_slice(&short(NLMSG_ERROR));
        assert_eq!(error_of(&answer), Some(0));
        answer[16..20].copy_from_slice(&long((-libc::EEXIST).cast_unsigned()));
        assert_eq!(error_of(&answer), Some(-libc::EEXIST));
        assert_eq!(error_of(&answer[..10]), None);
    }
}
