//! Datagrams that leave through our own stack: each of the container's ports has a socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with,
};

use super::frame::Ends;
use crate::net::poll::{Kind, Poller, Slab};
use crate::net::uplink::NAME_SERVER;

/// How long a port may be silent before its socket goes. Source: RFC 4787, REQ-5.
const SILENCE: Duration = Duration::from_secs(120);
/// The same for questions to name servers.
const SILENCE_OF_NAMES: Duration = Duration::from_secs(20);
/// How often it is looked which are silent.
const LOOK: Duration = Duration::from_secs(10);
/// Ports at once; then the one that was silent longest gives way.
const PORTS_MAX: usize = 1024;
/// Largest datagram.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Answers taken in one go from one socket: as many as its buffer can hold.
const ANSWERS_MAX: usize = 4096;
/// The port of name servers.
const NAMES: u16 = 53;

/// One port of the container.
#[derive(Debug)]
struct Port {
    socket: OwnedFd,
    own: SocketAddrV4,
    /// Whether it speaks to the host's name server, which it knows by another address.
    names: bool,
    used: Instant,
}

/// The container's ports that sent something lately.
#[derive(Debug, Default)]
pub(super) struct Ports {
    slab: Slab<Port>,
    by_own: HashMap<(SocketAddrV4, bool), usize>,
    buffer: Vec<u8>,
    look: Option<Instant>,
}

/// Where something the container sends to `far` really goes; `None` for nowhere.
pub(super) fn destination(far: SocketAddrV4) -> Option<SocketAddr> {
    if *far.ip() == NAME_SERVER {
        return (far.port() == NAMES).then(|| SocketAddr::new(name_server(), NAMES));
    }
    let ip = far.ip();
    // The uplink's own network has no other machines; the host's loopback is not for containers.
    let own = ip.octets().starts_with(&[10, 0, 2]);
    let nowhere = own
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.octets()[0] == 0
        || far.port() == 0;
    (!nowhere).then_some(SocketAddr::V4(far))
}

/// The host's first name server, as it is now: hosts move.
fn name_server() -> IpAddr {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .find_map(|word| word.trim().parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

impl Ports {
    /// How long until ports are looked at again, in milliseconds.
    pub(super) fn timeout_ms(&self) -> Option<u32> {
        let look = self.look.filter(|_| self.slab.len() > 0)?;
        let left = look.saturating_duration_since(Instant::now());
        Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX - 1) + 1)
    }

    /// Lets go of ports that were silent for too long.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        let silent = |port: &Port| {
            let bound = if port.names {
                SILENCE_OF_NAMES
            } else {
                SILENCE
            };
            now.duration_since(port.used) >= bound
        };
        let list: Vec<usize> = self
            .slab
            .iter()
            .filter(|(_, port)| silent(port))
            .map(|(index, _)| index)
            .collect();
        for index in list {
            self.remove(index);
        }
        self.look = Some(now + LOOK);
    }

    fn remove(&mut self, index: usize) {
        if let Some(port) = self.slab.remove(index) {
            self.by_own.remove(&(port.own, port.names));
        }
    }

    /// Carries a datagram out.
    pub(super) fn carry_out(&mut self, ends: Ends, payload: &[u8], poller: &Poller) {
        let Some(target) = destination(ends.far) else {
            return;
        };
        let names = *ends.far.ip() == NAME_SERVER;
        let Some(index) = self.port(ends.own, names, target.is_ipv6(), poller) else {
            return;
        };
        if let Some(port) = self.slab.get_mut(index) {
            port.used = Instant::now();
            // Datagrams may be lost.
            let _lost = sendto(&port.socket, payload, SendFlags::DONTWAIT, &target);
        }
    }

    fn port(
        &mut self,
        own: SocketAddrV4,
        names: bool,
        ipv6: bool,
        poller: &Poller,
    ) -> Option<usize> {
        if let Some(index) = self.by_own.get(&(own, names)) {
            return Some(*index);
        }
        if self.slab.len() >= PORTS_MAX {
            let oldest = self.slab.iter().min_by_key(|(_, port)| port.used);
            let oldest = oldest.map(|(index, _)| index)?;
            self.remove(oldest);
        }
        let family = if ipv6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None).ok()?;
        let index = self.slab.next();
        poller.add(&socket, Kind::Datagram, index).ok()?;
        self.slab.insert(Port {
            socket,
            own,
            names,
            used: Instant::now(),
        });
        self.by_own.insert((own, names), index);
        self.look.get_or_insert_with(|| Instant::now() + LOOK);
        Some(index)
    }

    /// Hands each answer that waits at a port to `give`.
    pub(super) fn carry_in(&mut self, index: usize, mut give: impl FnMut(Ends, &[u8])) {
        let Some(port) = self.slab.get_mut(index) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(DATAGRAM_BYTES, 0);
        for _ in 0..ANSWERS_MAX {
            let (count, from) = match recvfrom(&port.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _, from)) => (count, from.map(SocketAddr::try_from)),
                Err(Errno::INTR | Errno::CONNREFUSED) => continue,
                Err(_) => break,
            };
            let far = match from {
                Some(Ok(from)) if port.names => SocketAddrV4::new(NAME_SERVER, from.port()),
                Some(Ok(SocketAddr::V4(from))) => from,
                _ => continue,
            };
            port.used = Instant::now();
            let own = port.own;
            give(Ends { own, far }, buffer.get(..count).unwrap_or_default());
        }
        self.buffer = buffer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_uplinks_own_network_are_no_destinations() {
        let goes = |text: &str| destination(text.parse().unwrap()).is_some();
        assert!(goes("93.184.216.34:80") && goes("10.0.2.3:53") && goes("10.0.3.1:1"));
        for nowhere in [
            "127.0.0.1:80",
            "10.0.2.2:80",
            "10.0.2.3:80",
            "0.0.0.0:1",
            "224.0.0.1:5",
            "255.255.255.255:67",
            "1.2.3.4:0",
        ] {
            assert!(!goes(nowhere), "{nowhere}");
        }
    }
}
