//! Reads a layer tar: ustar, GNU, PAX, with their sparse forms.
//!
//! Our own, because a layer must be written out again bit for bit: every byte that is not the
//! content of a file goes to a [`RawSink`] as it is read. Where readers differ we do as Go's
//! archive/tar does, since that is what Docker reads layers with.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

use rrun_core::{Device, NAME_MAX, Time};

use crate::error::{StoreError, TarProblem};
use header::Header;
use pax::Pax;

pub(crate) use sparse::Segment;

/// Size of a tar block in bytes.
pub(crate) const BLOCK: usize = 512;
/// Longest path or link target in bytes: the kernel's `PATH_MAX`, so none longer can be made.
pub(crate) const PATH_MAX: usize = 4096;
/// Largest extended header in bytes: as Go; xattrs of 64 KiB must fit a few times.
const EXTENDED_MAX: u64 = 1 << 20;

/// Takes the bytes of a tar that are not file contents.
pub(crate) trait RawSink {
    /// Takes the next bytes.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
}

/// What a tar entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TarKind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    /// The target, normalised as the path is.
    HardLink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// One entry; its data, if any, is still to be read.
#[derive(Debug, Clone)]
pub(crate) struct TarEntry {
    /// Without leading, trailing, doubled slashes and `.`; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: TarKind,
    pub(crate) perm: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Sorted by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file in bytes.
    pub(crate) size: u64,
    /// Bytes of data in the archive.
    pub(crate) stored: u64,
    /// Where in the file those bytes go, when the file is sparse.
    pub(crate) sparse: Option<Vec<Segment>>,
}

/// Reads entries from `source`.
#[derive(Debug)]
pub(crate) struct TarReader<R, S> {
    source: R,
    pub(crate) sink: S,
    global: Pax,
    /// For error messages.
    current: String,
}

impl<R: Read, S: RawSink> TarReader<R, S> {
    pub(crate) fn new(source: R, sink: S) -> Self {
        Self {
            source,
            sink,
            global: Pax::default(),
            current: String::new(),
        }
    }

    /// An error about the current entry.
    pub(crate) fn problem(&self, problem: TarProblem) -> StoreError {
        StoreError::Tar {
            entry: self.current.clone(),
            problem,
        }
    }

    /// The next entry; `None` at the end of the archive, whose trailing bytes are then in the
    /// sink too.
    pub(crate) fn next_entry(&mut self) -> Result<Option<TarEntry>, StoreError> {
        let mut pax: Option<Pax> = None;
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block.iter().all(|byte| *byte == 0) {
                self.finish()?;
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(|problem| self.problem(problem))?;
            match header.kind {
                b'x' | b'X' => {
                    let bytes = self.extended(&header)?;
                    let mut records = self.global.clone();
                    records
                        .read(&bytes)
                        .map_err(|problem| self.problem(problem))?;
                    pax = Some(records);
                }
                b'g' => {
                    let bytes = self.extended(&header)?;
                    let mut records = std::mem::take(&mut self.global);
                    records
                        .read(&bytes)
                        .map_err(|problem| self.problem(problem))?;
                    self.global = records;
                }
                b'L' => long_name = Some(until_nul(self.extended(&header)?)),
                b'K' => long_link = Some(until_nul(self.extended(&header)?)),
                b'V' => self.skip(padded(header.size))?,
                _ => {
                    let pax = pax.unwrap_or_else(|| self.global.clone());
                    return self
                        .entry(&block, &header, pax, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<TarEntry, StoreError> {
        let name = pax.sparse.name.take().or(pax.path.take()).or(long_name);
        let name = name.unwrap_or_else(|| header.name.clone());
        let link = pax
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| header.link.clone());
        self.current = String::from_utf8_lossy(&name)
            .chars()
            .take(PATH_MAX)
            .collect();
        let path = normalise(&name).map_err(|problem| self.problem(problem))?;
        let mut kind = kind_of(header, &name, link).map_err(|problem| self.problem(problem))?;
        if let TarKind::HardLink(target) = &mut kind {
            *target = normalise(target).map_err(|problem| self.problem(problem))?;
            if target.is_empty() || *target == path {
                return Err(self.problem(TarProblem::BadLink));
            }
        }
        let stored = match kind {
            TarKind::Regular => pax.size.unwrap_or(header.size),
            // GNU incremental dumps put a listing there.
            TarKind::Directory if header.kind == b'D' => pax.size.unwrap_or(header.size),
            TarKind::Directory
            | TarKind::Symlink(_)
            | TarKind::HardLink(_)
            | TarKind::CharDevice(_)
            | TarKind::BlockDevice(_)
            | TarKind::Fifo => 0,
        };
        if path.is_empty() && kind != TarKind::Directory {
            return Err(self.problem(TarProblem::BadName));
        }
        let mut entry = TarEntry {
            path,
            kind,
            perm: header.perm,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or(Time {
                secs: header.mtime,
                nanos: 0,
            }),
            xattrs: pax.take_xattrs(),
            size: stored,
            stored,
            sparse: None,
        };
        if entry.kind == TarKind::Directory {
            self.skip(padded(stored))?;
            (entry.size, entry.stored) = (0, 0);
        }
        if entry.kind == TarKind::Regular {
            self.read_sparse_map(block, header, &pax, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads `buffer.len()` bytes of data; they do not go to the sink.
    pub(crate) fn data(&mut self, buffer: &mut [u8]) -> Result<(), StoreError> {
        match self.source.read_exact(buffer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.problem(TarProblem::Truncated))
            }
            Err(error) => Err(StoreError::Source(error)),
        }
    }

    /// Passes the padding after `stored` bytes of data to the sink.
    pub(crate) fn padding(&mut self, stored: u64) -> Result<(), StoreError> {
        self.skip(padded(stored) - stored)
    }

    /// Passes the next `count` bytes to the sink.
    pub(crate) fn skip(&mut self, mut count: u64) -> Result<(), StoreError> {
        let mut buffer = [0; 8 * BLOCK];
        while count > 0 {
            let step = usize::try_from(count)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            self.data(&mut buffer[..step])?;
            self.sink.raw(&buffer[..step])?;
            count -= step as u64;
        }
        Ok(())
    }

    /// Reads one block into the sink; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, StoreError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.source.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(self.problem(TarProblem::Truncated)),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::Source(error)),
            }
        }
        self.sink.raw(&block)?;
        Ok(Some(block))
    }

    fn needed_block(&mut self) -> Result<[u8; BLOCK], StoreError> {
        self.block()?
            .ok_or_else(|| self.problem(TarProblem::Truncated))
    }

    /// The data of an extended header, which goes to the sink with its padding.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, StoreError> {
        if header.size > EXTENDED_MAX {
            return Err(self.problem(TarProblem::HeaderTooLong(header.size)));
        }
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size.next_multiple_of(BLOCK)];
        self.data(&mut bytes)?;
        self.sink.raw(&bytes)?;
        bytes.truncate(size);
        Ok(bytes)
    }

    /// After the first zero block: the second one, then whatever follows.
    fn finish(&mut self) -> Result<(), StoreError> {
        match self.block()? {
            None => return Ok(()),
            Some(block) if block.iter().all(|byte| *byte == 0) => {}
            Some(_) => return Err(self.problem(TarProblem::Checksum)),
        }
        let mut buffer = [0; 8 * BLOCK];
        loop {
            match self.source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.sink.raw(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::Source(error)),
            }
        }
    }
}

/// `size` rounded up to whole blocks.
fn padded(size: u64) -> u64 {
    // Sizes come from fields of at most 63 bits.
    size.next_multiple_of(BLOCK as u64)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn kind_of(header: &Header, name: &[u8], link: Vec<u8>) -> Result<TarKind, TarProblem> {
    Ok(match header.kind {
        // Before ustar, a directory was a file whose name ends in a slash.
        0 | b'0' if name.ends_with(b"/") => TarKind::Directory,
        0 | b'0' | b'7' | b'S' => TarKind::Regular,
        b'1' => TarKind::HardLink(link),
        b'2' => {
            if link.is_empty() || link.contains(&0) {
                return Err(TarProblem::BadName);
            }
            if link.len() >= PATH_MAX {
                return Err(TarProblem::PathTooLong(link.len()));
            }
            TarKind::Symlink(link)
        }
        b'3' => TarKind::CharDevice(header.device()?),
        b'4' => TarKind::BlockDevice(header.device()?),
        b'5' | b'D' => TarKind::Directory,
        b'6' => TarKind::Fifo,
        other => return Err(TarProblem::Type(other)),
    })
}

/// Makes a path of names joined by single slashes, empty for the root.
pub(crate) fn normalise(raw: &[u8]) -> Result<Vec<u8>, TarProblem> {
    if raw.is_empty() || raw.contains(&0) {
        return Err(TarProblem::BadName);
    }
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(TarProblem::DotDot),
            _ => {}
        }
        if part.len() > NAME_MAX {
            return Err(TarProblem::NameTooLong(part.len()));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    // Checked last: "a/a/a..." in 5000 bytes is hostile, "//////a" is only odd.
    if path.len() > PATH_MAX {
        return Err(TarProblem::PathTooLong(path.len()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
