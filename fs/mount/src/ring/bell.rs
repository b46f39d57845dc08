//! How workers that wait for the kernel are told to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// What is added to the bell: any number but 0 would do.
const ONCE: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// A descriptor that can be read from when it is over, by any number of workers.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`.
    ///
    /// Source: `eventfd(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Tells all workers to end, those that come later too: nobody reads it.
    pub(crate) fn ring(&self) {
        // Refused only when it was rung too often, and then it rings.
        let _rung = rustix::io::write(&self.0, &ONCE);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
