//! Seccomp filters: what the processes of a container may ask of the kernel.
//!
//! Two filters exist. [`default_filter`] is Docker's default profile for a capability set.
//! [`squash_filter`] is for root where a user namespace maps a single id: it makes the calls
//! that deal in other ids succeed, asking the supervisor in [`crate::ids`] to record what a file's
//! owner or device number should have been.
//!
//! [`profile_filter`] compiles a profile file instead of the default one.
//!
//! # How init uses it
//!
//! Before the fork: compile the filters (about 11 microseconds each). In init, after all mounts
//! and *before* dropping capabilities:
//!
//! 1. [`install`] the squash filter, if the container needs it. Nothing is allocated. Init has
//!    `CAP_SYS_ADMIN` in its own user namespace at that point, so `PR_SET_NO_NEW_PRIVS` is not
//!    needed and set-user-id programs keep working; with neither the kernel answers `EACCES`.
//! 2. Send the listener that came back to the monitor over a socket and close it. The monitor
//!    starts `rrun __ids`, which calls [`crate::ids::enter_and_supervise`], and closes its copy. A
//!    call that needs the supervisor waits for it, so init need not; once every copy of the
//!    listener is closed such calls fail with `ENOSYS`.
//! 3. [`install`] the profile. With the default profile both may be installed at once in step 1;
//!    a profile from a file may forbid `seccomp` or `sendmsg`.
//! 4. Drop capabilities, `execve`.
//!
//! From step 1 on `setgroups` and `set*id` to ids other than 0 do nothing and return 0. The example
//! `squash` shows all of it. A process that is not root, in a namespace that maps its own id alone,
//! has [`single_filter`] instead, which nobody supervises.
//!
//! For `exec`, a process that joins the container does the same, with a supervisor of its own.
//!
//! # Stacking
//!
//! Every installed filter runs and the strictest answer counts: kill, trap, errno, notify, trace,
//! log, allow. The default profile allows all the calls the squash filter notifies about, so the
//! two combine as wanted. Foreign ABIs (i386, x32) are answered `ENOSYS` by both. A process has one
//! listener at most: under the squash filter a program cannot make one of its own (`EBUSY`).

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
pub use profile::{bundle_filter, profile_filter};
pub use squash::{Mapped, single_filter, squash_filter};
pub use standard::default_filter;

/// The longest program the kernel takes, in instructions. Source: `BPF_MAXINSNS`.
const PROGRAM_MAX: usize = 4096;

/// A compiled filter, ready for [`install`].
pub struct Filter {
    /// The program, at most [`PROGRAM_MAX`] long.
    code: Vec<libc::sock_filter>,
    /// Whether some answer is "ask the supervisor".
    notifies: bool,
    /// `SECCOMP_FILTER_FLAG_*` it is installed with.
    flags: libc::c_ulong,
}

impl Filter {
    /// Wraps a program of ours.
    fn new(code: Vec<libc::sock_filter>, notifies: bool) -> Self {
        debug_assert!(
            code.len() <= PROGRAM_MAX,
            "a built-in filter is far below the limit"
        );
        Self {
            code,
            notifies,
            flags: 0,
        }
    }

    /// The same, installed with these flags.
    fn with_flags(mut self, flags: libc::c_ulong) -> Self {
        self.flags = flags;
        self
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
            listener = Some(sys::install_with_listener(&filter.code, filter.flags)?);
        } else {
            sys::install(&filter.code, filter.flags)?;
        }
    }
    Ok(listener)
}
