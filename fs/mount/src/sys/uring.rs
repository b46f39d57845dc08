//! Commands to `/dev/fuse` by an `io_uring`, and the memory that the kernel fills meanwhile.
//!
//! Source: `include/uapi/linux/fuse.h` and `fs/fuse/dev_uring.c`, Linux 6.14 and later.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::mm::{MapFlags, ProtFlags};

/// `FUSE_IO_URING_CMD_REGISTER`.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const COMMIT_AND_FETCH: u32 = 2;
/// Commands that wait to be submitted: each worker has few, and submits when it is full.
const SUBMISSIONS: u32 = 8;

/// Memory that belongs in turn to us and, while it is lent, to the kernel.
///
/// Memory that is still lent when it is dropped stays mapped for the life of the process: the
/// kernel might write to it at any time.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: usize,
    lent: bool,
}

// SAFETY: the mapping belongs to this value alone, and its pages may be used by any thread.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps `len` bytes of zeros; a page costs memory from its first use on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// Source: `mmap(2)`.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, flags) };
        let start = NonNull::new(start?.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            len,
            lent: false,
        })
    }

    /// The bytes; `None` while they are lent.
    pub(crate) fn bytes(&mut self) -> Option<&mut [u8]> {
        if self.lent {
            return None;
        }
        // SAFETY: `len` bytes are mapped there until this value is dropped, we borrow it mutably,
        // and the kernel writes to them only while they are lent.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Takes note that the kernel has given the bytes back: the command they were lent to ended.
    pub(crate) fn returned(&mut self) {
        self.lent = false;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.lent {
            return;
        }
        // SAFETY: the mapping was made by `new`, is not lent, and nobody can reach it any more.
        let _gone = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// What a command is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The connection.
    pub(crate) device: BorrowedFd<'a>,
    /// The kernel's queue, which has the number of a processor.
    pub(crate) queue: u16,
    /// What the completion will be known by.
    pub(crate) token: u64,
}

/// One worker's `io_uring`.
pub(crate) struct CommandRing(IoUring<Entry128, cqueue::Entry>);

impl CommandRing {
    /// Makes a ring that takes nothing yet, for the thread that will enable it.
    ///
    /// # Errors
    ///
    /// `ENOSYS` before Linux 5.1; `EPERM` where sysctl `kernel.io_uring_disabled` or a seccomp
    /// filter forbids it; `EINVAL` before Linux 6.1; `ENOMEM`.
    ///
    /// Source: `io_uring_setup(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(SUBMISSIONS)
            .map(Self)
    }

    /// Lets this thread, and no other, submit.
    ///
    /// # Errors
    ///
    /// `EBADFD` when it was done before.
    ///
    /// Source: `io_uring_register(2)`, `IORING_REGISTER_ENABLE_RINGS`.
    pub(crate) fn enable(&mut self) -> io::Result<()> {
        self.0.submitter().register_enable_rings()
    }

    /// Gives the kernel `memory` to put requests of a queue into: `struct fuse_uring_req_header`
    /// at its beginning, the payload from `payload_at` on. `iovecs_at` is where the kernel reads
    /// this from, outside both.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the memory is not ours or too small; those of `io_uring_enter(2)`.
    pub(crate) fn register(
        &mut self,
        target: Target<'_>,
        memory: &mut Memory,
        (header_len, iovecs_at, payload_at): (usize, usize, usize),
    ) -> io::Result<()> {
        /// `struct iovec`: an address and a length of 8 bytes each.
        const IOVEC: usize = 16;
        let start = memory.start.as_ptr().expose_provenance();
        let payload_len = memory.len.saturating_sub(payload_at);
        let bytes = memory.bytes().ok_or(io::ErrorKind::InvalidInput)?;
        let iovecs = bytes
            .get_mut(iovecs_at..iovecs_at + 2 * IOVEC)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let words = [start, header_len, start + payload_at, payload_len];
        for (place, word) in iovecs.chunks_exact_mut(IOVEC / 2).zip(words) {
            #[expect(
                clippy::host_endian_bytes,
                reason = "the kernel reads it on this machine"
            )]
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let address = u64::try_from(start + iovecs_at).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut entry = command(target, REGISTER, 0, Some(address));
        set_len(&mut entry, 2);
        self.lend(memory, &entry)
    }

    /// Answers the request `commit` with what is in `memory`, and lends it for the next one.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the memory is not ours; those of `io_uring_enter(2)`.
    pub(crate) fn commit(
        &mut self,
        target: Target<'_>,
        memory: &mut Memory,
        commit: u64,
    ) -> io::Result<()> {
        let entry = command(target, COMMIT_AND_FETCH, commit, None);
        self.lend(memory, &entry)
    }

    /// Lets a completion known by `token` come when `eventfd` can be read; once.
    ///
    /// # Errors
    ///
    /// Those of `io_uring_enter(2)`.
    pub(crate) fn watch(&mut self, eventfd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        const READABLE: u32 = libc::POLLIN.cast_unsigned() as u32;
        let poll = opcode::PollAdd::new(types::Fd(eventfd.as_raw_fd()), READABLE).build();
        self.push(&poll.user_data(token).into())
    }

    fn lend(&mut self, memory: &mut Memory, entry: &Entry128) -> io::Result<()> {
        if memory.lent {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        memory.lent = true;
        self.push(entry).inspect_err(|_| memory.lent = false)
    }

    fn push(&mut self, entry: &Entry128) -> io::Result<()> {
        if self.0.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: what a command of ours points to is memory that is now lent, so it neither
        // moves nor ends before the command does; a poll points to nothing.
        let pushed = unsafe { self.0.submission().push(entry) };
        pushed.map_err(|_| io::ErrorKind::ResourceBusy.into())
    }

    /// Hands the kernel what was prepared.
    ///
    /// # Errors
    ///
    /// Those of `io_uring_enter(2)`.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// The same; then waits for a completion.
    ///
    /// # Errors
    ///
    /// Those of `io_uring_enter(2)`.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.0.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // A signal; or completions have to be taken first. The caller comes back.
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion: its token, and the result or the negative error number.
    pub(crate) fn completion(&mut self) -> Option<(u64, i32)> {
        let entry = self.0.completion().next()?;
        Some((entry.user_data(), entry.result()))
    }
}

/// `IORING_OP_URING_CMD` with a `struct fuse_uring_cmd_req`.
fn command(target: Target<'_>, operation: u32, commit: u64, address: Option<u64>) -> Entry128 {
    let mut argument = [0; 80];
    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel reads it on this machine"
    )]
    {
        argument[8..16].copy_from_slice(&commit.to_ne_bytes());
        argument[16..18].copy_from_slice(&target.queue.to_ne_bytes());
    }
    opcode::UringCmd80::new(types::Fd(target.device.as_raw_fd()), operation)
        .cmd(argument)
        .addr(address)
        .build()
        .user_data(target.token)
}

/// Sets the length of an entry, for which `UringCmd80` has no setter.
fn set_len(entry: &mut Entry128, len: u32) {
    /// Where `struct io_uring_sqe` has it. Source: `include/uapi/linux/io_uring.h`.
    const LEN_AT: usize = 24;
    const { assert!(size_of::<Entry128>() == 128) }
    let start: *mut u8 = std::ptr::from_mut(entry).cast();
    let place: *mut u32 = start.wrapping_add(LEN_AT).cast();
    // SAFETY: the entry is the 128 bytes of a `struct io_uring_sqe` in C's layout, as it is handed
    // to the kernel, so these four are inside it and aligned; any value may stand there.
    unsafe { place.write_unaligned(len) };
}
