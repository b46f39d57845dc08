//! A part of a container that is a fork of another process, which must have one thread.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{sys, title};

/// What such a part does, given the container's directory and the line on which it is spoken to;
/// its exit code.
pub type PartBody = Box<dyn Fn(&Path, OwnedFd) -> i32>;

/// The exit code of a part that could not begin.
const UNREADY: i32 = 125;

/// The child's side: goes on as `body`, shown as `argv`, once its `streams` are set. It keeps
/// nothing of its parent's but those, the line, and its memory.
pub(super) fn go_on(
    dir: &Path,
    line: OwnedFd,
    streams: io::Result<()>,
    (argv, body): (&[OsString], &PartBody),
) -> ! {
    let alone = streams.and_then(|()| sys::close_all_but(line.as_fd()));
    sys::unblock_signals();
    title::set(argv);
    let code = match alone {
        Ok(()) => body(dir, line),
        Err(_) => UNREADY,
    };
    sys::exit_now(code)
}
