//! Files whose reads and writes the kernel does on the upper file itself.
//!
//! Only root of the whole machine may hand a file to the kernel. All who have a file open must use
//! it in the same way, so what the first open decided holds until the last is closed: a file that
//! is still in the lower tree goes through the cache even after it is copied up.
//!
//! Source: kernel `Documentation/filesystems/fuse/fuse-passthrough.rst`, `fs/fuse/iomode.c`.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rrun_core::Errno;
use rrun_union::{Ino, Union};

use crate::sys;

/// What a file is open as, and how often.
#[derive(Debug)]
struct Open {
    count: u64,
    /// The kernel's number for the file that stands behind; `None` when it goes through the cache.
    backing: Option<i32>,
}

/// All open files, once the kernel has agreed to passthrough.
#[derive(Debug, Default)]
pub(crate) struct Passthrough {
    open: Mutex<HashMap<u64, Open>>,
}

impl Passthrough {
    /// Notes that a file is opened; gives the number to answer with.
    pub(crate) fn open(&self, device: &File, union: &Union, ino: Ino) -> Option<i32> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get_mut(&ino.0) {
            known.count += 1;
            return known.backing;
        }
        // Refused by the kernel, for one not root or for a stacked file system: then the cache
        // does.
        let backing = union
            .backing(ino)
            .and_then(|file| sys::open_backing(device.as_fd(), file.as_fd()).ok());
        open.insert(ino.0, Open { count: 1, backing });
        backing
    }

    /// Notes that a file without a name was made and is open.
    pub(crate) fn made(&self, ino: Ino) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(
            ino.0,
            Open {
                count: 1,
                backing: None,
            },
        );
    }

    /// Notes that an open file is closed.
    ///
    /// # Errors
    ///
    /// Never any that matters: the kernel forgets the file with the connection at the latest.
    pub(crate) fn release(&self, device: &File, ino: Ino) -> Result<(), Errno> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = open.get_mut(&ino.0) else {
            return Ok(());
        };
        known.count -= 1;
        if known.count == 0
            && let Some(Open {
                backing: Some(backing),
                ..
            }) = open.remove(&ino.0)
        {
            sys::close_backing(device.as_fd(), backing)?;
        }
        Ok(())
    }

    /// Whether a file's size and times change without our doing.
    pub(crate) fn changes_by_itself(&self, ino: Ino) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&ino.0)
            .is_some_and(|known| known.backing.is_some())
    }
}
