//! Seccomp filters: what the processes of a container may ask of the kernel.
//!
//! Two filters exist. [`default_filter`] is Docker's default profile for a capability set.
//! [`squash_filter`] is for containers whose user namespace maps a single id: it makes the calls
//! that deal in other ids succeed, asking the supervisor in [`crate::ids`] to record what a file's
//! owner or device number should have been.
//!
//! [`profile_filter`] compiles a profile file instead of the default one.
//!
//! # How init uses it
//!
//! Before the fork: `let filters = [default_filter(caps), squash_filter()]`. In init, as the last
//! step before `execve` but *before* dropping capabilities, `install(&filters)`. No allocation
//! happens there. Init has `CAP_SYS_ADMIN` in its own user namespace at that point, so
//! `PR_SET_NO_NEW_PRIVS` is not needed and set-user-id programs keep working; without that
//! capability and without no-new-privileges the kernel answers `EACCES`. The descriptor that comes
//! back (only when a filter [`notifies`](Filter::notifies)) must be sent to the monitor over a
//! socket (`sendmsg` is never filtered for native calls) and closed; the monitor starts
//! `rrun __ids`, which calls [`crate::ids::enter_and_supervise`]. A call that needs the supervisor
//! waits until the supervisor reads it, so the order of these steps does not matter, but if every
//! copy of the listener is closed such calls fail with `ENOSYS`.
//!
//! `setgroups` and `set*id` to ids other than 0 are answered by the squash filter from the moment
//! of installation, which also makes `--user 1000` "work" with id 0.
//!
//! For `exec`, a process that joins the container installs the same filters and needs a supervisor
//! for its own listener.
//!
//! # Stacking
//!
//! Every installed filter runs and the strictest answer counts: kill, trap, errno, notify, trace,
//! log, allow. The default profile allows all the calls the squash filter notifies about, so the
//! two combine as wanted. Foreign ABIs (i386, x32) are answered `ENOSYS` by both.

mod bpf;
mod calls;
pub mod caps;
mod error;
mod profile;
mod squash;
mod standard;
pub(crate) mod sys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

pub use error::SeccompError;
pub use profile::profile_filter;
pub use squash::squash_filter;
pub use standard::default_filter;

/// The longest program the kernel takes, in instructions. Source: `BPF_MAXINSNS`.
const PROGRAM_MAX: usize = 4096;

/// A compiled filter, ready for [`install`].
pub struct Filter {
    /// The program, at most [`PROGRAM_MAX`] long.
    code: Vec<libc::sock_filter>,
    /// Whether some answer is "ask the supervisor".
    notifies: bool,
}

impl Filter {
    /// Wraps a program of ours.
    fn new(code: Vec<libc::sock_filter>, notifies: bool) -> Self {
        debug_assert!(
            code.len() <= PROGRAM_MAX,
            "a built-in filter is far below the limit"
        );
        Self { code, notifies }
    }

    /// The program as the kernel takes it.
    #[must_use]
    pub fn code(&self) -> &[libc::sock_filter] {
        &self.code
    }

    /// Whether installing it yields a listener that somebody must serve.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.notifies
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("instructions", &self.code.len())
            .field("notifies", &self.notifies)
            .finish()
    }
}

/// The name of a system call of this architecture, empty when unknown.
pub(crate) fn name_of(number: u32) -> &'static str {
    let known = calls::CALLS.iter().find(|call| call.number == Some(number));
    known.map_or("", |call| call.name)
}

/// Puts the calling thread, and all it starts from now on, under `filters`, in order.
///
/// Returns the listener (close-on-exec) of the filter that notifies, if there is one. Allocates
/// nothing: may be called between fork and exec. Not undone on failure.
///
/// # Errors
///
/// `EACCES` without `CAP_SYS_ADMIN` in the user namespace and without no-new-privileges; `EBUSY`
/// when a listener exists already (one per filter stack); `EINVAL` for a program too long or a
/// kernel without seccomp filters.
///
/// Source: `seccomp(2)`.
pub fn install(filters: &[Filter]) -> io::Result<Option<OwnedFd>> {
    let mut listener = None;
    for filter in filters {
        if filter.notifies {
            listener = Some(sys::install_with_listener(&filter.code)?);
        } else {
            sys::install(&filter.code)?;
        }
    }
    Ok(listener)
}
