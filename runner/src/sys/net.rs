//! Interfaces of user space.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Makes `fd`, an open `/dev/net/tun`, the Ethernet interface `name` of the current network
/// namespace. Frames are preceded by a `struct virtio_net_hdr`, and the kernel leaves checksums
/// to us where both can do without.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN` in the namespace; `EBUSY` when there is such an interface.
///
/// Source: `linux/if_tun.h`, `Documentation/networking/tuntap.rst`.
pub(crate) fn become_interface(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: ifreq is plain old data for which all-zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| super::invalid())?;
    // SAFETY: the kernel reads and writes one ifreq with a NUL-terminated name in a live local.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    super::check(ret.into())?;
    // SAFETY: the argument is an integer, not a pointer.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::TUN_F_CSUM) };
    super::check(ret.into()).map(drop)
}

/// Asks that what a packet socket itself sent is not received. Source: `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Asks for a `struct virtio_net_hdr` before each frame. Source: `linux/if_packet.h`.
const PACKET_VNET_HDR: libc::c_int = 15;
/// `ETH_P_ALL`, in network order: frames of every protocol.
const EVERY_PROTOCOL: u16 = 3_u16.swap_bytes();

/// A socket that receives every frame that arrives at interface number `index` of the current
/// network namespace and sends frames through it, each preceded by a `struct virtio_net_hdr`.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_RAW` in the namespace.
///
/// Source: `packet(7)`.
pub(crate) fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: three integers. Protocol 0 receives nothing before the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    super::check(fd.into())?;
    // SAFETY: the kernel just returned `fd` to us and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
        set_packet_option(socket.as_fd(), option)?;
    }
    // SAFETY: sockaddr_ll is plain old data for which all-zero bytes are a valid value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| super::invalid())?;
    address.sll_protocol = EVERY_PROTOCOL;
    address.sll_ifindex = i32::try_from(index).map_err(|_| super::invalid())?;
    let length = libc::socklen_t::try_from(mem::size_of_val(&address));
    let length = length.map_err(|_| super::invalid())?;
    let pointer = (&raw const address).cast();
    // SAFETY: the kernel reads one sockaddr_ll, whose true size is passed, from a live local.
    let ret = unsafe { libc::bind(socket.as_raw_fd(), pointer, length) };
    super::check(ret.into())?;
    Ok(socket)
}

fn set_packet_option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(mem::size_of_val(&on)).map_err(|_| super::invalid())?;
    let pointer = (&raw const on).cast();
    // SAFETY: the kernel reads one int, whose true size is passed, from a live local.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            pointer,
            length,
        )
    };
    super::check(ret.into()).map(drop)
}
