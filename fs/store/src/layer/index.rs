//! The layer index file; docs/formats.md has its table.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use rrun_core::{Device, Digest, Time};
use sha2::{Digest as _, Sha256};

use super::{EntryKind, LayerEntry};
use crate::error::{At, StoreError};
use crate::store::finish;
use crate::sys;

const MAGIC: &[u8; 8] = b"rrunlyr1";
const HEADER_LEN: usize = 96;
const RECORD_LEN: usize = 80;
const SUM_LEN: usize = 32;

const KIND_DIRECTORY: u8 = 1;
const KIND_INLINE: u8 = 2;
const KIND_OBJECT: u8 = 3;
const KIND_SYMLINK: u8 = 4;
const KIND_HARD_LINK: u8 = 5;
const KIND_CHAR: u8 = 6;
const KIND_BLOCK: u8 = 7;
const KIND_FIFO: u8 = 8;
const KIND_WHITEOUT: u8 = 9;
const KIND_OPAQUE: u8 = 10;

/// All a layer says except the contents of larger files.
#[derive(Debug)]
pub struct LayerIndex {
    bytes: Bytes,
    path: std::path::PathBuf,
    diff_id: Digest,
    entries: usize,
}

#[derive(Debug)]
enum Bytes {
    Map(Mmap),
    Heap(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Heap(bytes) => bytes,
        }
    }
}

impl LayerIndex {
    pub(crate) fn open(path: &Path, file: &File, diff_id: &Digest) -> Result<Self, StoreError> {
        let map = sys::map_file(file).at("map", path)?;
        let index = Self::new(Bytes::Map(map), path)?;
        if index.diff_id != *diff_id {
            return Err(index.corrupt("it is of another layer"));
        }
        Ok(index)
    }

    /// Reads an index from memory.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, StoreError> {
        Self::new(Bytes::Heap(bytes), Path::new("layer index"))
    }

    /// Appends the checksum that makes `body` an index, if it is one otherwise; for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn seal(mut body: Vec<u8>) -> Vec<u8> {
        let sum = finish(Sha256::new_with_prefix(&body));
        body.extend_from_slice(sum.as_bytes());
        body
    }

    fn new(bytes: Bytes, path: &Path) -> Result<Self, StoreError> {
        let corrupt = |what| StoreError::Corrupt {
            path: path.to_owned(),
            what,
        };
        let all = bytes.get();
        let body_len = all
            .len()
            .checked_sub(SUM_LEN)
            .filter(|len| *len >= HEADER_LEN);
        let (body, sum) = all.split_at(body_len.ok_or_else(|| corrupt("too short"))?);
        if body[..8] != *MAGIC {
            return Err(corrupt("not a layer index of this version"));
        }
        if Sha256::digest(body).as_slice() != sum {
            return Err(corrupt("checksum does not hold"));
        }
        let entries = usize::try_from(u64_at(body, 16)).ok();
        let records = entries.and_then(|count| count.checked_mul(RECORD_LEN));
        let arena = usize::try_from(u64_at(body, 40)).ok();
        let total = records
            .zip(arena)
            .and_then(|(records, arena)| records.checked_add(arena)?.checked_add(HEADER_LEN));
        let (Some(entries), true) = (entries, total == Some(body.len())) else {
            return Err(corrupt("sections do not add up"));
        };
        let mut id = [0; 32];
        id.copy_from_slice(&body[64..96]);
        let diff_id = Digest::from_bytes(id);
        Ok(Self {
            bytes,
            path: path.to_owned(),
            diff_id,
            entries,
        })
    }

    fn corrupt(&self, what: &'static str) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            what,
        }
    }

    /// The layer's diffID.
    #[must_use]
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether the layer says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The entries in the order of the tar.
    ///
    /// # Errors
    ///
    /// Each may be `Corrupt`.
    pub fn entries(&self) -> impl Iterator<Item = Result<LayerEntry<'_>, StoreError>> + '_ {
        (0..self.entries).map(|number| {
            self.entry(number)
                .ok_or_else(|| self.corrupt("a record is malformed"))
        })
    }

    /// The whiteouts and opaque marks only.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Result<LayerEntry<'_>, StoreError>> + '_ {
        let records = &self.bytes.get()[HEADER_LEN..];
        let marked = records
            .chunks_exact(RECORD_LEN)
            .take(self.entries)
            .enumerate();
        let marked = marked.filter(|(_, record)| matches!(record[0], KIND_WHITEOUT | KIND_OPAQUE));
        marked.map(|(number, _)| {
            self.entry(number)
                .ok_or_else(|| self.corrupt("a record is malformed"))
        })
    }

    fn entry(&self, number: usize) -> Option<LayerEntry<'_>> {
        let all = self.bytes.get();
        let start = HEADER_LEN + number * RECORD_LEN;
        let record = all.get(start..start + RECORD_LEN)?;
        let arena = &all[HEADER_LEN + self.entries * RECORD_LEN..all.len() - SUM_LEN];
        let slice = |offset: u64, len: u32| {
            let start = usize::try_from(offset).ok()?;
            arena.get(start..start.checked_add(usize::try_from(len).ok()?)?)
        };
        let path = slice(u64_at(record, 32), u32_at(record, 40))?;
        let aux = slice(u64_at(record, 48), u32_at(record, 44))?;
        let xattrs = slice(u64_at(record, 56), u32_at(record, 64))?;
        let size = u64_at(record, 24);
        let device = Device {
            major: u32_at(record, 68),
            minor: u32_at(record, 72),
        };
        let kind = match record[0] {
            KIND_DIRECTORY => EntryKind::Directory,
            KIND_INLINE => EntryKind::Inline(aux),
            KIND_OBJECT => EntryKind::Object {
                digest: Digest::from_bytes(aux.try_into().ok()?),
                size,
            },
            KIND_SYMLINK => EntryKind::Symlink(aux),
            KIND_HARD_LINK => EntryKind::HardLink(aux),
            KIND_CHAR => EntryKind::CharDevice(device),
            KIND_BLOCK => EntryKind::BlockDevice(device),
            KIND_FIFO => EntryKind::Fifo,
            KIND_WHITEOUT => EntryKind::Whiteout,
            KIND_OPAQUE => EntryKind::Opaque,
            _ => return None,
        };
        let nanos = u32_at(record, 12);
        if nanos >= 1_000_000_000 {
            return None;
        }
        Some(LayerEntry {
            path,
            kind,
            perm: u32::from(u16::from_le_bytes([record[2], record[3]])),
            uid: u32_at(record, 4),
            gid: u32_at(record, 8),
            mtime: Time {
                secs: u64_at(record, 16).cast_signed(),
                nanos,
            },
            xattrs: xattr_pairs(xattrs)?,
        })
    }
}

/// Takes entries and makes the file of them.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    records: Vec<u8>,
    arena: Vec<u8>,
    entries: u64,
}

impl IndexBuilder {
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(u64, u32), StoreError> {
        let len = u32::try_from(bytes.len()).map_err(|_| StoreError::TooBig("a layer entry"))?;
        let offset = self.arena.len() as u64;
        self.arena.extend_from_slice(bytes);
        Ok((offset, len))
    }

    pub(crate) fn push(&mut self, entry: &LayerEntry<'_>) -> Result<(), StoreError> {
        let none = Device::default();
        let digest_bytes;
        let (kind, aux, size, device) = match &entry.kind {
            EntryKind::Directory => (KIND_DIRECTORY, &b""[..], 0, none),
            EntryKind::Inline(bytes) => (KIND_INLINE, *bytes, bytes.len() as u64, none),
            EntryKind::Object { digest, size } => {
                digest_bytes = *digest.as_bytes();
                (KIND_OBJECT, &digest_bytes[..], *size, none)
            }
            EntryKind::Symlink(target) => (KIND_SYMLINK, *target, target.len() as u64, none),
            EntryKind::HardLink(target) => (KIND_HARD_LINK, *target, 0, none),
            EntryKind::CharDevice(device) => (KIND_CHAR, &b""[..], 0, *device),
            EntryKind::BlockDevice(device) => (KIND_BLOCK, &b""[..], 0, *device),
            EntryKind::Fifo => (KIND_FIFO, &b""[..], 0, none),
            EntryKind::Whiteout => (KIND_WHITEOUT, &b""[..], 0, none),
            EntryKind::Opaque => (KIND_OPAQUE, &b""[..], 0, none),
        };
        let (path_offset, path_len) = self.keep(entry.path)?;
        let (aux_offset, aux_len) = self.keep(aux)?;
        let (xattr_offset, xattr_len) = self.keep(&encode_xattrs(&entry.xattrs)?)?;
        let perm = u16::try_from(entry.perm & 0o7777).unwrap_or_default();
        let out = &mut self.records;
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&entry.uid.to_le_bytes());
        out.extend_from_slice(&entry.gid.to_le_bytes());
        out.extend_from_slice(&entry.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&entry.mtime.secs.to_le_bytes());
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&path_offset.to_le_bytes());
        out.extend_from_slice(&path_len.to_le_bytes());
        out.extend_from_slice(&aux_len.to_le_bytes());
        out.extend_from_slice(&aux_offset.to_le_bytes());
        out.extend_from_slice(&xattr_offset.to_le_bytes());
        out.extend_from_slice(&xattr_len.to_le_bytes());
        out.extend_from_slice(&device.major.to_le_bytes());
        out.extend_from_slice(&device.minor.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        debug_assert!(out.len().is_multiple_of(RECORD_LEN));
        self.entries += 1;
        Ok(())
    }

    /// The bytes of the file.
    pub(crate) fn finish(self, diff_id: &Digest, tar_size: u64, content_size: u64) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(HEADER_LEN + self.records.len() + self.arena.len() + SUM_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&tar_size.to_le_bytes());
        out.extend_from_slice(&content_size.to_le_bytes());
        out.extend_from_slice(&(self.arena.len() as u64).to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(diff_id.as_bytes());
        debug_assert_eq!(out.len(), HEADER_LEN);
        out.extend_from_slice(&self.records);
        out.extend_from_slice(&self.arena);
        let sum = finish(Sha256::new_with_prefix(&out));
        out.extend_from_slice(sum.as_bytes());
        out
    }
}

/// Name length (u16), value length (u32), name, value; in the order given.
pub(crate) fn encode_xattrs(xattrs: &[(&[u8], &[u8])]) -> Result<Vec<u8>, StoreError> {
    let too_big = |_| StoreError::TooBig("an extended attribute");
    let mut out = Vec::new();
    for (name, value) in xattrs {
        out.extend_from_slice(&u16::try_from(name.len()).map_err(too_big)?.to_le_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).map_err(too_big)?.to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    Ok(out)
}

/// Names and values of extended attributes.
pub(crate) type Xattrs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Names and values of an encoded set of xattrs; `None` when it is malformed.
pub(crate) fn xattr_pairs(mut bytes: &[u8]) -> Option<Xattrs<'_>> {
    let mut pairs = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(6)?;
        let name_len = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let value_len = usize::try_from(u32_at(head, 2)).ok()?;
        let (name, rest) = rest.split_at_checked(name_len)?;
        let (value, rest) = rest.split_at_checked(value_len)?;
        pairs.push((name, value));
        bytes = rest;
    }
    Some(pairs)
}

/// The number at `at`; the caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// The number at `at`; the caller has checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
