//! Bases: the merged, immutable tree of an image in one file, mapped into memory.

mod build;
mod format;
mod read;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rrun_core::Digest;

use crate::Store;
use crate::error::{At, StoreError};
use crate::store::chain_id;
pub use read::Base;

pub(crate) use format::{View, verify};

/// Most layers of one image: the number of a layer has 16 bits in a node.
const LAYERS_MAX: usize = 1 << 16;

impl Store {
    /// Opens the merged tree of a stack of layers, lowest first; builds it if it is missing or
    /// its header is damaged. To keep it from `gc`, take a [`Store::lease`] next.
    ///
    /// # Errors
    ///
    /// `LayerMissing`; `LinkTargetMissing`, `Merge` for layers that do not fit together.
    pub fn base(&self, diff_ids: &[Digest]) -> Result<Base, StoreError> {
        let chain = chain_id(diff_ids);
        match self.open_base(&chain) {
            Ok(Some(base)) => return Ok(base),
            // A damaged one, or one of another version, is built again in its place.
            Ok(None) | Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        self.build_base(&chain, diff_ids)?;
        self.open_base(&chain)?
            .ok_or(StoreError::BaseMissing(chain))
    }

    pub(crate) fn base_path(&self, chain: &Digest) -> PathBuf {
        self.dir("bases").join(chain.hex())
    }

    /// Opens a base that is there.
    pub(crate) fn open_base(&self, chain: &Digest) -> Result<Option<Base>, StoreError> {
        let path = self.base_path(chain);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("open", &path),
        };
        let map = crate::sys::map_file(&file).at("map", &path)?;
        let corrupt = |what| StoreError::Corrupt {
            path: path.clone(),
            what,
        };
        let view = View::new(&map, chain).map_err(corrupt)?;
        Ok(Some(Base::new(Arc::new(map), view, self.objects_fd())))
    }

    fn build_base(&self, chain: &Digest, diff_ids: &[Digest]) -> Result<(), StoreError> {
        if diff_ids.len() > LAYERS_MAX {
            return Err(StoreError::TooBig("the number of layers"));
        }
        let mut layers = Vec::with_capacity(diff_ids.len());
        for id in diff_ids {
            layers.push(self.layer(id)?);
        }
        let bytes = build::build(chain, &layers)?;
        self.write_whole(&self.base_path(chain), &bytes)
    }
}
