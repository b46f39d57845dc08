//! The `state` file of a layer: JSON, the last thing written.

use rrun_core::Digest;
use serde::{Deserialize, Serialize};

use crate::{BlobInfo, Compression, LayerInfo};

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    state: String,
    diff_id: String,
    uncompressed_size: u64,
    entries: u64,
    content_size: u64,
    blobs: Vec<StateBlob>,
}

#[derive(Serialize, Deserialize)]
struct StateBlob {
    digest: String,
    size: u64,
    compression: String,
}

pub(crate) fn encode_state(info: &LayerInfo) -> String {
    let blobs = info.blobs.iter().map(|blob| StateBlob {
        digest: blob.digest.to_string(),
        size: blob.size,
        compression: blob.compression.as_str().to_owned(),
    });
    let file = StateFile {
        version: 1,
        state: "sealed".to_owned(),
        diff_id: info.diff_id.to_string(),
        uncompressed_size: info.uncompressed_size,
        entries: info.entries,
        content_size: info.content_size,
        blobs: blobs.collect(),
    };
    // Strings and numbers only: this cannot fail.
    serde_json::to_string(&file).unwrap_or_default()
}

pub(crate) fn decode_state(text: &str) -> Option<LayerInfo> {
    let file: StateFile = serde_json::from_str(text).ok()?;
    let mut blobs = Vec::new();
    for blob in &file.blobs {
        blobs.push(BlobInfo {
            digest: blob.digest.parse().ok()?,
            size: blob.size,
            compression: Compression::from_word(&blob.compression)?,
        });
    }
    let diff_id: Digest = file.diff_id.parse().ok()?;
    (file.version == 1).then_some(())?;
    Some(LayerInfo {
        diff_id,
        blob: *blobs.last()?,
        blobs,
        uncompressed_size: file.uncompressed_size,
        entries: file.entries,
        content_size: file.content_size,
    })
}
