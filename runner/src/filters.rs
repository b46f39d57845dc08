//! System call filters of a process, prepared before it is made.

use std::io;
use std::os::fd::OwnedFd;

use crate::config::{ContainerConfig, Seccomp};
use crate::error::{Failure, RunnerError};
use crate::plan::ProcessSpec;
use crate::seccomp::{self, Filter, Mapped, SeccompError};

/// Compiles a profile for this kernel and these capabilities.
///
/// # Errors
///
/// When the text is no profile.
pub fn compile(profile: &str, caps: u64) -> Result<Filter, SeccompError> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    seccomp::profile_filter(profile.as_bytes(), caps, &release)
}

/// The filter programs, ready to install.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    programs: Vec<Filter>,
    /// Where there is a single id, whose it is; the filter for it comes first.
    single: Option<Mapped>,
}

impl Filters {
    /// Compiles what `spec` asks for. Squash mode without a supervisor has none of its calls
    /// answered, so the filter for it is only used when there is a command for one.
    ///
    /// # Errors
    ///
    /// When the container's own profile is none.
    pub(crate) fn prepare(
        spec: &ProcessSpec,
        config: &ContainerConfig,
    ) -> Result<Self, RunnerError> {
        let mut programs = Vec::new();
        match spec.seccomp {
            Seccomp::Default => programs.push(seccomp::default_filter(spec.caps.bits())),
            Seccomp::Profile => {
                let filter = compile(&config.seccomp_profile, spec.caps.bits())
                    .map_err(|error| RunnerError::Failed(Failure::setup(error.to_string())))?;
                programs.push(filter);
            }
            Seccomp::Unconfined => {}
        }
        Ok(Self {
            programs,
            single: config
                .id_map
                .only()
                .filter(|_| spec.squash && !config.ids_argv.is_empty())
                .map(|(uid, _)| {
                    if uid == 0 {
                        Mapped::Root
                    } else {
                        Mapped::Other
                    }
                }),
        })
    }

    /// The filter of a bundle.
    pub(crate) fn of_bundle(filter: Option<Filter>) -> Self {
        Self {
            programs: filter.into_iter().collect(),
            single: None,
        }
    }

    /// Whether some call may ask a supervisor.
    pub(crate) fn notifies(&self) -> bool {
        self.single.is_some() || self.programs.iter().any(Filter::notifies)
    }

    /// Installs the filters in this process; yields the listener of a supervised one.
    ///
    /// # Errors
    ///
    /// Those of `seccomp(2)`.
    pub(crate) fn install(&self) -> io::Result<Option<OwnedFd>> {
        let mut listener = None;
        if let Some(mapped) = self.single {
            let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
            let first = if uid.is_root() {
                seccomp::squash_filter(mapped)
            } else {
                seccomp::single_filter(uid.as_raw(), gid.as_raw())
            };
            listener = seccomp::install(&[first])?;
        }
        Ok(seccomp::install(&self.programs)?.or(listener))
    }
}
