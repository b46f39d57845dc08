//! The container's interface as our side of it sees it: whole frames, read and written.

use std::os::fd::OwnedFd;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::net::uplink::MTU;

/// Bytes of a `struct virtio_net_hdr` before each frame. Source: `linux/virtio_net.h`.
const HEADER_BYTES: usize = 10;
/// Flag of it: the checksum is not there, and need not be.
const NEEDS_CHECKSUM: u8 = 1;
/// Where in a frame the TCP header is, and where in that its checksum.
const TCP_START: u8 = 34;
const TCP_CHECKSUM: u8 = 16;
/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;
/// Where in a frame its type and its IP protocol are.
const ETHERTYPE: std::ops::Range<usize> = 12..14;
const IPV4: [u8; 2] = [8, 0];
const PROTOCOL: usize = 23;
const TCP: u8 = 6;

/// The interface and one frame that came from it.
#[derive(Debug)]
pub(super) struct Interface {
    fd: OwnedFd,
    received: Vec<u8>,
    /// Length of the frame in `received` that the stack has not had yet.
    waiting: Option<usize>,
    out: Vec<u8>,
}

impl Interface {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let frame_bytes = HEADER_BYTES + ETHERNET_BYTES + usize::from(MTU);
        Self {
            fd,
            received: vec![0; frame_bytes],
            waiting: None,
            out: Vec::with_capacity(frame_bytes),
        }
    }

    /// Reads the next frame; `None` when none waits.
    pub(super) fn read(&mut self) -> Option<&[u8]> {
        self.waiting = None;
        loop {
            match rustix::io::read(&self.fd, &mut self.received) {
                Ok(count) => return self.received.get(HEADER_BYTES..count),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Gives the frame that was read last to the stack.
    pub(super) fn offer(&mut self, length: usize) {
        self.waiting = Some(length);
    }

    /// Gives a frame that was read earlier to the stack.
    pub(super) fn offer_again(&mut self, frame: &[u8]) {
        if let Some(place) = self
            .received
            .get_mut(HEADER_BYTES..HEADER_BYTES + frame.len())
        {
            place.copy_from_slice(frame);
            self.waiting = Some(frame.len());
        }
    }

    /// Writes a frame that `fill` appends to a buffer.
    pub(super) fn write(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        self.out.clear();
        self.out.resize(HEADER_BYTES, 0);
        fill(&mut self.out);
        put(&self.fd, &mut self.out);
    }
}

/// Writes a frame that follows room for its header.
fn put(fd: &OwnedFd, out: &mut [u8]) {
    let is_tcp = out
        .split_at_checked(HEADER_BYTES)
        .is_some_and(|(_, frame)| {
            frame.get(ETHERTYPE) == Some(&IPV4) && frame.get(PROTOCOL) == Some(&TCP)
        });
    if is_tcp && let Some(header) = out.first_chunk_mut::<HEADER_BYTES>() {
        // Numbers in it are in the host's order, which for these small ones has the value in the
        // first byte or in the last.
        let [start, checksum] = [TCP_START, TCP_CHECKSUM].map(|value| host(u16::from(value)));
        *header = [
            NEEDS_CHECKSUM,
            0,
            0,
            0,
            0,
            0,
            start[0],
            start[1],
            checksum[0],
            checksum[1],
        ];
    }
    // A frame that finds no room is lost, as on a wire.
    let _lost = rustix::io::write(fd, out);
}

#[expect(
    clippy::host_endian_bytes,
    reason = "the kernel reads the host's order"
)]
fn host(value: u16) -> [u8; 2] {
    value.to_ne_bytes()
}

/// The frame that waits.
pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame.
pub(super) struct Room<'a> {
    fd: &'a OwnedFd,
    out: &'a mut Vec<u8>,
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.out.clear();
        self.out.resize(HEADER_BYTES + len, 0);
        let result = f(self.out.get_mut(HEADER_BYTES..).unwrap_or_default());
        put(self.fd, self.out);
        result
    }
}

impl Device for Interface {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Room<'_>)> {
        let length = self.waiting.take()?;
        let frame = self.received.get(HEADER_BYTES..HEADER_BYTES + length)?;
        let room = Room {
            fd: &self.fd,
            out: &mut self.out,
        };
        Some((Received(frame), room))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        Some(Room {
            fd: &self.fd,
            out: &mut self.out,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET_BYTES + usize::from(MTU);
        // Nothing on the way can damage a segment.
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}
