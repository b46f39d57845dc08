//! stub
use std::io::{self, Read};

use rrun_core::{Device, Digest, Time};

use crate::{LayerInfo, Store, StoreError};

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

/// All a layer says except the contents of larger files.
#[derive(Debug)]
pub struct LayerIndex {}

impl LayerIndex {
    /// Calls `each` for every entry, in the order of the tar, until it returns false.
    ///
    /// # Errors
    ///
    /// `Corrupt`.
    pub fn for_each(&self, each: &mut dyn FnMut(LayerEntry<'_>) -> bool) -> Result<(), StoreError> {
        let _ = each;
        Ok(())
    }
}

/// Reads the uncompressed tar of a layer, bit for bit as it came.
#[derive(Debug)]
pub struct LayerTar {}

impl Read for LayerTar {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Store {
    /// Whether a layer is in the store.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn has_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        let _ = diff_id;
        Ok(false)
    }

    /// As [`Store::has_layer`], and keeps the layer from `gc` while this store is open.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn pin_layer(&self, diff_id: &Digest) -> Result<bool, StoreError> {
        self.has_layer(diff_id)
    }

    /// What is known of a layer: sizes, the blobs it came as.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `Corrupt`.
    pub fn layer_info(&self, diff_id: &Digest) -> Result<LayerInfo, StoreError> {
        Err(StoreError::LayerMissing(*diff_id))
    }

    /// The index of a layer.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `Corrupt`.
    pub fn layer(&self, diff_id: &Digest) -> Result<LayerIndex, StoreError> {
        Err(StoreError::LayerMissing(*diff_id))
    }

    /// The uncompressed tar of a layer; hashes to the diffID.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `Io`. Reading fails when an object is missing.
    pub fn layer_tar(&self, diff_id: &Digest) -> Result<LayerTar, StoreError> {
        Err(StoreError::LayerMissing(*diff_id))
    }
}
