//! Descriptors of whoever starts a process that the process is to have too: so many, from 3 on.
//!
//! Those of a container's first process go through the monitor, as copies with other numbers, and
//! are put in their places last. A further process is a descendant of the command that makes it:
//! there they stay where they are.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use crate::error::{Failure, RunnerError};
use crate::{channel, sys};

/// The first of them.
const FIRST: RawFd = 3;
/// Most of them: what the kernel takes in one message, less what a start sends besides.
pub const PRESERVED_FDS_MAX: u32 = 240;

const _: () = assert!(PRESERVED_FDS_MAX as usize + 3 <= channel::FDS_MAX);

/// Their numbers.
fn numbers(count: u32) -> std::ops::Range<RawFd> {
    FIRST..above(count)
}

/// The first number above them.
fn above(count: u32) -> RawFd {
    FIRST + RawFd::try_from(count.min(PRESERVED_FDS_MAX)).unwrap_or_default()
}

/// Checks that whoever executed this process left it so many.
///
/// # Errors
///
/// Names the first that is not there, and what is too many.
pub fn check(count: u32) -> Result<(), RunnerError> {
    let setup = |text| Err(RunnerError::Failed(Failure::setup(text)));
    if count > PRESERVED_FDS_MAX {
        return setup(format!(
            "cannot preserve {count} file descriptors: at most {PRESERVED_FDS_MAX}"
        ));
    }
    match numbers(count).find(|fd| !sys::given::is_given(*fd)) {
        Some(fd) => setup(format!(
            "file descriptor {fd} is not available - the preserve-fds option requires that file \
             descriptors must be passed"
        )),
        None => Ok(()),
    }
}

/// Takes them over; from now on programs that this process executes have none of them.
pub(crate) fn take(count: u32) -> io::Result<Vec<OwnedFd>> {
    numbers(count).map(sys::inherited).collect()
}

/// Closes those that were left to this process; others may have come to have such a number.
pub(crate) fn close(count: u32) {
    for fd in numbers(count).filter(|fd| sys::given::is_given(*fd)) {
        drop(sys::inherited(fd));
    }
}

/// Moves a descriptor out of their way.
pub(crate) fn clear_of(fd: OwnedFd, count: u32) -> io::Result<OwnedFd> {
    if count == 0 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, above(count))?)
}

/// Puts copies, all of them above, in their places.
pub(crate) fn place(copies: &[OwnedFd]) -> io::Result<()> {
    for (number, copy) in (FIRST..).zip(copies) {
        sys::dup_onto(copy.as_fd(), number)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_opened_itself_is_not_preserved() {
        // The test runner leaves none, and what a test opens is its own.
        let own = std::fs::File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&own);
        assert!(!sys::given::is_given(number));
        let count = u32::try_from(number - FIRST + 1).unwrap();
        let error = check(count).unwrap_err().to_string();
        assert!(error.contains("is not available"), "{error}");
        let error = check(PRESERVED_FDS_MAX + 1).unwrap_err().to_string();
        assert!(error.contains("at most 240"), "{error}");
        check(0).unwrap();
    }

    #[test]
    fn copies_are_moved_above_the_places() {
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let moved = clear_of(file, 200).unwrap();
        assert!(std::os::fd::AsRawFd::as_raw_fd(&moved) >= 203);
    }
}
