//! Interfaces of user space.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

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
