//! Bulk reads without a copy of our own: from the lower file through a pipe into the device.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::wire::out_header;

/// Bytes the pipe is asked to hold: what any user may have. Source: `pipe(7)`, `pipe-max-size`.
const PIPE_BYTES: usize = 1 << 20;
/// A pipe holds so many bytes a slot, and the header of the answer takes one.
const SLOT_BYTES: usize = 4096;

/// A worker's pipe; empty between answers.
#[derive(Debug)]
pub(crate) struct Pipe {
    out: OwnedFd,
    into: File,
    /// Most bytes of contents that fit, wherever in a page they begin.
    room: usize,
}

impl Pipe {
    /// `None` when there can be no large enough one.
    pub(crate) fn new() -> Option<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&into, PIPE_BYTES).ok()?;
        Some(Self {
            out,
            into: File::from(into),
            room: size.checked_sub(2 * SLOT_BYTES)?,
        })
    }

    pub(crate) fn holds(&self, count: usize) -> bool {
        count <= self.room
    }

    /// Answers request `unique` with `count` bytes of `file` from `offset` on. False when nothing
    /// was answered; the pipe is then not to be used any more.
    pub(crate) fn answer(
        &self,
        device: &File,
        unique: u64,
        (file, offset, count): (&File, u64, usize),
    ) -> bool {
        let header = out_header(count, 0, unique);
        let Ok(()) = (&self.into).write_all(&header) else {
            return false;
        };
        let mut at = offset;
        let end = offset + count as u64;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(0);
            match splice(
                file,
                Some(&mut at),
                &self.into,
                None,
                left,
                SpliceFlags::empty(),
            ) {
                Ok(0) => return false,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        let whole = header.len() + count;
        match splice(&self.out, None, device, None, whole, SpliceFlags::empty()) {
            Ok(sent) => sent == whole,
            // The asker was interrupted and no longer waits; the pipe was emptied.
            Err(rustix::io::Errno::NOENT) => true,
            Err(_) => false,
        }
    }
}
