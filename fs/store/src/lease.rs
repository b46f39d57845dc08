//! Leases: what live processes use, as locked files the kernel lets go of.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rrun_core::Digest;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

use crate::Store;
use crate::error::{At, StoreError};
use crate::store::create_new;

/// Keeps bases and their layers from `gc` until dropped; the kernel ends it with the process.
///
/// The lock is shared with children that were forked and did not exec.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    pid: u32,
    _lock: OwnedFd,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A forked child has a copy of this, but not the right. If the file stays, gc finds it
        // unlocked and removes it.
        if self.pid == std::process::id() {
            let _ignored = fs::remove_file(&self.path);
        }
    }
}

impl Store {
    /// Says that this process uses the bases with these chainIDs.
    ///
    /// # Errors
    ///
    /// `BaseMissing` when `gc` was faster.
    pub fn lease(&self, chains: &[Digest]) -> Result<Lease, StoreError> {
        let _lock = self.lock_shared()?;
        for chain in chains {
            let path = self.base_path(chain);
            if !path.try_exists().at("look at", &path)? {
                return Err(StoreError::BaseMissing(*chain));
            }
        }
        let temp = self.temp_path("lease")?;
        let mut file = create_new(&temp)?;
        for chain in chains {
            writeln!(file, "{chain}").at("write", &temp)?;
        }
        let lock = OwnedFd::from(file);
        flock(&lock, FlockOperation::NonBlockingLockExclusive).at("lock", &temp)?;
        // The session's directory has a name no other process has.
        let unique = temp.iter().rev().take(2).map(|part| part.to_string_lossy());
        let unique: Vec<_> = unique.collect();
        let path = self.dir("leases").join(unique.join("-"));
        fs::rename(&temp, &path).at("rename into place", &path)?;
        Ok(Lease {
            path,
            pid: std::process::id(),
            _lock: lock,
        })
    }

    /// The chainIDs of all live leases; removes dead ones. The exclusive lock is held.
    pub(crate) fn leased(&self) -> Result<Vec<Digest>, StoreError> {
        let dir = self.dir("leases");
        let mut chains = Vec::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            if is_dead(&path) {
                let _ignored = fs::remove_file(&path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            for line in text.lines() {
                match line.parse() {
                    Ok(chain) => chains.push(chain),
                    Err(_) => {
                        return Err(StoreError::Corrupt {
                            path,
                            what: "not a lease",
                        });
                    }
                }
            }
        }
        Ok(chains)
    }
}

/// Whether nobody holds the lock of a file any more.
fn is_dead(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(fd) = openat(CWD, path, flags, Mode::empty()) else {
        return false;
    };
    flock(&fd, FlockOperation::NonBlockingLockShared).is_ok()
}
