//! Frames of the container's interface: what they are, and datagrams made into frames.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket,
    UdpPacket,
};

/// Bytes of an Ethernet, an IPv4 and a UDP header.
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

/// The two ends of a stream or an exchange of datagrams, seen from the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) own: SocketAddrV4,
    pub(super) far: SocketAddrV4,
}

/// What a frame is to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A segment of a stream.
    Segment {
        ends: Ends,
        /// Whether it asks for a new stream.
        opens: bool,
    },
    /// A datagram.
    Datagram { ends: Ends, payload: &'a [u8] },
    /// An ARP request, or a ping of the gateway.
    Neighbour,
    /// Nothing we carry.
    Other,
}

/// Says what a frame is.
pub(super) fn classify<'a>(bytes: &'a [u8], gateways: &[Ipv4Addr]) -> Frame<'a> {
    read(bytes, gateways).unwrap_or(Frame::Other)
}

fn read<'a>(bytes: &'a [u8], gateways: &[Ipv4Addr]) -> Option<Frame<'a>> {
    let ethernet = EthernetFrame::new_checked(bytes).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Arp => return Some(Frame::Neighbour),
        EthernetProtocol::Ipv4 => {}
        EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => return None,
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    let ends = |own, far| Ends {
        own: SocketAddrV4::new(source, own),
        far: SocketAddrV4::new(target, far),
    };
    let protocol = packet.next_header();
    if protocol == IpProtocol::Tcp {
        let segment = TcpPacket::new_checked(packet.payload()).ok()?;
        Some(Frame::Segment {
            ends: ends(segment.src_port(), segment.dst_port()),
            opens: segment.syn() && !segment.ack(),
        })
    } else if protocol == IpProtocol::Udp {
        let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
        Some(Frame::Datagram {
            ends: ends(datagram.src_port(), datagram.dst_port()),
            payload: datagram.payload(),
        })
    } else if protocol == IpProtocol::Icmp && gateways.contains(&target) {
        Some(Frame::Neighbour)
    } else {
        None
    }
}

/// The hardware address a frame came from.
pub(super) fn sender(bytes: &[u8]) -> Option<EthernetAddress> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    Some(frame.src_addr()).filter(EthernetAddress::is_unicast)
}

/// Writes a datagram from `far` to `own` into `out`, as a frame.
///
/// It has no checksum of its own, as IPv4 allows: it does not leave the machine.
pub(super) fn datagram(
    out: &mut Vec<u8>,
    (from, to): (EthernetAddress, EthernetAddress),
    ends: Ends,
    payload: &[u8],
) {
    let length = UDP_BYTES + payload.len();
    let start = out.len();
    out.resize(start + ETHERNET_BYTES + IPV4_BYTES + length, 0);
    let Some(bytes) = out.get_mut(start..) else {
        return;
    };
    let mut ethernet = EthernetFrame::new_unchecked(bytes);
    ethernet.set_src_addr(from);
    ethernet.set_dst_addr(to);
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    let head = Ipv4Repr {
        src_addr: *ends.far.ip(),
        dst_addr: *ends.own.ip(),
        next_header: IpProtocol::Udp,
        payload_len: length,
        hop_limit: 64,
    };
    head.emit(&mut packet, &ChecksumCapabilities::default());
    let mut udp = UdpPacket::new_unchecked(packet.payload_mut());
    udp.set_src_port(ends.far.port());
    udp.set_dst_port(ends.own.port());
    udp.set_len(u16::try_from(length).unwrap_or(u16::MAX));
    udp.set_checksum(0);
    udp.payload_mut().copy_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            own: "10.0.2.100:1000".parse().unwrap(),
            far: "1.2.3.4:53".parse().unwrap(),
        }
    }

    #[test]
    fn a_datagram_becomes_a_frame_that_is_read_again() {
        let near = EthernetAddress([2, 0, 0, 0, 0, 1]);
        let far = EthernetAddress([2, 0, 0, 0, 0, 2]);
        let mut bytes = Vec::new();
        datagram(&mut bytes, (far, near), ends(), b"answer");
        assert_eq!(sender(&bytes), Some(far));
        // Its direction is the other one.
        let turned = Ends {
            own: ends().far,
            far: ends().own,
        };
        let expected = Frame::Datagram {
            ends: turned,
            payload: b"answer",
        };
        assert_eq!(classify(&bytes, &[]), expected);
    }

    #[test]
    fn what_is_cut_or_foreign_is_nothing() {
        let mac = EthernetAddress([2, 0, 0, 0, 0, 1]);
        let mut bytes = Vec::new();
        datagram(&mut bytes, (mac, mac), ends(), b"x");
        for length in 0..bytes.len() {
            assert_eq!(
                classify(&bytes[..length], &[]),
                Frame::Other,
                "length {length}"
            );
        }
        // A fragment.
        bytes[20] = 0x20;
        assert_eq!(classify(&bytes, &[]), Frame::Other);
    }
}
