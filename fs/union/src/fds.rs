//! The cache of open files: the protocol has no open, so we keep what was used last.

use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lru::LruCache;
use rrun_core::{Data, Errno};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::fill::Fill;
use crate::node::lock;

/// Open files kept when the limit on descriptors is not known.
const FILES_DEFAULT: usize = 256;
/// Open files kept at most; more do not pay, since opening costs as little as a large cache.
const FILES_MAX: usize = 4096;
/// Shards, so that two readers rarely wait for each other.
const SHARDS: usize = 8;

/// The contents of a file, open.
#[derive(Debug)]
pub(crate) enum Source {
    /// A lower file of this many bytes.
    Lower {
        data: Arc<Data>,
        size: u64,
        /// Whether it is on a file system without a disk; asked when it matters.
        in_memory: OnceLock<bool>,
    },
    /// An upper file; `fill` tells what is still in the lower one.
    Upper {
        file: Arc<File>,
        fill: Option<Arc<Fill>>,
    },
    /// An upper file that is immutable, or that may only grow.
    Guarded {
        file: Arc<File>,
        fill: Option<Arc<Fill>>,
        grows: bool,
    },
}

impl Source {
    /// The upper file of one that may be written anywhere, and what is missing of it.
    ///
    /// # Errors
    ///
    /// `EPERM` for a file that is immutable or may only grow; `EIO` when it is not copied up.
    pub(crate) fn writable(&self) -> Result<(&Arc<File>, &Option<Arc<Fill>>), Errno> {
        match self {
            Self::Upper { file, fill } => Ok((file, fill)),
            Self::Guarded { .. } => Err(Errno::EPERM),
            Self::Lower { .. } => Err(Errno::EIO),
        }
    }

    /// The one file that has all contents, if there is one.
    pub(crate) fn whole(&self) -> Option<&File> {
        match self {
            Self::Lower { data, .. } => match &**data {
                Data::File(file) => Some(file),
                Data::Bytes(_) => None,
            },
            Self::Upper { file, fill } | Self::Guarded { file, fill, .. } => fill
                .as_ref()
                .is_none_or(|fill| fill.is_complete())
                .then_some(&**file),
        }
    }

    /// The file of a lower file's contents, and how many of `len` bytes at `offset` it has.
    pub(crate) fn lower_file(&self, offset: u64, len: usize) -> Option<(&File, usize)> {
        match self {
            Self::Lower { data, size, .. } => match &**data {
                Data::File(file) => Some((file, wanted(offset, len, *size))),
                Data::Bytes(_) => None,
            },
            Self::Upper { .. } | Self::Guarded { .. } => None,
        }
    }

    /// Whether the first and the last of these bytes are in memory: those between then are too,
    /// nearly always, since disks are read ahead.
    pub(crate) fn is_at_hand(&self, offset: u64, count: usize) -> bool {
        let last = (offset + count as u64).saturating_sub(1);
        [offset, last]
            .into_iter()
            .all(|at| self.read_now(at, &mut [0]).is_some())
    }

    /// Reads what is in memory, without waiting for a disk; `None` when some of it is not.
    pub(crate) fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let (file, size, known) = match self {
            Self::Lower {
                data,
                size,
                in_memory,
            } => match &**data {
                Data::File(file) if in_memory.get() != Some(&true) => {
                    (file, Some(*size), Some(in_memory))
                }
                Data::File(_) | Data::Bytes(_) => return self.read_at(offset, buffer).ok(),
            },
            Self::Upper { file, fill } if fill.as_ref().is_none_or(|f| f.is_complete()) => {
                (&**file, None, None)
            }
            Self::Upper { .. } | Self::Guarded { .. } => return None,
        };
        let want = size.map_or(buffer.len(), |size| wanted(offset, buffer.len(), size));
        let mut done = 0;
        while done < want {
            let mut parts = [IoSliceMut::new(&mut buffer[done..want])];
            let at = offset + done as u64;
            match preadv2(file, &mut parts, at, ReadWriteFlags::NOWAIT) {
                Ok(0) if size.is_some() => return None,
                Ok(0) => break,
                Ok(count) => done += count,
                // A file system without the flag may still never wait.
                Err(rustix::io::Errno::OPNOTSUPP) => {
                    let in_memory = match known {
                        Some(known) => *known.get_or_init(|| is_in_memory(file)),
                        None => is_in_memory(file),
                    };
                    return in_memory.then(|| self.read_at(offset, buffer).ok())?;
                }
                Err(_) => return None,
            }
        }
        Some(done)
    }

    /// Writes to an upper file.
    pub(crate) fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        if let Self::Guarded {
            file, grows: true, ..
        } = self
        {
            if file.metadata()?.len() != offset {
                return Err(Errno::EPERM);
            }
            file.write_all_at(data, offset)?;
            return Ok(data.len());
        }
        let (file, fill) = self.writable()?;
        match fill {
            Some(fill) => fill.write_at(file, offset, data)?,
            None => file.write_all_at(data, offset)?,
        }
        Ok(data.len())
    }

    /// Reads at an offset; short only at the end of the file.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Lower { data, size, .. } => {
                let want = wanted(offset, buffer.len(), *size);
                let count = read_data(data, offset, &mut buffer[..want])?;
                // A file that lost its end would otherwise read as a shorter one.
                if count == want {
                    Ok(count)
                } else {
                    Err(Errno::EIO)
                }
            }
            Self::Upper {
                file,
                fill: Some(fill),
            }
            | Self::Guarded {
                file,
                fill: Some(fill),
                ..
            } => fill.read_at(file, offset, buffer),
            Self::Upper { file, fill: None }
            | Self::Guarded {
                file, fill: None, ..
            } => read_file(file, offset, buffer),
        }
    }
}

/// How many of `len` bytes at `offset` a file of `size` bytes has.
fn wanted(offset: u64, len: usize, size: u64) -> usize {
    usize::try_from(size.saturating_sub(offset)).map_or(len, |left| left.min(len))
}

/// Whether a file's contents are never on a disk. Source: `linux/magic.h`.
fn is_in_memory(file: &File) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    rustix::fs::fstatfs(file).is_ok_and(|space| {
        let kind = u64::try_from(space.f_type).unwrap_or(0);
        kind == TMPFS_MAGIC || kind == RAMFS_MAGIC
    })
}

pub(crate) fn read_file(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

pub(crate) fn read_data(data: &Data, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    match data {
        Data::File(file) => read_file(file, offset, buffer),
        Data::Bytes(bytes) => {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let count = (bytes.len() - start).min(buffer.len());
            buffer[..count].copy_from_slice(&bytes[start..start + count]);
            Ok(count)
        }
    }
}

type Shard = Mutex<LruCache<u64, Arc<Source>>>;

#[derive(Debug)]
pub(crate) struct Fds {
    shards: Box<[Shard]>,
}

impl Fds {
    pub(crate) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = limit
            .and_then(|n| usize::try_from(n / 4).ok())
            .unwrap_or(FILES_DEFAULT)
            .clamp(SHARDS, FILES_MAX);
        let each = NonZeroUsize::new(files / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(LruCache::new(each)))
                .collect(),
        }
    }

    fn shard(&self, id: u64) -> &Shard {
        &self.shards[usize::try_from(id % 8).unwrap_or(0)]
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Source>> {
        lock(self.shard(id)).get(&id).cloned()
    }

    pub(crate) fn put(&self, id: u64, source: Arc<Source>) {
        let old = lock(self.shard(id)).push(id, source);
        // closing a file takes time that must not be spent under the lock
        drop(old);
    }

    /// Closes all that are not in use.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            lock(shard).clear();
        }
    }

    pub(crate) fn remove(&self, id: u64) {
        let old = lock(self.shard(id)).pop(&id);
        drop(old);
    }
}

/// Open upper directories, those used last; the others are opened again along their path.
#[derive(Debug)]
pub(crate) struct DirFds {
    cache: Mutex<LruCache<u64, Arc<OwnedFd>>>,
    /// Held for writing while a directory moves, on disk and in its `spot`. Nothing but a `spot`
    /// and the cache is locked by one who holds it.
    moves: RwLock<()>,
}

impl DirFds {
    pub(crate) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let count = limit
            .and_then(|n| usize::try_from(n / 4).ok())
            .unwrap_or(FILES_DEFAULT)
            .clamp(SHARDS, FILES_MAX);
        let count = NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self {
            cache: Mutex::new(LruCache::new(count)),
            moves: RwLock::new(()),
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<OwnedFd>> {
        lock(&self.cache).get(&id).cloned()
    }

    pub(crate) fn put(&self, id: u64, fd: Arc<OwnedFd>) {
        let old = lock(&self.cache).push(id, fd);
        drop(old);
    }

    pub(crate) fn remove(&self, id: u64) {
        let old = lock(&self.cache).pop(&id);
        drop(old);
    }

    /// Closes all that are not in use.
    pub(crate) fn clear(&self) {
        lock(&self.cache).clear();
    }

    pub(crate) fn no_moves(&self) -> RwLockReadGuard<'_, ()> {
        self.moves.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn moving(&self) -> RwLockWriteGuard<'_, ()> {
        self.moves.write().unwrap_or_else(PoisonError::into_inner)
    }
}
