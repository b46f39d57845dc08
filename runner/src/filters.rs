//! System call filters of a process, prepared before it is made.

use std::io;
use std::os::fd::OwnedFd;

use crate::config::Seccomp;
use crate::plan::ProcessSpec;
use crate::seccomp::{self, Filter};

/// The filter programs, ready to install.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    programs: Vec<Filter>,
}

impl Filters {
    /// Compiles what `spec` asks for. Squash mode without a supervisor has none of its calls
    /// answered, so the filter for it is only used when there is a command for one.
    pub(crate) fn prepare(spec: &ProcessSpec, supervised: bool) -> Self {
        let mut programs = Vec::new();
        if spec.squash && supervised {
            programs.push(seccomp::squash_filter());
        }
        if spec.seccomp == Seccomp::Default {
            programs.push(seccomp::default_filter(spec.caps.bits()));
        }
        Self { programs }
    }

    /// The filter of a bundle.
    pub(crate) fn of_bundle(filter: Option<Filter>) -> Self {
        Self {
            programs: filter.into_iter().collect(),
        }
    }

    /// Whether some call asks a supervisor.
    pub(crate) fn notifies(&self) -> bool {
        self.programs.iter().any(Filter::notifies)
    }

    /// Installs the filters in this process; yields the listener of a supervised one.
    ///
    /// # Errors
    ///
    /// Those of `seccomp(2)`.
    pub(crate) fn install(&self) -> io::Result<Option<OwnedFd>> {
        seccomp::install(&self.programs)
    }
}
