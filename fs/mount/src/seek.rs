//! `SEEK_DATA` and `SEEK_HOLE` while the kernel holds writes back.
//!
//! The kernel asks us without writing back first, so what a program just wrote would seem to be a
//! hole, and whoever copies the file would leave it out. We make the kernel write back by telling
//! it to drop the file's pages. It waits for its write requests to be answered, so no worker may
//! do this: a thread of its own does.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc::Receiver;

use rrun_core::Errno;
use rrun_union::{Ino, SeekTo, Union};

use crate::server::Source;
use crate::wire::{Body, Reply, Request};

/// `FUSE_NOTIFY_INVAL_INODE`. Source: `include/uapi/linux/fuse.h`.
const NOTIFY_INVAL_INODE: i32 = 2;

/// One question, `struct fuse_lseek_in`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seek {
    /// Where it was read.
    source: Source,
    unique: u64,
    ino: Ino,
    offset: u64,
    what: SeekTo,
}

impl Seek {
    pub(crate) fn parse(request: &Request<'_>, source: Source) -> Result<Self, Errno> {
        let (offset, what) = arguments(request.body)?;
        Ok(Self {
            source,
            unique: request.unique,
            ino: Ino(request.node),
            offset,
            what,
        })
    }
}

/// Offset and direction of `struct fuse_lseek_in`.
pub(crate) fn arguments(mut body: Body<'_>) -> Result<(u64, SeekTo), Errno> {
    body.skip(8)?;
    let offset = body.u64()?;
    let what = match body.u32()? {
        3 => SeekTo::Data,
        4 => SeekTo::Hole,
        _ => return Err(Errno::EINVAL),
    };
    Ok((offset, what))
}

/// Answers questions until told to end.
#[expect(clippy::needless_pass_by_value, reason = "a receiver cannot be shared")]
pub(crate) fn answer_all(
    questions: Receiver<Option<Seek>>,
    device: &File,
    union: &Union,
    send: &dyn Fn(Source, &[u8]),
) {
    let mut reply = Reply::with_capacity(64);
    while let Ok(Some(seek)) = questions.recv() {
        let found = write_back(device, seek.ino)
            .and_then(|()| union.seek(seek.ino, seek.offset, seek.what));
        reply.clear();
        let result = found.map(|found| reply.u64(found));
        send(seek.source, reply.finish(seek.unique, result));
    }
}

/// Makes the kernel write back what it holds of a file; returns when it has.
fn write_back(device: &File, ino: Ino) -> Result<(), Errno> {
    // all of it: from 0, and no length
    invalidate(device, ino, 0)
}

/// Makes the kernel ask for a file's attributes again.
pub(crate) fn attributes_changed(device: &File, ino: Ino) -> Result<(), Errno> {
    invalidate(device, ino, -1)
}

/// `struct fuse_notify_inval_inode_out`: attributes, and contents from `offset` if that is not
/// negative.
fn invalidate(mut device: &File, ino: Ino, offset: i64) -> Result<(), Errno> {
    let mut message = Reply::with_capacity(64);
    message.clear();
    message.u64(ino.0);
    message.u64(offset.cast_unsigned());
    message.u64(0);
    let bytes = message.notification(NOTIFY_INVAL_INODE);
    match device.write_all(bytes).map_err(Errno::from) {
        // the kernel has forgotten the file, and so has nothing of it
        Err(Errno::ENOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}
