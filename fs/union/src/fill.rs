//! A sparse copy: an upper file whose holes are still to be read from the lower one.
//!
//! The file system's own map of holes says which blocks were written, so there is nothing else to
//! keep in step with the data, and a crash leaves for every block either the new contents or a
//! hole, that is the old ones.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rrun_core::{Data, Errno, Lower, NodeId};
use rustix::fs::{self as rfs, SeekFrom};

use crate::fds::{read_data, read_file};
use crate::node::lock;
use crate::upper::errno;

/// The unit of copying, in bytes: the block the upper file system was probed for.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes copied at a time when a file is completed.
const COPY_CHUNK: usize = 1 << 20;

/// What of an upper file is still in the lower one.
#[derive(Debug)]
pub(crate) struct Fill {
    lower: Below,
    /// Bytes of the lower file that count; the rest was truncated away.
    valid: AtomicU64,
    /// Nothing is missing any more.
    complete: AtomicBool,
    /// The written block ranges below `valid`, sorted, apart; `None` until asked for.
    written: Mutex<Option<Vec<(u64, u64)>>>,
}

/// The lower file, opened when it is first read.
#[derive(Debug)]
pub(crate) struct Below {
    data: OnceLock<Arc<Data>>,
    tree: Option<(Arc<dyn Lower>, NodeId)>,
}

impl Below {
    pub(crate) fn closed(tree: &Arc<dyn Lower>, node: NodeId) -> Self {
        Self {
            data: OnceLock::new(),
            tree: Some((Arc::clone(tree), node)),
        }
    }

    pub(crate) fn open(data: Arc<Data>) -> Self {
        Self {
            data: OnceLock::from(data),
            tree: None,
        }
    }

    fn get(&self) -> Result<&Data, Errno> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let (tree, node) = self.tree.as_ref().ok_or(Errno::EIO)?;
        let data = Arc::new(tree.data(*node)?);
        Ok(self.data.get_or_init(|| data))
    }
}

impl Fill {
    /// A copy of which nothing is written yet (`fresh`), or one found on disk.
    pub(crate) fn new(lower: Below, valid: u64, fresh: bool) -> Self {
        Self {
            lower,
            valid: AtomicU64::new(valid),
            complete: AtomicBool::new(false),
            written: Mutex::new(fresh.then(Vec::new)),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(crate) fn valid(&self) -> u64 {
        self.valid.load(Ordering::Acquire)
    }

    /// Forgets lower bytes from `size` on: they were truncated away.
    pub(crate) fn truncate(&self, size: u64) {
        let mut written = lock(&self.written);
        self.valid.fetch_min(size, Ordering::AcqRel);
        if let Some(ranges) = written.as_mut() {
            let end = size.next_multiple_of(BLOCK);
            ranges.retain(|range| range.0 < end);
            if let Some(last) = ranges.last_mut() {
                last.1 = last.1.min(end);
            }
        }
    }

    fn load(file: &File, valid: u64) -> Result<Vec<(u64, u64)>, Errno> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < valid {
            let start = match rfs::seek(file, SeekFrom::Data(at)) {
                Ok(start) if start < valid => start,
                Ok(_) | Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(errno(error)),
            };
            let end = rfs::seek(file, SeekFrom::Hole(start)).map_err(errno)?;
            ranges.push((start / BLOCK * BLOCK, end.next_multiple_of(BLOCK)));
            at = end;
        }
        Ok(ranges)
    }

    /// Calls `with` with the written ranges.
    fn with_ranges<T>(
        &self,
        file: &File,
        with: impl FnOnce(&mut Vec<(u64, u64)>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut written = lock(&self.written);
        let ranges = match &mut *written {
            Some(ranges) => ranges,
            none => none.insert(Self::load(file, self.valid())?),
        };
        with(ranges)
    }

    pub(crate) fn read_at(
        &self,
        file: &File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Errno> {
        let valid = self.valid();
        if self.is_complete() || offset >= valid {
            return read_file(file, offset, buffer);
        }
        // The holes first: a block written meanwhile is then read as it was before.
        let end = (offset + buffer.len() as u64).min(valid);
        let mut holes = Vec::new();
        self.with_ranges(file, |ranges| {
            let mut at = offset;
            for &(start, stop) in ranges.iter().skip_while(|range| range.1 <= offset) {
                if start >= end {
                    break;
                }
                if start > at {
                    holes.push((at, start));
                }
                at = at.max(stop);
            }
            if at < end {
                holes.push((at, end));
            }
            Ok(())
        })?;
        // The size and everything beyond `valid` come from the upper file.
        let count = read_file(file, offset, buffer)?;
        let read_end = offset + count as u64;
        for (start, stop) in holes {
            let stop = stop.min(read_end);
            if start >= stop {
                break;
            }
            let from = usize::try_from(start - offset).unwrap_or(usize::MAX);
            let to = usize::try_from(stop - offset).unwrap_or(usize::MAX);
            let part = buffer.get_mut(from..to).ok_or(Errno::EIO)?;
            let got = read_data(self.lower.get()?, start, part)?;
            if got < part.len() {
                return Err(Errno::EIO);
            }
        }
        Ok(count)
    }

    /// Writes, after copying what the write leaves of the blocks it touches in part.
    pub(crate) fn write_at(&self, file: &File, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let len = data.len() as u64;
        let first = offset / BLOCK * BLOCK;
        if self.is_complete() || first >= self.valid() || len == 0 {
            return file.write_all_at(data, offset).map_err(Errno::from);
        }
        let end = (offset + len).next_multiple_of(BLOCK);
        self.with_ranges(file, |ranges| {
            let valid = self.valid();
            if first < offset {
                self.fill_block(file, ranges, first, valid)?;
            }
            let last = (offset + len) / BLOCK * BLOCK;
            if last < offset + len && last < valid && (last != first || first == offset) {
                self.fill_block(file, ranges, last, valid)?;
            }
            file.write_all_at(data, offset)?;
            insert(ranges, first, end);
            Ok(())
        })
    }

    fn fill_block(
        &self,
        file: &File,
        ranges: &[(u64, u64)],
        block: u64,
        valid: u64,
    ) -> Result<(), Errno> {
        if ranges
            .iter()
            .any(|range| range.0 <= block && block < range.1)
            || block >= valid
        {
            return Ok(());
        }
        let len = usize::try_from((valid - block).min(BLOCK)).unwrap_or(0);
        let mut bytes = [0; 4096];
        let part = bytes.get_mut(..len).ok_or(Errno::EIO)?;
        if read_data(self.lower.get()?, block, part)? < part.len() {
            return Err(Errno::EIO);
        }
        file.write_all_at(part, block)?;
        Ok(())
    }

    /// Copies everything that is missing.
    pub(crate) fn complete(&self, file: &File) -> Result<(), Errno> {
        if self.is_complete() {
            return Ok(());
        }
        let valid = self.valid();
        self.with_ranges(file, |ranges| {
            let mut at = 0;
            for &(start, stop) in &*ranges {
                self.copy(file, at, start.min(valid))?;
                at = stop;
            }
            self.copy(file, at, valid)?;
            *ranges = vec![(0, valid.next_multiple_of(BLOCK))];
            self.complete.store(true, Ordering::Release);
            Ok(())
        })
    }

    fn copy(&self, file: &File, from: u64, to: u64) -> Result<(), Errno> {
        if from >= to {
            return Ok(());
        }
        if let Data::File(lower) = self.lower.get()?
            && copy_range(lower, file, from, to)?
        {
            return Ok(());
        }
        let size = usize::try_from(to - from)
            .unwrap_or(COPY_CHUNK)
            .min(COPY_CHUNK);
        let mut bytes = vec![0; size];
        let mut at = from;
        while at < to {
            let want = usize::try_from(to - at).unwrap_or(size).min(size);
            let part = &mut bytes[..want];
            if read_data(self.lower.get()?, at, part)? < want {
                return Err(Errno::EIO);
            }
            file.write_all_at(part, at)?;
            at += want as u64;
        }
        Ok(())
    }
}

/// Lets the kernel copy; false when it cannot between these two files.
fn copy_range(from: &File, to: &File, start: u64, end: u64) -> Result<bool, Errno> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let want = usize::try_from(end - read).unwrap_or(usize::MAX);
        match rfs::copy_file_range(from, Some(&mut read), to, Some(&mut write), want) {
            Ok(0) => return Err(Errno::EIO),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::OPNOTSUPP,
            ) if read == start => return Ok(false),
            Err(error) => return Err(errno(error)),
        }
    }
    Ok(true)
}

fn insert(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    let first = ranges.partition_point(|range| range.1 < start);
    let mut last = first;
    let mut merged = (start, end);
    while let Some(range) = ranges.get(last) {
        if range.0 > end {
            break;
        }
        merged = (merged.0.min(range.0), merged.1.max(range.1));
        last += 1;
    }
    ranges.splice(first..last, [merged]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_when_they_touch() {
        let mut ranges = Vec::new();
        for (start, end) in [(8, 12), (0, 4), (4, 6), (20, 24), (5, 21)] {
            insert(&mut ranges, start, end);
        }
        assert_eq!(ranges, vec![(0, 24)]);
        insert(&mut ranges, 30, 31);
        assert_eq!(ranges, vec![(0, 24), (30, 31)]);
    }

    #[test]
    fn a_sparse_copy_reads_like_the_whole_one() {
        let lower: Vec<u8> = (0..40_000_u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let file = tempfile::tempfile().unwrap();
        let mut model = lower.clone();
        file.set_len(model.len() as u64).unwrap();
        let fill = Fill::new(
            Below::open(Arc::new(Data::Bytes(lower.into()))),
            model.len() as u64,
            true,
        );
        let mut seed = 1_u64;
        for round in 0..300_u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (seed >> 33) % 45_000;
            let len = (seed >> 20) % 9_000 + 1;
            if round % 17 == 16 {
                let size = offset.min(model.len() as u64);
                fill.truncate(size);
                file.set_len(size).unwrap();
                model.truncate(usize::try_from(size).unwrap());
            } else {
                let bytes = vec![u8::try_from(round % 256).unwrap(); usize::try_from(len).unwrap()];
                fill.write_at(&file, offset, &bytes).unwrap();
                let start = usize::try_from(offset).unwrap();
                let end = start + bytes.len();
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[start..end].copy_from_slice(&bytes);
            }
            let mut out = vec![0; model.len() + 10];
            let got = fill.read_at(&file, 0, &mut out).unwrap();
            assert_eq!(&out[..got], &model[..], "round {round}");
        }
        fill.complete(&file).unwrap();
        let mut out = vec![0; model.len()];
        assert_eq!(read_file(&file, 0, &mut out).unwrap(), model.len());
        assert_eq!(out, model);
    }
}
