//! One place for a request at a time: its header and arguments, and room for what belongs to it.
//!
//! The kernel writes header, arguments and payload apart. The first two are moved to just before
//! the payload, so that a request is the same run of bytes as one read from `/dev/fuse`.
//!
//! Source: `struct fuse_uring_req_header` and `struct fuse_uring_ent_in_out` in
//! `include/uapi/linux/fuse.h`.
#![expect(clippy::host_endian_bytes, reason = "the protocol is in host order")]

use std::io;

use rrun_core::Errno;

use crate::sys::uring::{CommandRing, Memory, Target};
use crate::wire::{IN_HEADER, OUT_HEADER, out_header};

/// Where the header of a request has the number that its answer has to bear.
const UNIQUE_AT: usize = 8;
/// `FUSE_URING_OP_IN_OUT_SZ`: most bytes the arguments of an operation have.
const ARGUMENTS_MAX: usize = 128;
/// Where `op_in` is, after `in_out`.
const ARGUMENTS_AT: usize = 128;
/// Where `ring_ent_in_out` is.
const ENTRY_AT: usize = ARGUMENTS_AT + ARGUMENTS_MAX;
/// Where `commit_id` is.
const COMMIT_AT: usize = ENTRY_AT + 8;
/// Where `payload_sz` is.
const PAYLOAD_LEN_AT: usize = ENTRY_AT + 16;
/// Bytes of the whole header.
const HEADER: usize = ENTRY_AT + 32;
/// Where the kernel is told of both parts, when the slot is registered.
const IOVECS_AT: usize = 512;
/// Where the payload begins: on a page of its own, with room before it for a request's header.
const PAYLOAD_AT: usize = 4096;

/// A slot, and the queue it takes requests of.
#[derive(Debug)]
pub(crate) struct Slot {
    memory: Memory,
    pub(crate) queue: u16,
    /// Where in `memory` the request is.
    request: (usize, usize),
    commit: u64,
    unique: u64,
}

impl Slot {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(queue: u16, payload_len: usize) -> io::Result<Self> {
        Ok(Self {
            memory: Memory::new(PAYLOAD_AT + payload_len)?,
            queue,
            request: (0, 0),
            commit: 0,
            unique: 0,
        })
    }

    /// Whether the kernel has it.
    pub(crate) fn is_lent(&self) -> bool {
        self.memory.is_lent()
    }

    /// Takes it back: the kernel is done with it.
    pub(crate) fn returned(&mut self) {
        self.memory.returned();
    }

    /// Offers it to the kernel for the first time.
    ///
    /// # Errors
    ///
    /// Those of [`CommandRing::register`].
    pub(crate) fn register(&mut self, ring: &mut CommandRing, to: Target<'_>) -> io::Result<()> {
        ring.register(to, &mut self.memory, (HEADER, IOVECS_AT, PAYLOAD_AT))
    }

    /// Gives it back to the kernel with the answer that was put into it.
    ///
    /// # Errors
    ///
    /// Those of [`CommandRing::commit`].
    pub(crate) fn commit(&mut self, ring: &mut CommandRing, to: Target<'_>) -> io::Result<()> {
        ring.commit(to, &mut self.memory, self.commit)
    }

    /// Puts the parts of a request that came together. There is none when they do not make one.
    pub(crate) fn assemble(&mut self) {
        self.request = self.try_assemble().unwrap_or((0, 0));
    }

    fn try_assemble(&mut self) -> Option<(usize, usize)> {
        let bytes = self.memory.bytes()?;
        let long = |at: usize| {
            bytes
                .get(at..)?
                .first_chunk()
                .copied()
                .map(u64::from_ne_bytes)
        };
        let word = |at: usize| {
            let word = bytes.get(at..)?.first_chunk().copied()?;
            usize::try_from(u32::from_ne_bytes(word)).ok()
        };
        self.commit = long(COMMIT_AT)?;
        self.unique = long(UNIQUE_AT)?;
        let payload = word(PAYLOAD_LEN_AT)?;
        let arguments = word(0)?.checked_sub(IN_HEADER)?.checked_sub(payload)?;
        let end = PAYLOAD_AT + payload;
        if arguments > ARGUMENTS_MAX || end > bytes.len() {
            return None;
        }
        let start = PAYLOAD_AT - arguments - IN_HEADER;
        bytes.copy_within(..IN_HEADER, start);
        bytes.copy_within(ARGUMENTS_AT..ARGUMENTS_AT + arguments, start + IN_HEADER);
        Some((start, end))
    }

    /// The request, as one read from `/dev/fuse` would be; empty when there is none.
    pub(crate) fn request(&mut self) -> &[u8] {
        let (start, end) = self.request;
        let bytes = self.memory.bytes();
        bytes
            .and_then(|bytes| bytes.get(start..end))
            .unwrap_or_default()
    }

    /// Room for the body of an answer. What was a request there is gone.
    pub(crate) fn payload(&mut self) -> &mut [u8] {
        self.request = (0, 0);
        let bytes = self.memory.bytes();
        bytes
            .and_then(|bytes| bytes.get_mut(PAYLOAD_AT..))
            .unwrap_or_default()
    }

    /// Puts in an answer whose body is in the payload.
    pub(crate) fn accept(&mut self, body_len: usize) {
        self.finish(out_header(body_len, 0, self.unique), body_len);
    }

    /// Puts in an error for an answer.
    pub(crate) fn refuse(&mut self, errno: Errno) {
        self.finish(out_header(0, -errno.raw(), self.unique), 0);
    }

    /// Puts in the header of an answer, whose body of `body_len` bytes is in the payload.
    fn finish(&mut self, header: [u8; OUT_HEADER], body_len: usize) {
        let Some(bytes) = self.memory.bytes() else {
            return;
        };
        let body_len = u32::try_from(body_len).unwrap_or(0);
        let parts = [(0, &header[..]), (PAYLOAD_LEN_AT, &body_len.to_ne_bytes())];
        for (at, part) in parts {
            if let Some(place) = bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
    }

    /// Puts in an answer as it would be written to `/dev/fuse`; false when there is no room.
    pub(crate) fn put(&mut self, answer: &[u8]) -> bool {
        let Some((header, body)) = answer.split_first_chunk::<OUT_HEADER>() else {
            return false;
        };
        let Some(room) = self.payload().get_mut(..body.len()) else {
            return false;
        };
        room.copy_from_slice(body);
        self.finish(*header, body.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would write for a request with arguments and a payload.
    fn kernel_writes(slot: &mut Slot, len: u32, arguments: &[u8], payload: &[u8], said: u32) {
        let bytes = slot.memory.bytes().unwrap();
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[IN_HEADER - 1] = 7;
        bytes[ARGUMENTS_AT..ARGUMENTS_AT + arguments.len()].copy_from_slice(arguments);
        bytes[PAYLOAD_AT..PAYLOAD_AT + payload.len()].copy_from_slice(payload);
        bytes[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + 4].copy_from_slice(&said.to_ne_bytes());
        bytes[COMMIT_AT] = 42;
    }

    #[test]
    fn the_parts_of_a_request_come_together() {
        let mut slot = Slot::new(0, 8192).unwrap();
        kernel_writes(&mut slot, 40 + 3 + 4, b"arg", b"name", 4);
        slot.assemble();
        let request = slot.request();
        assert_eq!(request.len(), 47);
        assert_eq!(request[IN_HEADER - 1], 7);
        assert_eq!(&request[IN_HEADER..], b"argname");
        assert_eq!(slot.commit, 42);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let cases = [(39, 0), (40, 1), (40 + 129, 0), (0, 0), (40 + 8193, 8193)];
        for (len, payload) in cases {
            let mut slot = Slot::new(0, 8192).unwrap();
            kernel_writes(&mut slot, len, b"", b"", payload);
            slot.assemble();
            assert!(slot.request().is_empty(), "{len} {payload}");
        }
    }

    #[test]
    fn an_answer_is_put_where_the_kernel_looks() {
        let mut slot = Slot::new(0, 8192).unwrap();
        let mut answer = vec![9; OUT_HEADER];
        answer.extend_from_slice(b"body");
        assert!(slot.put(&answer));
        let bytes = slot.memory.bytes().unwrap();
        assert_eq!(bytes[..OUT_HEADER], [9; OUT_HEADER]);
        assert_eq!(&bytes[PAYLOAD_AT..PAYLOAD_AT + 4], b"body");
        assert_eq!(bytes[PAYLOAD_LEN_AT], 4);
        assert!(!slot.put(&vec![0; OUT_HEADER + 8193]));
    }
}
