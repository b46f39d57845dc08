//! What can go wrong in the store.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rrun_core::{Digest, Errno};

/// Why the store could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call on a file of the store failed.
    Io {
        /// What was tried, as in "could not ACTION PATH".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store was written by another version of this program.
    Version {
        /// The `VERSION` file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The stream a layer or blob was read from broke.
    Source(io::Error),
    /// Bytes do not have the digest that was promised.
    DigestMismatch {
        /// Which bytes: "blob" or "layer tar".
        what: &'static str,
        /// The digest promised.
        expected: Digest,
        /// The digest of the bytes that came.
        actual: Digest,
    },
    /// A blob does not have the size that was promised.
    SizeMismatch {
        /// The size promised, in bytes.
        expected: u64,
        /// The bytes that came; when more came than promised, counting stopped here.
        actual: u64,
    },
    /// A layer tar is malformed, hostile or beyond a limit.
    Tar {
        /// The entry, as far as known; empty before the first one.
        entry: String,
        /// What is wrong with it.
        problem: TarProblem,
    },
    /// A hard link names a file that is in none of the layers up to its own.
    LinkTargetMissing {
        /// The layer that has the link.
        layer: Digest,
        /// The link.
        entry: String,
        /// What it should lead to.
        target: String,
    },
    /// An entry of a layer cannot be placed in the merged tree.
    Merge {
        /// The layer that has the entry.
        layer: Digest,
        /// The entry.
        entry: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file of the store does not hold what it should.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// No layer with this diffID is in the store.
    LayerMissing(Digest),
    /// No blob with this digest is in the store.
    BlobMissing(Digest),
    /// No object with this digest is in the store.
    ObjectMissing(Digest),
    /// No base with this chainID is in the store.
    BaseMissing(Digest),
    /// Neither a name nor the start of an id of an image in the store.
    ImageUnknown(String),
    /// The start of the ids of several images.
    ImageAmbiguous {
        /// What was asked for.
        prefix: String,
        /// The ids that start so.
        candidates: Vec<Digest>,
    },
    /// A name that cannot name an image.
    RefName(String),
    /// The merged tree or an index outgrows what its format can hold.
    TooBig(&'static str),
    /// A worker thread ended without an answer.
    Worker,
}

/// What is wrong with a layer tar.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TarProblem {
    /// The stream ends inside an entry.
    Truncated,
    /// A header block's checksum does not hold.
    Checksum,
    /// A numeric field is not a number or does not fit.
    Number(&'static str),
    /// An extended header record is malformed.
    PaxRecord,
    /// A sparse map is malformed.
    SparseMap,
    /// An entry type that no image may contain; holds the type byte.
    Type(u8),
    /// The name or the link target contains `..`.
    DotDot,
    /// The name is empty or contains NUL.
    BadName,
    /// One component of the name has more than 255 bytes; holds its length.
    NameTooLong(usize),
    /// The name or link target is longer than the limit; holds its length.
    PathTooLong(usize),
    /// An extended header is longer than the limit; holds its length in bytes.
    HeaderTooLong(u64),
    /// The extended attributes break a limit.
    Xattrs,
    /// More entries than the limit.
    TooManyEntries,
    /// A sparse file larger than the limit; holds its size in bytes.
    SparseTooBig(u64),
    /// A whiteout that names nothing (`.wh.`).
    BareWhiteout,
    /// A hard link to itself or to the root.
    BadLink,
}

impl StoreError {
    /// The errno a FUSE reply carries for this error.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Io { source, .. } | Self::Source(source) => {
                source.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
            }
            Self::LayerMissing(_)
            | Self::BlobMissing(_)
            | Self::BaseMissing(_)
            | Self::ImageUnknown(_) => Errno::ENOENT,
            Self::ImageAmbiguous { .. } | Self::RefName(_) | Self::Tar { .. } => Errno::EINVAL,
            Self::TooBig(_) => Errno::EFBIG,
            Self::Version { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::LinkTargetMissing { .. }
            | Self::Merge { .. }
            | Self::Corrupt { .. }
            | Self::ObjectMissing(_)
            | Self::Worker => Errno::EIO,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => {
                write!(f, "could not {action} {}: {source}", path.display())
            }
            Self::Version { path, found } => write!(
                f,
                "{} says {found:?}: this store was made by another version of rrun",
                path.display()
            ),
            Self::Source(source) => write!(f, "could not read the layer: {source}"),
            Self::DigestMismatch {
                what,
                expected,
                actual,
            } => {
                write!(f, "{what} has digest {actual}, not {expected} as promised")
            }
            Self::SizeMismatch { expected, actual } => {
                write!(f, "blob has {actual} bytes, not {expected} as promised")
            }
            Self::Tar { entry, problem } if entry.is_empty() => write!(f, "layer tar: {problem}"),
            Self::Tar { entry, problem } => write!(f, "layer tar, entry {entry:?}: {problem}"),
            Self::LinkTargetMissing {
                layer,
                entry,
                target,
            } => write!(
                f,
                "hard link {entry:?} in layer {layer} leads to {target:?}, which does not exist"
            ),
            Self::Merge {
                layer,
                entry,
                reason,
            } => {
                write!(f, "could not place {entry:?} of layer {layer}: {reason}")
            }
            Self::Corrupt { path, what } => write!(f, "{} is corrupt: {what}", path.display()),
            Self::LayerMissing(id) => write!(f, "layer {id} is not in the store"),
            Self::BlobMissing(id) => write!(f, "blob {id} is not in the store"),
            Self::ObjectMissing(id) => write!(f, "object {id} is not in the store"),
            Self::BaseMissing(id) => write!(f, "base {id} is not in the store"),
            Self::ImageUnknown(name) => write!(f, "no such image: {name}"),
            Self::ImageAmbiguous { prefix, candidates } => {
                write!(f, "image id {prefix:?} is ambiguous:")?;
                for id in candidates {
                    write!(f, " {}", id.short())?;
                }
                Ok(())
            }
            Self::RefName(name) => write!(f, "{name:?} cannot name an image"),
            Self::TooBig(what) => write!(f, "{what} is too big for the index format"),
            Self::Worker => f.write_str("a worker thread of the store died"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The texts of Io and Source already contain their cause.
        None
    }
}

impl fmt::Display for TarProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the archive ends inside the entry"),
            Self::Checksum => f.write_str("wrong header checksum (not a tar archive?)"),
            Self::Number(field) => write!(f, "field {field} is not a number that fits"),
            Self::PaxRecord => f.write_str("malformed extended header"),
            Self::SparseMap => f.write_str("malformed sparse map"),
            Self::Type(kind) => write!(f, "unsupported entry type {:?}", char::from(*kind)),
            Self::DotDot => f.write_str("name or link target leaves the tree with .."),
            Self::BadName => f.write_str("name is empty or has a NUL"),
            Self::NameTooLong(len) => write!(f, "a name of {len} bytes is longer than 255"),
            Self::PathTooLong(len) => write!(f, "a path of {len} bytes is too long"),
            Self::HeaderTooLong(len) => write!(f, "an extended header of {len} bytes is too long"),
            Self::Xattrs => f.write_str("extended attributes too long or malformed"),
            Self::TooManyEntries => f.write_str("too many entries"),
            Self::SparseTooBig(size) => write!(f, "a sparse file of {size} bytes is too big"),
            Self::BareWhiteout => f.write_str("whiteout without a name"),
            Self::BadLink => f.write_str("hard link to itself or to the root"),
        }
    }
}

/// Adds the action and the file to an error of the operating system.
pub(crate) trait At<T> {
    /// Says that `action` on `path` failed.
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|errno| StoreError::Io {
            action,
            path: path.to_owned(),
            source: errno.into(),
        })
    }
}
