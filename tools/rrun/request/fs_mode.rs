//! `--fs-mode`.

use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

/// Who takes a container's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FsMode {
    /// Whoever loses nothing.
    Auto,
    /// Our server.
    Fuse,
    /// The kernel's overlayfs on our server.
    Hybrid,
}

impl FsMode {
    /// The mode of this name; of the environment's where none was given.
    pub(super) fn parse(word: Option<&str>) -> Result<Self, Failure> {
        let environment = Environment::variable(FS_MODE);
        match word.or(environment.as_deref()) {
            None | Some("" | "auto") => Ok(Self::Auto),
            Some("fuse") => Ok(Self::Fuse),
            Some("hybrid") => Ok(Self::Hybrid),
            Some(other) => Err(Failure::new(
                ExitCode::ENGINE,
                format!("invalid --fs-mode: {other}"),
            )
            .hint("it is auto, fuse or hybrid")),
        }
    }
}

/// The variable that says which mode new containers have.
const FS_MODE: &str = "RRUN_FS_MODE";
