//! The store's directory: opening, temporary files, objects, blobs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rrun_core::Digest;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, openat, renameat_with};
use sha2::{Digest as _, Sha256};

use crate::error::{At, StoreError};

/// What the `VERSION` file says; raised when an older program could not read the store.
const VERSION: &str = "rrun-store 1\n";
/// Names of the directories under the root.
const DIRS: [&str; 8] = [
    "objects",
    "layers",
    "bases",
    "blobs",
    "refs",
    "leases",
    "tmp",
    "quarantine",
];
/// Length above which a blob is refused where its bytes are wanted in memory: configs and
/// manifests are kilobytes, registries cap manifests at 4 MiB.
pub const BLOB_BYTES_MAX: u64 = 16 << 20;
/// Times to try another name for a session before giving up: a cleaner takes at most one each.
const SESSION_TRIES: u32 = 100;

/// A content-addressed store of images on disk; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

/// What the clones of a [`Store`] share. Lock order: `session` is taken last and held for no I/O
/// but making the session's directory.
#[derive(Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    objects: Arc<OwnedFd>,
    session: Mutex<Option<Arc<Session>>>,
    counter: AtomicU64,
}

/// The temporary directory of one open store, held by a lock while the process lives.
#[derive(Debug)]
pub(crate) struct Session {
    path: PathBuf,
    pid: u32,
    // Closing it lets go of the lock.
    _lock: OwnedFd,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A forked child has a copy of this, but not the right. What is left is removed by the
        // next process to open the store.
        if self.pid == std::process::id() {
            let _ignored = fs::remove_dir_all(&self.path);
        }
    }
}

/// The digest of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    finish(Sha256::new().chain_update(bytes))
}

/// The digest a hasher has come to.
pub(crate) fn finish(hasher: Sha256) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

/// The chainID of an ordered stack of diffIDs, lowest first.
///
/// The stack of no layers has the digest of no bytes.
///
/// Source: OCI image-spec, config.md, "Layer ChainID".
#[must_use]
pub fn chain_id(diff_ids: &[Digest]) -> Digest {
    let mut ids = diff_ids.iter();
    let Some(first) = ids.next() else {
        return digest_of(b"");
    };
    ids.fold(*first, |chain, id| {
        digest_of(format!("{chain} {id}").as_bytes())
    })
}

impl Store {
    /// Opens the store at `root`, makes it if there is none, and removes what dead processes
    /// left in `tmp/`.
    ///
    /// # Errors
    ///
    /// `Io` naming the file; `Version` for a store of another version.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .at("make directory", root)?;
        let version = root.join("VERSION");
        let known = check_version(&version)?;
        for name in DIRS {
            make_dir(&root.join(name))?;
        }
        if !known {
            // Two processes may do this at once; each renames the same bytes into place.
            let temp = root.join(format!("tmp/VERSION.{}", std::process::id()));
            fs::write(&temp, VERSION).at("write", &temp)?;
            fs::rename(&temp, &version).at("rename into place", &version)?;
        }
        let path = root.join("objects");
        let objects = open_dir(&path)?;
        clean_tmp(&root.join("tmp"));
        Ok(Self {
            shared: Arc::new(Shared {
                root: root.to_owned(),
                objects: Arc::new(objects),
                session: Mutex::new(None),
                counter: AtomicU64::new(0),
            }),
        })
    }

    /// The directory the store is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.shared.root.join(name)
    }

    pub(crate) fn objects_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.shared.objects)
    }

    /// A path in `tmp/` that nothing has used; goes with the process.
    pub(crate) fn temp_path(&self, kind: &str) -> Result<PathBuf, StoreError> {
        let session = self.session()?;
        let number = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        Ok(session.path.join(format!("{kind}{number}")))
    }

    fn session(&self) -> Result<Arc<Session>, StoreError> {
        let mut guard = self
            .shared
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*guard {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(make_session(&self.dir("tmp"))?);
        *guard = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Keeps a layer or blob from `gc` as long as this store is open.
    pub(crate) fn pin(&self, id: &Digest) -> Result<(), StoreError> {
        let path = self.session()?.path.join(format!("pin-{}", id.hex()));
        File::create(&path).at("create", &path)?;
        Ok(())
    }

    /// Keeps `gc` away until the result is dropped; never held while waiting for the network.
    pub(crate) fn lock_shared(&self) -> Result<OwnedFd, StoreError> {
        self.lock(FlockOperation::LockShared)
    }

    /// Waits until nobody is putting things into place, and keeps everybody from it.
    pub(crate) fn lock_exclusive(&self) -> Result<OwnedFd, StoreError> {
        self.lock(FlockOperation::LockExclusive)
    }

    /// Makes changes to the names one after the other.
    pub(crate) fn lock_names(&self) -> Result<OwnedFd, StoreError> {
        self.lock_file("refs.lock", FlockOperation::LockExclusive)
    }

    fn lock(&self, operation: FlockOperation) -> Result<OwnedFd, StoreError> {
        self.lock_file("gc.lock", operation)
    }

    fn lock_file(&self, name: &str, operation: FlockOperation) -> Result<OwnedFd, StoreError> {
        let path = self.dir(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).at("open", &path)?;
        retry(|| flock(fd.as_fd(), operation)).at("lock", &path)?;
        Ok(fd)
    }

    /// Writes `bytes` to a file that did not exist under a name nobody sees half-written.
    pub(crate) fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temp = self.temp_path("file")?;
        let mut file = create_new(&temp)?;
        file.write_all(bytes).at("write", &temp)?;
        file.sync_data().at("sync", &temp)?;
        drop(file);
        fs::rename(&temp, path).at("rename into place", path)
    }

    /// Keeps a blob: a config, a manifest, a compressed layer. Returns its digest.
    ///
    /// The blob is safe from `gc` while this store is open.
    ///
    /// # Errors
    ///
    /// `DigestMismatch` when it is not what was expected.
    pub fn put_blob(&self, bytes: &[u8], expected: Option<&Digest>) -> Result<Digest, StoreError> {
        let actual = digest_of(bytes);
        if let Some(expected) = expected.copied().filter(|expected| *expected != actual) {
            return Err(StoreError::DigestMismatch {
                what: "blob",
                expected,
                actual,
            });
        }
        self.pin(&actual)?;
        let path = self.blob_path(&actual);
        if !self.has_blob(&actual)? {
            self.write_whole(&path, bytes)?;
        }
        Ok(actual)
    }

    /// Keeps a blob read from a stream, at most `size_max` bytes of it.
    ///
    /// # Errors
    ///
    /// `DigestMismatch`; `SizeMismatch` when more bytes come.
    pub fn put_blob_from(
        &self,
        reader: &mut dyn Read,
        expected: &Digest,
        size_max: u64,
    ) -> Result<u64, StoreError> {
        let temp = self.temp_path("blob")?;
        let mut file = create_new(&temp)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut size = 0_u64;
        let result = loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(StoreError::Source(error)),
            };
            size = size.saturating_add(count as u64);
            if size > size_max {
                break Err(StoreError::SizeMismatch {
                    expected: size_max,
                    actual: size,
                });
            }
            hasher.update(&buffer[..count]);
            if let Err(error) = file.write_all(&buffer[..count]).at("write", &temp) {
                break Err(error);
            }
        };
        let actual = finish(hasher);
        let result = result.and_then(|()| {
            if actual == *expected {
                file.sync_data().at("sync", &temp)?;
                self.pin(&actual)?;
                fs::rename(&temp, self.blob_path(&actual)).at("rename into place", &temp)
            } else {
                Err(StoreError::DigestMismatch {
                    what: "blob",
                    expected: *expected,
                    actual,
                })
            }
        });
        if result.is_err() {
            let _ignored = fs::remove_file(&temp);
        }
        result.map(|()| size)
    }

    /// Whether a blob is kept.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        path.try_exists().at("look at", &path)
    }

    /// The bytes of a small blob, proven to have the digest.
    ///
    /// # Errors
    ///
    /// `BlobMissing`; `DigestMismatch` when the file went bad; `TooBig` above
    /// [`BLOB_BYTES_MAX`].
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let file = self
            .open_blob(digest)?
            .ok_or(StoreError::BlobMissing(*digest))?;
        let mut bytes = Vec::new();
        file.take(BLOB_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .at("read", &path)?;
        if bytes.len() as u64 > BLOB_BYTES_MAX {
            return Err(StoreError::TooBig("a config or manifest"));
        }
        let actual = digest_of(&bytes);
        if actual != *digest {
            return Err(StoreError::DigestMismatch {
                what: "blob",
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Opens a blob for reading, if it is kept. Its bytes are not proven.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path),
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir("blobs").join(digest.hex())
    }

    /// Opens the object with this digest for reading.
    ///
    /// # Errors
    ///
    /// `ObjectMissing`; `Io`.
    pub fn open_object(&self, digest: &Digest) -> Result<File, StoreError> {
        match open_object_at(&self.shared.objects, digest) {
            Ok(file) => Ok(file),
            Err(rustix::io::Errno::NOENT) => Err(StoreError::ObjectMissing(*digest)),
            Err(errno) => Err(errno).at("open", &self.object_path(digest)),
        }
    }

    pub(crate) fn object_path(&self, digest: &Digest) -> PathBuf {
        self.dir("objects").join(object_name(digest))
    }
}

/// The path of an object below `objects/`.
pub(crate) fn object_name(digest: &Digest) -> String {
    let hex = digest.hex();
    let (head, tail) = hex.split_at(2);
    format!("{head}/{tail}")
}

/// Opens an object below the `objects/` directory.
pub(crate) fn open_object_at(objects: &OwnedFd, digest: &Digest) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    openat(objects, object_name(digest), flags, Mode::empty()).map(File::from)
}

/// Renames without replacing; false when the new name was taken.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<bool, StoreError> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => Ok(false),
        // Some network file systems have no such flag; replacing equal by equal is harmless.
        Err(rustix::io::Errno::INVAL) => fs::rename(from, to)
            .at("rename into place", to)
            .map(|()| true),
        Err(errno) => Err(errno).at("rename into place", to),
    }
}

/// Creates a read-only file for writing; it must not exist.
pub(crate) fn create_new(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o444);
    options.open(path).at("create", path)
}

/// Opens a directory of the store.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, StoreError> {
    openat(CWD, path, dir_flags(), Mode::empty()).at("open", path)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    rustix::fs::fsync(open_dir(dir)?).at("sync", dir)
}

/// Makes a directory unless it is there.
pub(crate) fn make_dir(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).at("make directory", path)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Whether there is a store of our version; false for none at all.
fn check_version(path: &Path) -> Result<bool, StoreError> {
    match fs::read_to_string(path) {
        Ok(found) if found == VERSION => Ok(true),
        Ok(found) => {
            let found = found.chars().take(80).collect();
            Err(StoreError::Version {
                path: path.to_owned(),
                found,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("read", path),
    }
}

/// Makes a directory of our own in `tmp/` and locks it.
fn make_session(tmp: &Path) -> Result<Session, StoreError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(8)
        .collect();
    for _ in 0..SESSION_TRIES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = tmp.join(format!("{boot}-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error).at("make directory", &path),
        }
        let Ok(fd) = openat(CWD, &path, dir_flags(), Mode::empty()) else {
            continue;
        };
        if flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // A cleaner may have taken it between the two calls.
        let mine = rustix::fs::fstat(&fd).at("look at", &path)?;
        if fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == mine.st_ino) {
            return Ok(Session {
                path,
                pid: std::process::id(),
                _lock: fd,
            });
        }
    }
    Err(StoreError::Io {
        action: "make a directory of our own in",
        path: tmp.to_owned(),
        source: io::Error::from(io::ErrorKind::AlreadyExists),
    })
}

/// Removes the directories of dead processes; what cannot be removed stays for another time.
pub(crate) fn clean_tmp(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(fd) = openat(CWD, &path, flags, Mode::empty()) else {
            continue;
        };
        if flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let _ignored = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            // A VERSION file in the making is younger than this; it lives for microseconds.
            Ok(_) if old_enough(&entry) => fs::remove_file(&path),
            Ok(_) | Err(_) => Ok(()),
        };
    }
}

fn old_enough(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 60))
}

/// The ids that open stores have pinned. Those of dead ones are gone when the store is opened.
pub(crate) fn pins(tmp: &Path) -> Result<Vec<Digest>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(tmp).at("list", tmp)?.flatten() {
        let Ok(files) = fs::read_dir(entry.path()) else {
            continue;
        };
        for file in files.flatten() {
            let name = file.file_name();
            let hex = name.to_str().and_then(|name| name.strip_prefix("pin-"));
            if let Some(id) = hex.and_then(|hex| Digest::from_hex(hex).ok()) {
                found.push(id);
            }
        }
    }
    Ok(found)
}
