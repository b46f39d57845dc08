//! Contents of regular files.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rrun_core::{Errno, FileType, NodeId, Time};
use rustix::fs::{self as rfs, FallocateFlags, SeekFrom};

use super::copy_up::Need;
use crate::fds::Source;
use crate::node::{Node, State, Where};
use crate::options::AccessTimes;
use crate::types::{Ino, OnWrite, SeekTo, SetTime, SpaceMode, WriteWhere};
use crate::union::{Found, Union};
use crate::upper::{At, errno};

/// How long a held back write may be overtaken by the time of modification it goes with. After
/// that, and when a killed server never hears of that time, the file has the time of the write.
const OVERTAKING: Duration = Duration::from_secs(5);

/// Source: `relatime_need_update` in `fs/inode.c`.
fn is_a_day_old(time: Time) -> bool {
    const DAY_SECS: i64 = 24 * 60 * 60;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    now.saturating_sub(time.secs) >= DAY_SECS
}

impl Union {
    /// The open contents of a file, from the cache or opened now.
    pub(crate) fn source(&self, found: &Found, write: bool) -> Result<Arc<Source>, Errno> {
        let id = found.id();
        if let Some(source) = self.fds.get(id)
            && (!write || !matches!(*source, Source::Lower { .. }))
        {
            return Ok(source);
        }
        let source = match found {
            Found::Plain(lower) => self.lower_source(*lower)?,
            Found::Own(node) => self.open_own(node)?,
        };
        let source = Arc::new(source);
        self.fds.put(id, Arc::clone(&source));
        Ok(source)
    }

    fn lower_source(&self, lower: NodeId) -> Result<Source, Errno> {
        let size = self.lower.attr(lower)?.size;
        let data = Arc::new(self.lower.data(lower)?);
        Ok(Source::Lower {
            data,
            size,
            in_memory: OnceLock::new(),
        })
    }

    fn open_own(&self, node: &Node) -> Result<Source, Errno> {
        if node.kind != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        let state = node.lock();
        if matches!(state.place, Where::Lower) {
            return self.lower_source(node.lower.ok_or(Errno::EIO)?);
        }
        let fill = state.fill.clone();
        let file = match &state.place {
            Where::Pinned(file) => Arc::clone(file),
            Where::Lower | Where::Upper => {
                let at = self.at(&state)?;
                match at.open(!self.options.read_only) {
                    Err(Errno::EPERM) => {
                        let (file, grows) = at.open_guarded()?;
                        let file = Arc::new(file);
                        return Ok(Source::Guarded { file, fill, grows });
                    }
                    opened => Arc::new(opened?),
                }
            }
        };
        Ok(Source::Upper { file, fill })
    }

    /// Copies up a file that is opened for writing; true when it may only grow.
    ///
    /// # Errors
    ///
    /// As [`Union::write`]; `EPERM` when it is immutable, or may only grow.
    pub fn prepare_write(&self, ino: Ino, place: WriteWhere) -> Result<bool, Errno> {
        let found = self.find(ino)?;
        if self.kind(&found)? != FileType::Regular {
            return Ok(false);
        }
        let node = self.copy_up(&found, Need::Contents)?;
        match (&*self.source(&Found::Own(node), true)?, place) {
            (Source::Upper { .. } | Source::Lower { .. }, _) => Ok(false),
            (Source::Guarded { grows: true, .. }, WriteWhere::AtEnd) => Ok(true),
            (Source::Guarded { .. }, _) => Err(Errno::EPERM),
        }
    }

    /// The one file on disk that has all contents of a regular file, if it is an upper file, or
    /// any where nothing is ever written. None of a file with setuid or setgid: a write has to
    /// clear these.
    #[must_use]
    pub fn backing(&self, ino: Ino) -> Option<Arc<File>> {
        const SET_ID: u32 = 0o6000;
        let found = self.find(ino).ok()?;
        let attr = self.true_attr(&found).ok()?;
        if attr.kind != FileType::Regular || attr.perm & SET_ID != 0 {
            return None;
        }
        match &*self.source(&found, false).ok()? {
            Source::Upper { file, fill } if fill.as_ref().is_none_or(|f| f.is_complete()) => {
                Some(Arc::clone(file))
            }
            source @ Source::Lower { .. } if self.upper().is_err() => {
                source.whole()?.try_clone().ok().map(Arc::new)
            }
            Source::Lower { .. } | Source::Upper { .. } | Source::Guarded { .. } => None,
        }
    }

    /// Notes that a file is opened for reading: as far as the access time goes, it is then read.
    /// True when that changed.
    ///
    /// Reading is left to the file system, because a time that is set takes the time of change
    /// with it.
    ///
    /// # Errors
    ///
    /// As [`Union::read`].
    pub fn accessed(&self, ino: Ino) -> Result<bool, Errno> {
        let Found::Own(node) = self.find(ino)? else {
            return Ok(false);
        };
        let in_lower = matches!(node.lock().place, Where::Lower);
        let times = self.options.access_times;
        if in_lower
            || node.kind != FileType::Regular
            || self.options.read_only
            || times == AccessTimes::Never
        {
            return Ok(false);
        }
        let source = self.source(&Found::Own(node), false)?;
        let (Source::Upper { file, .. } | Source::Guarded { file, .. }) = &*source else {
            return Ok(false);
        };
        let attr = crate::upper::stat_at(file.as_fd(), b"")?.attr;
        let due = attr.atime <= attr.mtime || attr.atime <= attr.ctime || is_a_day_old(attr.atime);
        if times == AccessTimes::Relative && !due {
            return Ok(false);
        }
        crate::fds::read_file(file, 0, &mut [0])?;
        Ok(true)
    }

    /// Reads at an offset; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    ///
    /// `EIO` when contents are missing or damaged.
    pub fn read(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if let Some(source) = self.fds.get(ino.0) {
            return source.read_at(offset, buffer);
        }
        self.source(&self.find(ino)?, false)?
            .read_at(offset, buffer)
    }

    /// The same, telling through `waits` before a read that may have to wait for a disk.
    ///
    /// # Errors
    ///
    /// As [`Union::read`].
    pub fn read_telling(
        &self,
        ino: Ino,
        offset: u64,
        buffer: &mut [u8],
        waits: &mut dyn FnMut(),
    ) -> Result<usize, Errno> {
        let source = match self.fds.get(ino.0) {
            Some(source) => source,
            None => self.source(&self.find(ino)?, false)?,
        };
        if let Some(count) = source.read_now(offset, buffer) {
            return Ok(count);
        }
        waits();
        source.read_at(offset, buffer)
    }

    /// Calls `with` with the file that has a lower file's contents and how many of `len` bytes at
    /// `offset` it has, for a caller who moves them by himself; tells through `waits` before that
    /// when it may have to wait for a disk. `None`, without a call, when there is no such file.
    ///
    /// # Errors
    ///
    /// As [`Union::read`].
    pub fn with_lower_file<T>(
        &self,
        ino: Ino,
        (offset, len): (u64, usize),
        waits: &mut dyn FnMut(),
        with: impl FnOnce(&File, usize) -> T,
    ) -> Result<Option<T>, Errno> {
        let source = match self.fds.get(ino.0) {
            Some(source) => source,
            None => self.source(&self.find(ino)?, false)?,
        };
        let Some((file, count)) = source.lower_file(offset, len) else {
            return Ok(None);
        };
        if !source.is_at_hand(offset, count) {
            waits();
        }
        Ok(Some(with(file, count)))
    }

    /// The caller holds writes back from here on, and keeps each file's time of modification, by a
    /// coarse clock: what changes contents leaves a time alone that was just set.
    pub fn hold_writes_back(&self) {
        self.held_back.store(true, Relaxed);
    }

    /// Writes at an offset.
    ///
    /// # Errors
    ///
    /// Those of `pwrite(2)`.
    pub fn write(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        effect: OnWrite,
    ) -> Result<usize, Errno> {
        let (node, source) = self.ready_to_write(ino)?;
        self.drop_privileges(&node, &mut node.lock(), effect)?;
        let write = || source.write_at(offset, data);
        match &*source {
            Source::Upper { file, .. } => self.keeping_time(&node, file, write),
            Source::Guarded { .. } | Source::Lower { .. } => write(),
        }
    }

    /// Calls `change`, which changes the contents of `file`. If the caller keeps the time of
    /// modification and it was just set, it stays: what the caller set after this change may have
    /// come before it, and of a change that its clock does not tell from that it sends nothing.
    fn keeping_time<T>(
        &self,
        node: &Node,
        file: &Arc<File>,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if !self.held_back.load(Relaxed) {
            return change();
        }
        let at = At::Fd(Arc::clone(file));
        let mut state = node.lock();
        state.held = match state.held {
            Some((count, time)) => Some((count + 1, time)),
            None if state.dated.is_some_and(|at| at.elapsed() < OVERTAKING) => {
                Some((1, Some(at.stat()?.attr.mtime)))
            }
            None => Some((1, None)),
        };
        drop(state);
        let changed = change();
        let mut state = node.lock();
        state.held = match state.held {
            // The last of those under way at the same time.
            Some((1, time)) => {
                if let Some(time) = time {
                    at.set_times(None, Some(SetTime::At(time)))?;
                }
                None
            }
            held => held.map(|(count, time)| (count - 1, time)),
        };
        changed
    }

    /// A file in the upper directory with what a write at any place needs.
    fn ready_to_write(&self, ino: Ino) -> Result<(Arc<Node>, Arc<Source>), Errno> {
        let cached = self
            .fds
            .get(ino.0)
            .filter(|s| matches!(**s, Source::Upper { .. }));
        let found = self.find(ino)?;
        match (cached, &found) {
            (Some(source), Found::Own(node)) => {
                if let Source::Upper {
                    fill: Some(fill), ..
                } = &*source
                    && !fill.is_complete()
                {
                    self.copy_up(&found, Need::Contents)?;
                }
                Ok((Arc::clone(node), source))
            }
            (_, Found::Own(_) | Found::Plain(_)) => {
                let node = self.copy_up(&found, Need::Contents)?;
                let source = self.source(&Found::Own(Arc::clone(&node)), true)?;
                Ok((node, source))
            }
        }
    }

    /// Takes from a file what a change of contents takes.
    fn drop_privileges(
        &self,
        node: &Node,
        state: &mut State,
        effect: OnWrite,
    ) -> Result<(), Errno> {
        if state.capable == Some(false) && effect == OnWrite::Keep {
            return Ok(());
        }
        let at = self.at(state)?;
        self.drop_capability(state, &at)?;
        match effect {
            OnWrite::Keep => Ok(()),
            OnWrite::DropPrivileges { gid } => self.drop_set_id(node, state, &at, gid),
        }
    }

    /// Makes a file's contents durable; with `data_only`, not its times.
    ///
    /// # Errors
    ///
    /// Those of `fsync(2)`.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<(), Errno> {
        if self.options.volatile {
            return Ok(());
        }
        let Found::Own(node) = self.find(ino)? else {
            return Ok(());
        };
        if node.kind == FileType::Directory {
            if !matches!(node.lock().place, Where::Upper) {
                return Ok(());
            }
            return rfs::fsync(self.dir_fd(&node)?).map_err(errno);
        }
        let in_lower = matches!(node.lock().place, Where::Lower);
        if in_lower || node.kind != FileType::Regular {
            return Ok(());
        }
        let source = self.source(&Found::Own(node), true)?;
        let (Source::Upper { file, .. } | Source::Guarded { file, .. }) = &*source else {
            return Ok(());
        };
        if data_only {
            rfs::fdatasync(file)
        } else {
            rfs::fsync(file)
        }
        .map_err(errno)
    }

    /// Makes everything durable.
    ///
    /// # Errors
    ///
    /// Those of `syncfs(2)`.
    pub fn syncfs(&self) -> Result<(), Errno> {
        match &self.upper {
            Some(upper) if !self.options.volatile && !self.options.read_only => {
                rfs::syncfs(&upper.root).map_err(errno)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Finds data or a hole.
    ///
    /// # Errors
    ///
    /// `ENXIO` beyond the end.
    pub fn seek(&self, ino: Ino, offset: u64, what: SeekTo) -> Result<u64, Errno> {
        let found = self.find(ino)?;
        let size = self.true_attr(&found)?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let source = self.source(&found, false)?;
        let Some(file) = source.whole() else {
            // All data: always a correct answer, if not the best.
            return Ok(if what == SeekTo::Data { offset } else { size });
        };
        let from = match what {
            SeekTo::Data => SeekFrom::Data(offset),
            SeekTo::Hole => SeekFrom::Hole(offset),
        };
        rfs::seek(file, from).map_err(errno)
    }

    /// Reserves, removes or zeroes space.
    ///
    /// # Errors
    ///
    /// Those of `fallocate(2)`.
    pub fn fallocate(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        mode: SpaceMode,
        effect: OnWrite,
    ) -> Result<(), Errno> {
        let node = self.copy_up(&self.find(ino)?, Need::Contents)?;
        let source = self.source(&Found::Own(Arc::clone(&node)), true)?;
        let (file, _) = source.writable()?;
        self.keeping_time(&node, file, || {
            self.change_space(&node, &source, (offset, len), mode)
        })?;
        self.drop_privileges(&node, &mut node.lock(), effect)
    }

    fn change_space(
        &self,
        node: &Node,
        source: &Source,
        (offset, len): (u64, u64),
        mode: SpaceMode,
    ) -> Result<(), Errno> {
        let (file, fill) = source.writable()?;
        if let Some(fill) = fill
            && !matches!(mode, SpaceMode::Reserve | SpaceMode::ReserveKeepSize)
        {
            // Holes made from here on are holes.
            fill.complete(file)?;
            rfs::fdatasync(file).map_err(errno)?;
            let mut state = node.lock();
            let at = self.at(&state)?;
            self.upper()?.marks.remove_fill(&at)?;
            state.fill = None;
        }
        let flags = match mode {
            SpaceMode::Reserve => FallocateFlags::empty(),
            SpaceMode::ReserveKeepSize => FallocateFlags::KEEP_SIZE,
            SpaceMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            SpaceMode::Zero => FallocateFlags::ZERO_RANGE,
            SpaceMode::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            SpaceMode::Collapse => FallocateFlags::COLLAPSE_RANGE,
            SpaceMode::Insert => FallocateFlags::INSERT_RANGE,
        };
        rfs::fallocate(file, flags, offset, len).map_err(errno)?;
        if let Some(fill) = fill
            && !matches!(mode, SpaceMode::Reserve | SpaceMode::ReserveKeepSize)
        {
            debug_assert!(fill.is_complete());
            self.fds.remove(node.id);
        }
        Ok(())
    }

    /// Copies between two files; returns the bytes copied.
    ///
    /// # Errors
    ///
    /// Those of `copy_file_range(2)`.
    pub fn copy_range(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        effect: OnWrite,
    ) -> Result<u64, Errno> {
        /// Bytes copied per request: the caller asks again, and can be interrupted in between.
        const COPY_MAX: u64 = 8 << 20;
        let source = self.source(&self.find(from.0)?, false)?;
        let whole = source.whole();
        let len = len.min(COPY_MAX);
        if let Some(input) = whole {
            let node = self.copy_up(&self.find(to.0)?, Need::Contents)?;
            let target = self.source(&Found::Own(Arc::clone(&node)), true)?;
            if let Source::Upper { file, fill } = &*target
                && fill.as_ref().is_none_or(|fill| fill.is_complete())
            {
                let (mut read, mut write) = (from.1, to.1);
                let want = usize::try_from(len).unwrap_or(usize::MAX);
                let copied = self.keeping_time(&node, file, || {
                    rfs::copy_file_range(input, Some(&mut read), file, Some(&mut write), want)
                        .map_err(errno)
                });
                if let Ok(count) = copied {
                    self.drop_privileges(&node, &mut node.lock(), effect)?;
                    return Ok(count as u64);
                }
            }
        }
        let mut bytes = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(1 << 20)];
        let count = source.read_at(from.1, &mut bytes)?;
        self.write(to.0, to.1, &bytes[..count], effect)
            .map(|count| count as u64)
    }
}
