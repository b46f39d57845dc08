//! Taking in a layer: one pass over its blob, on two threads.
//!
//! The calling thread reads, hashes and decompresses; the other splits the tar and hashes and
//! writes the objects. Everything is made in `tmp/`; one `syncfs` makes it durable; then it is
//! renamed into place, so that a name outside `tmp/` always leads to bytes on disk.

mod objects;
mod split;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::thread;

use crossbeam_channel::{Sender, bounded};
use flate2::read::MultiGzDecoder;
use rrun_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{At, StoreError};
use crate::layer::encode_state;
use crate::store::{create_new, finish, make_dir, open_dir, rename_new, sync_dir};
use crate::{BlobInfo, Compression, Expect, LayerInfo, Store};
use split::{Chunk, Split, split};

/// Bytes handed from one thread to the other at a time: large enough that waking costs nothing.
const CHUNK: usize = 256 << 10;
/// Chunks under way at most, to bound memory at 4 MiB.
const CHUNKS_MAX: usize = 16;

impl Store {
    /// Reads a layer blob to its end in one pass: decompresses, hashes, splits it into objects
    /// and an index, keeps what a bit-exact export needs. `progress` gets the number of blob
    /// bytes read so far.
    ///
    /// The layer is safe from `gc` while this store is open.
    ///
    /// # Errors
    ///
    /// `DigestMismatch`, `SizeMismatch` when a promise in `expect` is broken, `Tar` for a bad
    /// archive, `Source` when the reader fails; nothing is kept then.
    pub fn ingest_layer(
        &self,
        reader: impl Read,
        compression: Compression,
        expect: &Expect,
        progress: &dyn Fn(u64),
    ) -> Result<LayerInfo, StoreError> {
        let dir = self.temp_path("layer")?;
        make_dir(&dir)?;
        make_dir(&dir.join("o"))?;
        make_dir(&dir.join("layer"))?;
        let result = self.ingest_in(&dir, reader, compression, expect, progress);
        // What stays behind goes with the session.
        let _ignored = fs::remove_dir_all(&dir);
        result
    }

    fn ingest_in(
        &self,
        dir: &Path,
        reader: impl Read,
        compression: Compression,
        expect: &Expect,
        progress: &dyn Fn(u64),
    ) -> Result<LayerInfo, StoreError> {
        let kept = if expect.keep_blob {
            Some(create_new(&dir.join("blob"))?)
        } else {
            None
        };
        let tee = RefCell::new(Tee::new(reader, expect.blob_size.unwrap_or(u64::MAX), kept));
        let (sender, receiver) = bounded(CHUNKS_MAX);
        let (pumped, splitted) = thread::scope(|scope| {
            let builder = thread::Builder::new().name("rrun-ingest".to_owned());
            let worker = builder.spawn_scoped(scope, || split(self, dir, receiver));
            let worker = worker.at("start a thread for", dir)?;
            let pumped = pump(&tee, compression, &sender, progress);
            if pumped.is_err() {
                // The worker may be gone, which is as good.
                let _ignored = sender.send(Err(()));
            }
            drop(sender);
            Ok((pumped, worker.join().map_err(|_| StoreError::Worker)?))
        })?;
        let blob = tee
            .borrow_mut()
            .finish(expect, pumped.is_err() || splitted.is_err());
        // A broken promise explains every other failure, but not the other way round.
        let (digest, size) = blob?;
        let (pumped, splitted) = match (pumped, splitted) {
            (Ok(pumped), Ok(splitted)) => (pumped, splitted),
            (Ok(_) | Err(StoreError::Worker), Err(error)) | (Err(error), _) => return Err(error),
        };
        if let Some(expected) = expect
            .diff_id
            .filter(|expected| *expected != pumped.diff_id)
        {
            let actual = pumped.diff_id;
            return Err(StoreError::DigestMismatch {
                what: "layer tar",
                expected,
                actual,
            });
        }
        let blob = BlobInfo {
            digest,
            size,
            compression: pumped.compression,
        };
        let info = LayerInfo {
            diff_id: pumped.diff_id,
            blob,
            blobs: vec![blob],
            uncompressed_size: pumped.size,
            entries: splitted.index.entries(),
            content_size: splitted.content_size,
        };
        self.commit_layer(dir, info, splitted, expect.keep_blob)
    }

    /// Makes the layer durable, then visible.
    fn commit_layer(
        &self,
        dir: &Path,
        mut info: LayerInfo,
        split: Split,
        keep_blob: bool,
    ) -> Result<LayerInfo, StoreError> {
        let id = info.diff_id;
        let made = dir.join("layer");
        let index = split
            .index
            .finish(&id, info.uncompressed_size, info.content_size);
        write_file(&made.join("index"), &index)?;
        write_file(&made.join("state"), encode_state(&info).as_bytes())?;
        sync_all(dir)?;
        self.pin(&id)?;
        let lock = self.lock_shared()?;
        objects::publish(self, &dir.join("o"), &split.objects)?;
        if keep_blob {
            self.pin(&info.blob.digest)?;
            rename_new(&dir.join("blob"), &self.blob_path(&info.blob.digest))?;
        }
        let place = self.layer_dir(&id);
        if !rename_new(&made, &place)? {
            self.renew_layer(&made, &mut info)?;
        }
        drop(lock);
        sync_dir(&self.dir("layers"))?;
        Ok(info)
    }

    /// The layer was there already: adds the blob to what is known of it.
    fn renew_layer(&self, made: &Path, info: &mut LayerInfo) -> Result<(), StoreError> {
        let place = self.layer_dir(&info.diff_id);
        let known = self
            .layer_info(&info.diff_id)
            .map(|known| known.blobs)
            .unwrap_or_default();
        let new = info.blob;
        info.blobs = known
            .into_iter()
            .filter(|blob| blob.digest != new.digest)
            .collect();
        info.blobs.push(new);
        let state = made.join("state");
        fs::remove_file(&state).at("remove", &state)?;
        write_file(&state, encode_state(info).as_bytes())?;
        // The fresh index and headers replace those that were there: they are equal unless those
        // went bad on disk.
        for name in ["index", "headers.zst", "state"] {
            let (from, to) = (made.join(name), place.join(name));
            fs::rename(&from, &to).at("rename into place", &to)?;
        }
        Ok(())
    }
}

/// What the calling thread finds out.
struct Pumped {
    diff_id: Digest,
    size: u64,
    compression: Compression,
}

/// Reads, decompresses, hashes and hands on, to the end of the blob.
fn pump<R: Read>(
    tee: &RefCell<Tee<R>>,
    compression: Compression,
    sender: &Sender<Chunk>,
    progress: &dyn Fn(u64),
) -> Result<Pumped, StoreError> {
    let mut head = Vec::with_capacity(6);
    TeeReader(tee)
        .take(6)
        .read_to_end(&mut head)
        .map_err(StoreError::Source)?;
    let compression = match compression {
        Compression::Auto => detect(&head),
        Compression::None | Compression::Gzip | Compression::Zstd => compression,
    };
    let source = io::Cursor::new(head).chain(TeeReader(tee));
    let source = BufReader::with_capacity(CHUNK, source);
    let mut decoder: Box<dyn Read + '_> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(source).map_err(StoreError::Source)?)
        }
        Compression::None | Compression::Auto => Box::new(source),
    };
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        let chunk = fill(&mut decoder).map_err(StoreError::Source)?;
        progress(tee.borrow().size);
        if chunk.is_empty() {
            break;
        }
        hasher.update(&chunk);
        size += chunk.len() as u64;
        // The worker stops listening only when it has an error to tell.
        sender.send(Ok(chunk)).map_err(|_| StoreError::Worker)?;
    }
    drop(decoder);
    Ok(Pumped {
        diff_id: finish(hasher),
        size,
        compression,
    })
}

/// A full chunk, or a shorter one at the end.
fn fill(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; CHUNK];
    let mut have = 0;
    while have < CHUNK {
        match reader.read(&mut chunk[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(have);
    Ok(chunk)
}

/// What a blob's first bytes say.
///
/// Source: RFC 1952 section 2.3.1; RFC 8878 sections 3.1.1 and 3.1.2.
fn detect(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Hashes, counts and maybe keeps what is read from the source.
struct Tee<R> {
    reader: R,
    hasher: Sha256,
    size: u64,
    size_max: u64,
    kept: Option<File>,
    broken: bool,
}

impl<R: Read> Tee<R> {
    fn new(reader: R, size_max: u64, kept: Option<File>) -> Self {
        Self {
            reader,
            hasher: Sha256::new(),
            size: 0,
            size_max,
            kept,
            broken: false,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.size > self.size_max {
            return Err(io::Error::other("the blob is longer than promised"));
        }
        let count = match self.reader.read(buffer) {
            Ok(count) => count,
            Err(error) => {
                self.broken |= error.kind() != io::ErrorKind::Interrupted;
                return Err(error);
            }
        };
        self.hasher.update(&buffer[..count]);
        self.size = self.size.saturating_add(count as u64);
        if let Some(file) = &mut self.kept {
            file.write_all(&buffer[..count])
                .inspect_err(|_| self.broken = true)?;
        }
        Ok(count)
    }

    /// Compares with what was promised. After a failure elsewhere (`failed`) the rest is read
    /// first, since damaged bytes are its likeliest cause.
    fn finish(&mut self, expect: &Expect, failed: bool) -> Result<(Digest, u64), StoreError> {
        if failed && (self.broken || expect.blob.is_none()) && self.size <= self.size_max {
            return Ok((finish(self.hasher.clone()), self.size));
        }
        let mut buffer = vec![0; CHUNK];
        while self.size <= self.size_max {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::Source(error)),
            }
        }
        if let Some(expected) = expect.blob_size.filter(|expected| *expected != self.size) {
            return Err(StoreError::SizeMismatch {
                expected,
                actual: self.size,
            });
        }
        let actual = finish(self.hasher.clone());
        match expect.blob {
            Some(expected) if expected != actual => Err(StoreError::DigestMismatch {
                what: "blob",
                expected,
                actual,
            }),
            Some(_) | None => Ok((actual, self.size)),
        }
    }
}

struct TeeReader<'a, R>(&'a RefCell<Tee<R>>);

impl<R: Read> Read for TeeReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    create_new(path)?.write_all(bytes).at("write", path)
}

/// Makes all that was written to the file system of `dir` durable.
fn sync_all(dir: &Path) -> Result<(), StoreError> {
    rustix::fs::syncfs(open_dir(dir)?).at("sync the file system of", dir)
}
