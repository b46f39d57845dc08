//! The caller's own terminal: raw mode with restoration, window size.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Sets the size of a terminal; a zero size is left alone.
pub(crate) fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) {
    if rows > 0 && columns > 0 {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A terminal that is gone needs no size.
        let _gone = tcsetwinsize(terminal, size);
    }
}

/// The size of the terminal behind `fd`: lines and columns; `None` when it is none.
#[must_use]
pub fn size(fd: impl AsFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(fd).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Puts a terminal into raw mode for as long as it lives.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Changes the terminal behind `fd`; `None` when it is none.
    ///
    /// # Errors
    ///
    /// Those of `tcsetattr(3)`.
    pub(crate) fn enter(fd: impl AsFd) -> io::Result<Option<Self>> {
        if !isatty(&fd) {
            return Ok(None);
        }
        let before = tcgetattr(&fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &raw)?;
        Ok(Some(Self {
            terminal: fd.as_fd().try_clone_to_owned()?,
            before,
        }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _gone = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
