//! Why the supervisor stops early.

use std::fmt;
use std::io;

/// Why the supervisor stops early.
#[derive(Debug)]
#[non_exhaustive]
pub enum IdsError {
    /// A system call failed.
    Io {
        /// What we were doing, to complete "could not ...".
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl IdsError {
    /// Adds what we were doing.
    pub(crate) fn at(action: &'static str, source: io::Error) -> Self {
        Self::Io { action, source }
    }
}

impl fmt::Display for IdsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, .. } => write!(f, "could not {action}"),
        }
    }
}

impl std::error::Error for IdsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
        }
    }
}
