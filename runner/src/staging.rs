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
            let mut entries = std::fs::read_dir(&dir).at("list", &dir)?.peekable();
            // First, so that a kill in between leaves what tells the next one to do it.
            if entries.peek().is_some() {
                crate::names::sweep(containers)?;
            }
            for entry in entries {
                let left = entry.at("list", &dir)?.path();
                std::fs::remove_dir_all(&left).at("remove", left)?;
            }
        }
        flock(&lock, FlockOperation::LockShared)
            .map_err(std::io::Error::from)
            .at("lock", &dir)?;
        Ok(Self { dir, _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_goes_with_its_name_when_nobody_else_makes_one() {
        let home = tempfile::tempdir().unwrap();
        let containers = home.path();
        let id = "a".repeat(64);
        std::fs::create_dir_all(containers.join("new").join(&id)).unwrap();
        drop(crate::names::take(containers, "web", &id).unwrap());
        let count = |dir: &str| std::fs::read_dir(containers.join(dir)).unwrap().count();
        let other = std::fs::File::open(containers.join("new")).unwrap();
        rustix::fs::flock(&other, rustix::fs::FlockOperation::LockShared).unwrap();
        drop(Staging::enter(containers).unwrap());
        assert_eq!((count("new"), count("names")), (1, 1));
        drop(other);
        drop(Staging::enter(containers).unwrap());
        assert_eq!((count("new"), count("names")), (0, 0));
    }
}
