//! The content-addressed image store.
//!
//! A store is a directory (see docs/formats.md): file contents as plain objects named by their
//! digest, an index per layer, a merged index (base) per stack of layers, blobs, names.

mod base;
mod error;
mod gc;
mod ingest;
mod layer;
mod lease;
mod refs;
mod store;
mod sys;
mod tar;
mod types;

pub use base::Base;
pub use error::{StoreError, TarProblem};
pub use layer::{EntryKind, LayerEntry, LayerIndex, LayerTar};
pub use lease::Lease;
pub use store::{BLOB_BYTES_MAX, Store, chain_id};
pub use types::{
    BlobInfo, CheckReport, Compression, Expect, GcReport, ImageLayer, ImageRecord, LayerBlob,
    LayerInfo, NamedImage, Repair, Resolved, Usage,
};
