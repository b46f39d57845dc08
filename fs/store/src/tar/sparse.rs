//! Sparse files: the old GNU form and the three PAX forms.
//!
//! Source: GNU tar manual, "Storing Sparse Files".

use std::io::Read;

use super::header::{Header, number};
use super::pax::{Pax, decimal};
use super::{BLOCK, RawSink, TarEntry, TarReader};
use crate::error::{StoreError, TarProblem};

/// Most segments of one sparse file: 16 MiB of map; a 64 GiB file with a hole every 64 KiB.
const SEGMENTS_MAX: usize = 1 << 20;
/// Largest sparse file in bytes, since its holes are hashed: half a minute's work.
const SPARSE_SIZE_MAX: u64 = 64 << 30;

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Debug, Default, Clone)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    major: u64,
    size: Option<u64>,
    /// Offsets and lengths in turn.
    map: Option<Vec<u64>>,
}

impl PaxSparse {
    pub(super) fn record(&mut self, field: &[u8], value: &[u8]) -> Result<(), TarProblem> {
        match field {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = decimal(value, "GNU.sparse.major")?,
            b"size" | b"realsize" => self.size = Some(decimal(value, "GNU.sparse.size")?),
            b"map" => {
                let numbers = value
                    .split(|byte| *byte == b',')
                    .filter(|part| !part.is_empty());
                let map: Result<Vec<_>, _> = numbers
                    .map(|part| decimal(part, "GNU.sparse.map"))
                    .collect();
                self.map = Some(map?);
            }
            b"offset" | b"numbytes" => {
                let value = decimal(value, "GNU.sparse.offset")?;
                let map = self.map.get_or_insert_default();
                // Offset and length must alternate.
                if map.len().is_multiple_of(2) != (field == b"offset") {
                    return Err(TarProblem::SparseMap);
                }
                map.push(value);
            }
            _ => {}
        }
        Ok(())
    }
}

impl<R: Read, S: RawSink> TarReader<R, S> {
    /// Fills in the sparse map of a regular file that has one.
    pub(super) fn read_sparse_map(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header,
        pax: &Pax,
        entry: &mut TarEntry,
    ) -> Result<(), StoreError> {
        let (size, segments) = if header.kind == b'S' {
            self.read_old_map(block)?
        } else if pax.sparse.major == 1 {
            let size = pax
                .sparse
                .size
                .ok_or_else(|| self.problem(TarProblem::SparseMap))?;
            let segments = self.read_map_in_data(&mut entry.stored)?;
            (size, segments)
        } else if let (Some(size), Some(map)) = (pax.sparse.size, &pax.sparse.map) {
            if !map.len().is_multiple_of(2) {
                return Err(self.problem(TarProblem::SparseMap));
            }
            let pairs = map.chunks_exact(2);
            (
                size,
                pairs
                    .map(|pair| Segment {
                        offset: pair[0],
                        len: pair[1],
                    })
                    .collect(),
            )
        } else {
            return Ok(());
        };
        if size > SPARSE_SIZE_MAX {
            return Err(self.problem(TarProblem::SparseTooBig(size)));
        }
        check(&segments, size, entry.stored).map_err(|problem| self.problem(problem))?;
        entry.size = size;
        entry.sparse = Some(segments);
        Ok(())
    }

    /// The map in the header of an `S` entry and the blocks that continue it.
    fn read_old_map(&mut self, block: &[u8; BLOCK]) -> Result<(u64, Vec<Segment>), StoreError> {
        let size = number(&block[483..495], "realsize");
        let size = size.ok().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| self.problem(TarProblem::Number("realsize")))?;
        let mut segments = Vec::new();
        let mut more = block[482] != 0;
        old_segments(&block[386..482], &mut segments).map_err(|problem| self.problem(problem))?;
        while more {
            let next = self.needed_block()?;
            more = next[504] != 0;
            old_segments(&next[..504], &mut segments).map_err(|problem| self.problem(problem))?;
        }
        Ok((size, segments))
    }

    /// The map of version 1.0: decimal lines in whole blocks before the data.
    fn read_map_in_data(&mut self, stored: &mut u64) -> Result<Vec<Segment>, StoreError> {
        let bad = |this: &Self| this.problem(TarProblem::SparseMap);
        let mut numbers = Vec::new();
        let mut digits = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            *stored = stored.checked_sub(BLOCK as u64).ok_or_else(|| bad(self))?;
            for byte in self.needed_block()? {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(bad(self));
                    }
                    continue;
                }
                let value = decimal(&digits, "sparse map").map_err(|_| bad(self))?;
                digits.clear();
                if numbers.is_empty() {
                    let count = usize::try_from(value).map_err(|_| bad(self))?;
                    if count > SEGMENTS_MAX {
                        return Err(bad(self));
                    }
                    wanted = 1 + 2 * count;
                }
                numbers.push(value);
            }
        }
        let pairs = numbers[1..].chunks_exact(2);
        Ok(pairs
            .map(|pair| Segment {
                offset: pair[0],
                len: pair[1],
            })
            .collect())
    }
}

/// The 24-byte pairs of the old form, up to an empty one.
fn old_segments(bytes: &[u8], segments: &mut Vec<Segment>) -> Result<(), TarProblem> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        if segments.len() >= SEGMENTS_MAX {
            return Err(TarProblem::SparseMap);
        }
        let value = |field| {
            let value = number(field, "sparse map")?;
            u64::try_from(value).map_err(|_| TarProblem::SparseMap)
        };
        segments.push(Segment {
            offset: value(&pair[..12])?,
            len: value(&pair[12..])?,
        });
    }
    Ok(())
}

/// Segments must be in order, apart, within the file, and as long as the data is.
fn check(segments: &[Segment], size: u64, stored: u64) -> Result<(), TarProblem> {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err(TarProblem::SparseMap);
        }
        end = segment
            .offset
            .checked_add(segment.len)
            .ok_or(TarProblem::SparseMap)?;
        total = total.saturating_add(segment.len);
    }
    if end > size || total != stored {
        Err(TarProblem::SparseMap)
    } else {
        Ok(())
    }
}
