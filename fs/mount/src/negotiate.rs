//! The first exchange: what kernel and server agree on.

use rrun_core::Errno;

use crate::options::{OpenMode, ServeOptions};
use crate::wire::{Body, Reply};

/// The protocol we speak. Source: `include/uapi/linux/fuse.h`.
const MAJOR: u32 = 7;
const MINOR: u32 = 40;
/// The oldest minor version that has all we need (`FUSE_INIT_EXT`, Linux 5.17) is newer than some
/// kernels we serve; those say so by not offering the flags.
const MINOR_MIN: u32 = 31;

/// Flags of `INIT`. Source: the same.
mod flag {
    pub(super) const ASYNC_READ: u64 = 1;
    pub(super) const EXPORT_SUPPORT: u64 = 1 << 4;
    pub(super) const BIG_WRITES: u64 = 1 << 5;
    pub(super) const DONT_MASK: u64 = 1 << 6;
    pub(super) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(super) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(super) const POSIX_ACL: u64 = 1 << 20;
    pub(super) const ABORT_ERROR: u64 = 1 << 21;
    pub(super) const MAX_PAGES: u64 = 1 << 22;
    pub(super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(super) const SETXATTR_EXT: u64 = 1 << 29;
    pub(super) const INIT_EXT: u64 = 1 << 30;
    pub(super) const PASSTHROUGH: u64 = 1 << 37;
    pub(super) const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    pub(super) const OVER_IO_URING: u64 = 1 << 41;
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// `SETXATTR` has the long form.
    pub(crate) setxattr_ext: bool,
    /// The kernel holds writes back.
    pub(crate) writeback: bool,
    /// The kernel takes files to read and write by itself.
    pub(crate) passthrough: bool,
    /// The kernel waits for rings to be registered, and sends requests by them.
    pub(crate) io_uring: bool,
}

/// Background requests the kernel may have under way: enough to keep readahead and writeback
/// going on all workers.
const BACKGROUND_MAX: u16 = 64;
/// Readahead the kernel may do, in bytes: one request.
const READAHEAD_MAX: u32 = 1 << 20;

/// Answers `INIT`; `rings` says whether there are some to be registered.
///
/// # Errors
///
/// `EPROTO` when the kernel speaks another major version, or one too old.
pub(crate) fn answer(
    mut body: Body<'_>,
    options: &ServeOptions,
    rings: bool,
    reply: &mut Reply,
) -> Result<Session, Errno> {
    let major = body.u32()?;
    let minor = body.u32()?;
    let readahead = body.u32()?;
    let mut offered = u64::from(body.u32()?);
    if major != MAJOR || minor < MINOR_MIN {
        return Err(Errno::EPROTO);
    }
    if offered & flag::INIT_EXT != 0 {
        offered |= u64::from(body.u32()?) << 32;
    }
    let mut wanted = flag::ASYNC_READ
        | if options.handles {
            flag::EXPORT_SUPPORT
        } else {
            flag::NO_EXPORT_SUPPORT
        }
        | flag::BIG_WRITES
        | flag::DONT_MASK
        | flag::DO_READDIRPLUS
        | flag::PARALLEL_DIROPS
        | flag::POSIX_ACL
        | flag::ABORT_ERROR
        | flag::MAX_PAGES
        | flag::CACHE_SYMLINKS
        | flag::HANDLE_KILLPRIV_V2
        | flag::SETXATTR_EXT
        | flag::INIT_EXT;
    if rings {
        wanted |= flag::OVER_IO_URING;
    }
    if options.open_mode == OpenMode::Passthrough && offered & flag::PASSTHROUGH != 0 {
        // The kernel allows one or the other.
        wanted |= flag::PASSTHROUGH;
    } else if options.writeback {
        wanted |= flag::WRITEBACK_CACHE;
    }
    let agreed = offered & wanted;
    let passthrough = agreed & flag::PASSTHROUGH != 0;
    let low = u32::try_from(agreed & u64::from(u32::MAX)).unwrap_or(0);
    let high = u32::try_from(agreed >> 32).unwrap_or(0);
    reply.u32(MAJOR);
    reply.u32(MINOR);
    reply.u32(readahead.max(READAHEAD_MAX));
    reply.u32(low);
    reply.u16(BACKGROUND_MAX);
    reply.u16(BACKGROUND_MAX / 4 * 3);
    reply.u32(options.transfer_bytes_max);
    reply.u32(1);
    reply.u16(u16::try_from(options.transfer_bytes_max / 4096).unwrap_or(u16::MAX));
    reply.u16(0);
    reply.u32(high);
    // `max_stack_depth`: what stands behind is on no stacked file system.
    reply.u32(u32::from(passthrough));
    reply.zeros(24);
    Ok(Session {
        setxattr_ext: agreed & flag::SETXATTR_EXT != 0,
        writeback: agreed & flag::WRITEBACK_CACHE != 0,
        passthrough,
        io_uring: agreed & flag::OVER_IO_URING != 0,
    })
}
