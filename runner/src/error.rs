//! Why a container could not be made, started, entered or removed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What kind of failure a set-up step met; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The container could not be set up: 125.
    Setup,
    /// The command cannot be run, the user is unknown or the directory unusable: 126.
    NotExecutable,
    /// The command does not exist: 127.
    NotFound,
}

/// A failure that happened in another process, as it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind.
    pub class: FailureClass,
    /// What was being done and why it failed.
    pub text: String,
}

/// Why the runner could not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunnerError {
    /// A system call failed.
    Io {
        /// What was being done, as "could not VERB".
        action: &'static str,
        /// To what.
        object: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of ours does not say what it should.
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A start or exec failed inside the container.
    Failed(Failure),
    /// No container has this name or id.
    NoSuchContainer(String),
    /// More than one container id starts with this text.
    Ambiguous(String),
    /// The name is taken by the container with this id.
    NameInUse {
        /// The name.
        name: String,
        /// The full id of its owner.
        id: String,
    },
    /// The name has characters a container name cannot have.
    BadName(String),
    /// The container must be running for this.
    NotRunning(String),
    /// The container must not be running for this.
    Running(String),
    /// Nothing on this host can do it.
    Unsupported(&'static str),
}

impl RunnerError {
    /// The exit code a command that failed this way ends with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Failed(failure) => match failure.class {
                FailureClass::Setup => 125,
                FailureClass::NotExecutable => 126,
                FailureClass::NotFound => 127,
            },
            Self::NoSuchContainer(_)
            | Self::Ambiguous(_)
            | Self::NotRunning(_)
            | Self::Running(_)
            | Self::Unsupported(_) => 1,
            Self::Io { .. }
            | Self::Malformed { .. }
            | Self::NameInUse { .. }
            | Self::BadName(_) => 125,
        }
    }
}

impl fmt::Display for RunnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                object,
                source,
            } => {
                write!(f, "could not {action} {}: {source}", object.display())
            }
            Self::Malformed { path, reason } => {
                write!(f, "{} is damaged: {reason}", path.display())
            }
            Self::Failed(failure) => f.write_str(&failure.text),
            Self::NoSuchContainer(name) => write!(f, "no such container: {name}"),
            Self::Ambiguous(name) => write!(f, "more than one container id starts with {name}"),
            Self::NameInUse { name, id } => {
                write!(
                    f,
                    "the container name \"{name}\" is already in use by container {id}"
                )
            }
            Self::BadName(name) => write!(
                f,
                "invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            ),
            Self::NotRunning(id) => write!(f, "container {id} is not running"),
            Self::Running(id) => write!(f, "container {id} is running"),
            Self::Unsupported(what) => write!(f, "this host cannot {what}"),
        }
    }
}

impl std::error::Error for RunnerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Malformed { .. }
            | Self::Failed(_)
            | Self::NoSuchContainer(_)
            | Self::Ambiguous(_)
            | Self::NameInUse { .. }
            | Self::BadName(_)
            | Self::NotRunning(_)
            | Self::Running(_)
            | Self::Unsupported(_) => None,
        }
    }
}

/// Adds action and object to an I/O error.
pub(crate) trait At<T> {
    /// Names what was done to what.
    fn at(self, action: &'static str, object: impl AsRef<Path>) -> Result<T, RunnerError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, object: impl AsRef<Path>) -> Result<T, RunnerError> {
        self.map_err(|error| RunnerError::Io {
            action,
            object: object.as_ref().to_owned(),
            source: error.into(),
        })
    }
}

impl Failure {
    /// A failure of setting up.
    pub(crate) fn setup(text: impl Into<String>) -> Self {
        Self {
            class: FailureClass::Setup,
            text: text.into(),
        }
    }

    /// A failure that exits with 126.
    pub(crate) fn not_executable(text: impl Into<String>) -> Self {
        Self {
            class: FailureClass::NotExecutable,
            text: text.into(),
        }
    }
}

/// Adds the step's name to a failure inside a container.
pub(crate) trait Step<T> {
    /// Names what failed.
    fn step(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::setup(format!("could not {what}: {}", error.into())))
    }
}
