//! Splits a layer tar into objects, an index and the bytes between.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crossbeam_channel::Receiver;
use rrun_core::{Digest, Name, Time};
use sha2::{Digest as _, Sha256};

use super::objects::Objects;
use crate::Store;
use crate::error::{At, StoreError, TarProblem};
use crate::layer::{EntryKind, HeaderWriter, IndexBuilder, LayerEntry};
use crate::store::{create_new, finish};
use crate::tar::{RawSink, Segment, TarEntry, TarKind, TarReader};

/// Files up to this size in bytes live in the indexes: an object would cost a block and an inode.
pub(crate) const INLINE_MAX: u64 = 256;
/// Files up to this size in bytes are gathered in memory, so that known ones are never written.
const SMALL_MAX: u64 = 1 << 20;
/// Most entries of one layer: bounds the index at about half a gigabyte.
const ENTRIES_MAX: u64 = 4 << 20;
/// Bytes of a large file read at a time.
const STEP: usize = 256 << 10;

/// A piece of the tar, or the news that reading it failed.
pub(super) type Chunk = Result<Vec<u8>, ()>;

/// What became of the tar.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) index: IndexBuilder,
    pub(super) objects: Vec<Digest>,
    pub(super) content_size: u64,
}

/// Reads the pieces as one stream.
struct ChunkReader {
    receiver: Receiver<Chunk>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(Ok(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Ok(Err(())) => return Err(io::Error::other("the blob could not be read")),
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

struct Headers {
    out: HeaderWriter,
    path: PathBuf,
}

impl RawSink for Headers {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.out.raw(bytes).at("write", &self.path)
    }
}

/// Splits the tar that comes through `receiver`; files are made below `dir`.
pub(super) fn split(
    store: &Store,
    dir: &Path,
    receiver: Receiver<Chunk>,
) -> Result<Split, StoreError> {
    let path = dir.join("layer/headers.zst");
    let out = HeaderWriter::new(create_new(&path)?).at("write", &path)?;
    let reader = ChunkReader {
        receiver,
        chunk: Vec::new(),
        at: 0,
    };
    let mut splitter = Splitter {
        tar: TarReader::new(reader, Headers { out, path }),
        objects: Objects::new(store, dir),
        index: IndexBuilder::default(),
        content_size: 0,
    };
    while let Some(entry) = splitter.tar.next_entry()? {
        splitter.entry(&entry)?;
    }
    let Splitter {
        tar,
        objects,
        index,
        content_size,
    } = splitter;
    let Headers { out, path } = tar.sink;
    out.finish().at("write", &path)?;
    Ok(Split {
        index,
        objects: objects.into_digests(),
        content_size,
    })
}

struct Splitter<'a> {
    tar: TarReader<ChunkReader, Headers>,
    objects: Objects<'a>,
    index: IndexBuilder,
    content_size: u64,
}

/// What the name of an entry says it is.
#[derive(Debug, PartialEq, Eq)]
enum Role<'a> {
    File,
    /// Removes this path from the layers below.
    Whiteout(&'a [u8], Name),
    /// Empties this directory in the layers below.
    Opaque(&'a [u8]),
    /// Left over from aufs; says nothing.
    Ignored,
}

/// Reads whiteout names.
///
/// Source: OCI image-spec, layer.md, "Whiteouts"; the ignored ones: moby pkg/archive.
fn role(path: &[u8]) -> Result<Role<'_>, TarProblem> {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    if name == b".wh..wh..opq" {
        return Ok(Role::Opaque(parent));
    }
    if path
        .split(|byte| *byte == b'/')
        .any(|part| part.starts_with(b".wh..wh."))
    {
        return Ok(Role::Ignored);
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Role::File),
        Some(b"") => Err(TarProblem::BareWhiteout),
        Some(hidden) => match Name::new(hidden) {
            Ok(name) => Ok(Role::Whiteout(parent, name)),
            Err(_) => Err(TarProblem::DotDot),
        },
    }
}

impl Splitter<'_> {
    fn entry(&mut self, entry: &TarEntry) -> Result<(), StoreError> {
        if self.index.entries() >= ENTRIES_MAX {
            return Err(self.tar.problem(TarProblem::TooManyEntries));
        }
        let found = role(&entry.path).map_err(|problem| self.tar.problem(problem))?;
        match found {
            Role::File => return self.file(entry),
            Role::Ignored => {}
            Role::Opaque(dir) => self.mark(dir, EntryKind::Opaque)?,
            Role::Whiteout(parent, name) => {
                let mut path = parent.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
                self.mark(&path, EntryKind::Whiteout)?;
            }
        }
        self.tar.skip(entry.stored)?;
        self.tar.padding(entry.stored)
    }

    fn mark(&mut self, path: &[u8], kind: EntryKind<'_>) -> Result<(), StoreError> {
        self.index.push(&LayerEntry {
            path,
            kind,
            perm: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        })
    }

    fn file(&mut self, entry: &TarEntry) -> Result<(), StoreError> {
        let inline;
        let kind = match &entry.kind {
            TarKind::Regular => {
                self.content_size = self.content_size.saturating_add(entry.size);
                if entry.size <= INLINE_MAX {
                    inline = self.inline(entry)?;
                    EntryKind::Inline(&inline)
                } else {
                    let digest = self.object(entry)?;
                    EntryKind::Object {
                        digest,
                        size: entry.size,
                    }
                }
            }
            TarKind::Directory => EntryKind::Directory,
            TarKind::Symlink(target) => EntryKind::Symlink(target),
            TarKind::HardLink(target) => EntryKind::HardLink(target),
            TarKind::CharDevice(device) => EntryKind::CharDevice(*device),
            TarKind::BlockDevice(device) => EntryKind::BlockDevice(*device),
            TarKind::Fifo => EntryKind::Fifo,
        };
        let xattrs = entry.xattrs.iter();
        let xattrs = xattrs.map(|(name, value)| (name.as_slice(), value.as_slice()));
        self.index.push(&LayerEntry {
            path: &entry.path,
            kind,
            perm: entry.perm,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: xattrs.collect(),
        })
    }

    /// The contents of a file small enough for the index; they count as bytes of the tar.
    fn inline(&mut self, entry: &TarEntry) -> Result<Vec<u8>, StoreError> {
        let bytes = self.gather(entry)?;
        for segment in segments(entry) {
            let (start, end) = range(segment);
            self.tar.sink.raw(&bytes[start..end])?;
        }
        self.tar.padding(entry.stored)?;
        Ok(bytes)
    }

    fn object(&mut self, entry: &TarEntry) -> Result<Digest, StoreError> {
        let digest = if entry.size <= SMALL_MAX {
            let bytes = self.gather(entry)?;
            self.objects.put(&bytes)?
        } else {
            self.large(entry)?
        };
        let Headers { out, path } = &mut self.tar.sink;
        for segment in segments(entry)
            .into_iter()
            .filter(|segment| segment.len > 0)
        {
            out.object(&digest, segment.offset, segment.len)
                .at("write", path)?;
        }
        self.tar.padding(entry.stored)?;
        Ok(digest)
    }

    /// The whole contents, holes filled in; the caller knows they are not large.
    fn gather(&mut self, entry: &TarEntry) -> Result<Vec<u8>, StoreError> {
        let size = usize::try_from(entry.size).map_err(|_| StoreError::TooBig("a file"))?;
        let mut bytes = vec![0; size];
        for segment in segments(entry) {
            let (start, end) = range(segment);
            self.tar.data(&mut bytes[start..end])?;
        }
        Ok(bytes)
    }

    /// Writes and hashes at once; holes stay holes.
    fn large(&mut self, entry: &TarEntry) -> Result<Digest, StoreError> {
        let (path, file) = self.objects.create()?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        for segment in segments(entry) {
            hash_zeros(&mut hasher, segment.offset - at);
            at = segment.offset;
            let end = segment.offset + segment.len;
            while at < end {
                let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(STEP);
                if let Err(error) = self.tar.data(&mut buffer[..step]) {
                    let _ignored = fs::remove_file(&path);
                    return Err(error);
                }
                hasher.update(&buffer[..step]);
                file.write_all_at(&buffer[..step], at).at("write", &path)?;
                at += step as u64;
            }
        }
        hash_zeros(&mut hasher, entry.size - at);
        if at < entry.size {
            file.set_len(entry.size).at("extend", &path)?;
        }
        drop(file);
        let digest = finish(hasher);
        self.objects.put_file(&path, &digest, entry.size)?;
        Ok(digest)
    }
}

/// The runs of data of a file; the reader has checked that they are in order and within it.
fn segments(entry: &TarEntry) -> Vec<Segment> {
    match &entry.sparse {
        Some(segments) => segments.clone(),
        None => vec![Segment {
            offset: 0,
            len: entry.size,
        }],
    }
}

/// A segment of a file that is in memory.
fn range(segment: Segment) -> (usize, usize) {
    let start = usize::try_from(segment.offset).unwrap_or(usize::MAX);
    (
        start,
        start.saturating_add(usize::try_from(segment.len).unwrap_or(usize::MAX)),
    )
}

fn hash_zeros(hasher: &mut Sha256, mut count: u64) {
    const ZEROS: [u8; 4096] = [0; 4096];
    while count > 0 {
        let step = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(ZEROS.len());
        hasher.update(&ZEROS[..step]);
        count -= step as u64;
    }
}
