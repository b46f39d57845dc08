//! Containers that are being made.

use std::path::{Path, PathBuf};

use crate::container::make_private_dir;
use crate::error::{At, RunnerError};

/// Where containers are made before they come to be, so that a kill leaves none that is half made.
pub(crate) struct Staging {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// Shared by all who make one; who has it alone may remove what a kill left.
    _lock: std::fs::File,
}

impl Staging {
    /// Enters it, and removes what a kill left when nobody else is there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used.
    pub(crate) fn enter(containers: &Path) -> Result<Self, RunnerError> {
        use rustix::fs::{FlockOperation, flock};
        let dir = containers.join("new");
        make_private_dir(&dir).at("make", &dir)?;
        let lock = std::fs::File::open(&dir).at("open", &dir)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let mut names_left = false;
            for entry in std::fs::read_dir(&dir).at("list", &dir)? {
                let left = entry.at("list", &dir)?.path();
                std::fs::remove_dir_all(&left).at("remove", left)?;
                names_left = true;
            }
            if names_left {
                crate::names::sweep(containers)?;
            }
        }
        flock(&lock, FlockOperation::LockShared)
            .map_err(std::io::Error::from)
            .at("lock", &dir)?;
        Ok(Self { dir, _lock: lock })
    }
}
