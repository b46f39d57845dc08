//! Why a seccomp profile cannot be used.

use std::fmt;

/// Why a profile cannot be turned into a filter.
#[derive(Debug)]
#[non_exhaustive]
pub enum SeccompError {
    /// The text is not a profile in JSON.
    Json(serde_json::Error),
    /// The profile uses an action this program does not have; holds its name.
    Action(String),
    /// The profile wants a filter flag this program does not have; holds its name.
    Flag(String),
    /// The profile returns an errno the kernel cannot; holds it.
    Errno(u32),
    /// The profile compares in a way this program does not know; holds the operator.
    Operator(String),
    /// The profile looks at an argument that does not exist; holds its index.
    Argument(u32),
    /// The profile is larger than the program accepts; holds its size in bytes.
    Size(usize),
    /// The compiled program exceeds what the kernel takes; holds its length in instructions.
    Length(usize),
}

impl fmt::Display for SeccompError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(_) => write!(f, "could not parse the seccomp profile"),
            Self::Action(name) => write!(f, "seccomp profile has unsupported action {name:?}"),
            Self::Flag(name) => write!(f, "seccomp profile has unsupported flag {name:?}"),
            Self::Errno(errno) => write!(f, "seccomp profile has invalid errno {errno}"),
            Self::Operator(name) => write!(f, "seccomp profile has unknown operator {name:?}"),
            Self::Argument(index) => {
                write!(
                    f,
                    "seccomp profile looks at argument {index}, calls have 0 to 5"
                )
            }
            Self::Size(size_bytes) => {
                write!(f, "seccomp profile is too large with {size_bytes} bytes")
            }
            Self::Length(count) => {
                write!(
                    f,
                    "seccomp profile is too complex with {count} instructions"
                )
            }
        }
    }
}

impl std::error::Error for SeccompError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(source) => Some(source),
            Self::Action(_)
            | Self::Flag(_)
            | Self::Errno(_)
            | Self::Operator(_)
            | Self::Argument(_)
            | Self::Size(_)
            | Self::Length(_) => None,
        }
    }
}
