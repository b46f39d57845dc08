//! stub
use std::sync::Arc;

use rrun_core::{Attr, Data, Digest, Errno, Lower, LowerEntry, NodeId};

use crate::{Store, StoreError};

/// The merged, immutable tree of an image.
#[derive(Debug, Clone)]
pub struct Base {
    chain: Arc<Digest>,
}

impl Base {
    /// The chainID of the layers it was merged from.
    #[must_use]
    pub fn chain_id(&self) -> Digest {
        *self.chain
    }
}

impl Store {
    /// Opens the merged tree of a stack of layers, lowest first; builds it if it is missing.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `LinkTargetMissing`, `Merge` for layers that do not fit together.
    pub fn base(&self, diff_ids: &[Digest]) -> Result<Base, StoreError> {
        Err(StoreError::BaseMissing(crate::chain_id(diff_ids)))
    }
}

impl Lower for Base {
    fn attr(&self, _: NodeId) -> Result<Attr, Errno> {
        Err(Errno::EIO)
    }
    fn lookup(&self, _: NodeId, _: &[u8]) -> Result<Option<NodeId>, Errno> {
        Err(Errno::EIO)
    }
    fn entries(
        &self,
        _: NodeId,
        _: u64,
        _: &mut dyn FnMut(LowerEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        Err(Errno::EIO)
    }
    fn readlink(&self, _: NodeId) -> Result<Vec<u8>, Errno> {
        Err(Errno::EIO)
    }
    fn xattr_names(&self, _: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        Err(Errno::EIO)
    }
    fn xattr(&self, _: NodeId, _: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        Err(Errno::EIO)
    }
    fn data(&self, _: NodeId) -> Result<Data, Errno> {
        Err(Errno::EIO)
    }
    fn names(&self, _: NodeId) -> Result<Vec<(NodeId, Vec<u8>)>, Errno> {
        Err(Errno::EIO)
    }
    fn layer(&self, _: NodeId) -> Result<u32, Errno> {
        Err(Errno::EIO)
    }
    fn locator(&self, _: NodeId) -> Result<Vec<u8>, Errno> {
        Err(Errno::EIO)
    }
    fn locate(&self, _: &[u8]) -> Result<Option<NodeId>, Errno> {
        Err(Errno::EIO)
    }
}
