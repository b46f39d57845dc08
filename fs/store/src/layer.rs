//! Layers: what a layer index says, and the tar it came from.

mod index;
mod state;
mod tar_out;

use std::fs::File;
use std::path::PathBuf;

use rrun_core::{Device, Digest, Time};

use crate::error::At;
use crate::{LayerInfo, Store, StoreError};

pub use index::LayerIndex;
pub(crate) use index::{IndexBuilder, Xattrs, encode_xattrs, xattr_pairs};
pub(crate) use state::{decode_state, encode_state};
pub(crate) use tar_out::HeaderWriter;
pub use tar_out::LayerTar;

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry<'a> {
    /// Path from the root, without leading or trailing slash; empty for the root.
    pub path: &'a [u8],
    /// What the entry is.
    pub kind: EntryKind<'a>,
    /// `st_mode & 07777`.
    pub perm: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of contents.
    pub mtime: Time,
    /// Names and values of the extended attributes, sorted by name.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// What an entry of a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file whose contents are in the index.
    Inline(&'a [u8]),
    /// A regular file whose contents are an object.
    Object {
        /// The object.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// Another name for the file at this path.
    HardLink(&'a [u8]),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A FIFO.
    Fifo,
    /// The path (which is that of the removed file) is gone in the layers below.
    Whiteout,
    /// The directory hides what layers below have in it.
    Opaque,
}

impl Store {
    pub(crate) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.dir("layers").join(diff_id.hex())
    }

    /// Whether a layer is in the store.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn has_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        let path = self.layer_dir(diff_id);
        path.try_exists().at("look at", &path)
    }

    /// As [`Store::has_layer`], and keeps the layer from `gc` while this store is open.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn pin_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        self.pin(diff_id)?;
        let _lock = self.lock_shared()?;
        self.has_layer(diff_id)
    }

    fn layer_file(&self, diff_id: &Digest, name: &str) -> Result<(PathBuf, File), StoreError> {
        let path = self.layer_dir(diff_id).join(name);
        match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::LayerMissing(*diff_id))
            }
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// What is known of a layer: sizes, the blobs it came as.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `Corrupt`.
    pub fn layer_info(&self, diff_id: &Digest) -> Result<LayerInfo, StoreError> {
        let (path, file) = self.layer_file(diff_id, "state")?;
        let text = std::io::read_to_string(file).at("read", &path)?;
        match decode_state(&text) {
            Some(info) if info.diff_id == *diff_id => Ok(info),
            Some(_) | None => Err(StoreError::Corrupt {
                path,
                what: "not a layer state",
            }),
        }
    }

    /// The index of a layer, proven whole by its checksum.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `Corrupt`.
    pub fn layer(&self, diff_id: &Digest) -> Result<LayerIndex, StoreError> {
        let (path, file) = self.layer_file(diff_id, "index")?;
        LayerIndex::open(&path, &file, diff_id)
    }

    /// The uncompressed tar of a layer; hashes to the diffID.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `Io`. Reading fails when an object is missing.
    pub fn layer_tar(&self, diff_id: &Digest) -> Result<LayerTar, StoreError> {
        let (path, file) = self.layer_file(diff_id, "headers.zst")?;
        LayerTar::new(file, self.objects_fd()).at("read", &path)
    }
}
