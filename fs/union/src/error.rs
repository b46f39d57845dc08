//! Why a union could not be opened.

use std::fmt;
use std::path::PathBuf;

use rrun_core::Errno;

/// Why a union could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnionError {
    /// A directory could not be used.
    Directory {
        /// What was attempted.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// Another live process writes to this upper directory.
    Busy(PathBuf),
    /// The upper directory is inside a lower one or the reverse, or has an unusable file system.
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

impl UnionError {
    /// The errno that fits best.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Directory { errno, .. } => *errno,
            Self::Busy(_) => Errno::EBUSY,
            Self::Unusable { .. } => Errno::EINVAL,
        }
    }
}

impl fmt::Display for UnionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory {
                action,
                path,
                errno,
            } => {
                write!(f, "could not {action} {}: {errno}", path.display())
            }
            Self::Busy(path) => {
                write!(
                    f,
                    "upper directory {} is in use by another process",
                    path.display()
                )
            }
            Self::Unusable { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for UnionError {}
