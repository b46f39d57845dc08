//! The bytes of a layer tar that are in no object, and the tar made of both again.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rrun_core::Digest;

use crate::store::open_object_at;

const TAG_RAW: u8 = 0;
const TAG_OBJECT: u8 = 1;
/// Raw bytes gathered before they are written as one record.
const RAW_CHUNK: usize = 64 << 10;
/// Longest raw record a reader accepts.
const RAW_MAX: u32 = 1 << 20;
/// Level 1 takes a tenth of the ingest's time budget; headers are mostly zeros at any level.
const LEVEL: i32 = 1;

/// Writes `headers.zst`.
pub(crate) struct HeaderWriter {
    out: zstd::stream::write::Encoder<'static, File>,
    raw: Vec<u8>,
}

impl std::fmt::Debug for HeaderWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeaderWriter").finish_non_exhaustive()
    }
}

impl HeaderWriter {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let mut out = zstd::stream::write::Encoder::new(file, LEVEL)?;
        out.include_checksum(true)?;
        Ok(Self {
            out,
            raw: Vec::with_capacity(RAW_CHUNK),
        })
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(RAW_CHUNK) {
            if self.raw.len() + chunk.len() > RAW_CHUNK {
                self.flush_raw()?;
            }
            self.raw.extend_from_slice(chunk);
        }
        Ok(())
    }

    /// Adds `len` bytes of an object from `offset` on.
    pub(crate) fn object(&mut self, digest: &Digest, offset: u64, len: u64) -> io::Result<()> {
        self.flush_raw()?;
        self.out.write_all(&[TAG_OBJECT])?;
        self.out.write_all(digest.as_bytes())?;
        self.out.write_all(&offset.to_le_bytes())?;
        self.out.write_all(&len.to_le_bytes())
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(self.raw.len()).unwrap_or(RAW_MAX);
        self.out.write_all(&[TAG_RAW])?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&self.raw)?;
        self.raw.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.out.finish().map(drop)
    }
}

/// Reads the uncompressed tar of a layer, bit for bit as it came.
pub struct LayerTar {
    headers: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    objects: Arc<OwnedFd>,
    part: Part,
}

enum Part {
    Raw(u32),
    Object(File, u64),
    End,
}

impl std::fmt::Debug for LayerTar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerTar").finish_non_exhaustive()
    }
}

impl LayerTar {
    pub(crate) fn new(headers: File, objects: Arc<OwnedFd>) -> io::Result<Self> {
        let headers = BufReader::new(zstd::stream::read::Decoder::new(headers)?);
        Ok(Self {
            headers,
            objects,
            part: Part::Raw(0),
        })
    }

    /// Goes on to the next record.
    fn advance(&mut self) -> io::Result<()> {
        let mut tag = [0];
        if self.headers.read(&mut tag)? == 0 {
            self.part = Part::End;
            return Ok(());
        }
        self.part = match tag[0] {
            TAG_RAW => {
                let mut len = [0; 4];
                self.headers.read_exact(&mut len)?;
                let len = u32::from_le_bytes(len);
                if len > RAW_MAX {
                    return Err(invalid("a raw record is too long"));
                }
                Part::Raw(len)
            }
            TAG_OBJECT => {
                let (mut digest, mut offset, mut len) = ([0; 32], [0; 8], [0; 8]);
                self.headers.read_exact(&mut digest)?;
                self.headers.read_exact(&mut offset)?;
                self.headers.read_exact(&mut len)?;
                let digest = Digest::from_bytes(digest);
                let mut file = open_object_at(&self.objects, &digest).map_err(|errno| {
                    let error = io::Error::from(errno);
                    io::Error::new(error.kind(), format!("object {digest}: {error}"))
                })?;
                file.seek(SeekFrom::Start(u64::from_le_bytes(offset)))?;
                Part::Object(file, u64::from_le_bytes(len))
            }
            _ => return Err(invalid("an unknown record")),
        };
        Ok(())
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("tar headers of a layer: {what}"),
    )
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.part {
                Part::Raw(0) | Part::Object(_, 0) => self.advance()?,
                Part::End => return Ok(0),
                Part::Raw(left) => {
                    let want = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let count = self.headers.read(&mut buffer[..want])?;
                    if count == 0 {
                        return Err(invalid("they end early"));
                    }
                    *left -= u32::try_from(count).unwrap_or(*left);
                    return Ok(count);
                }
                Part::Object(file, left) => {
                    let want = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let count = file.read(&mut buffer[..want])?;
                    if count == 0 {
                        return Err(invalid("an object is shorter than it was"));
                    }
                    *left -= count as u64;
                    return Ok(count);
                }
            }
        }
    }
}
