//! Why a command ended badly, as the user is told.

use std::error::Error;
use std::fmt;

/// What `rrun` exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitCode(pub(crate) u8);

impl ExitCode {
    /// All went well.
    pub(crate) const OK: Self = Self(0);
    /// A command failed.
    pub(crate) const GENERAL: Self = Self(1);
    /// A flag is wrong.
    pub(crate) const FLAGS: Self = Self(125);
    /// `run`, `create`, `start` or `exec` failed before the container's own command began.
    pub(crate) const ENGINE: Self = Self(125);
}

/// A failed command: text for people, an exit code, perhaps what to try next.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    text: String,
    hint: Option<String>,
}

impl Failure {
    /// Wraps a message.
    pub(crate) fn new(code: ExitCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            hint: None,
        }
    }

    /// An ordinary failure, exit code 1.
    pub(crate) fn general(text: impl Into<String>) -> Self {
        Self::new(ExitCode::GENERAL, text)
    }

    /// A wrong flag, exit code 125.
    pub(crate) fn flags(text: impl Into<String>) -> Self {
        Self::new(ExitCode::FLAGS, text)
    }

    /// Prefixes an error and all its causes with what was being done.
    pub(crate) fn of(action: &str, error: &dyn Error) -> Self {
        Self::general(format!("{action}: {}", chain(error)))
    }

    /// Adds what to try next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Changes the exit code.
    pub(crate) fn code(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }

    /// The same as a failure of the engine, unless it has a code of its own.
    pub(crate) fn engine(self) -> Self {
        if self.code == ExitCode::GENERAL {
            return self.code(ExitCode::ENGINE);
        }
        self
    }

    /// What to exit with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code
    }

    /// What to try next.
    pub(crate) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::general(chain(&error))
    }
}

/// An error and its causes, outermost first, leaving out a cause already quoted.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
