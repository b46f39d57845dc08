//! Bringing the layers of an image into the store.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use rrun_core::Digest;
use rrun_store::{Compression, Expect, LayerInfo, Store};

use crate::parallel::{self, LAYERS_AT_ONCE};
use crate::{Event, ImageError, LayerState, Progress};

/// Bytes between two news of a moving layer: a progress line needs no more than this.
const NEWS_BYTES: u64 = 256 << 10;

/// One layer to bring in.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<S> {
    /// The name in progress events: blob digest, or diffID when the blob's is not known.
    pub(crate) shown: Digest,
    /// What the verified config says it is.
    pub(crate) diff_id: Digest,
    /// Digest of the blob, if known.
    pub(crate) blob: Option<Digest>,
    /// Size of the blob in bytes, if known.
    pub(crate) size: Option<u64>,
    /// Where to read it.
    pub(crate) source: S,
}

/// Brings in the layers that are not here yet, a few at once.
///
/// A layer is known by its diffID as the verified config gives it, never by what a manifest
/// calls its blob.
pub(crate) fn bring<S: Send, R: Read>(
    store: &Store,
    wanted: Vec<Wanted<S>>,
    progress: &dyn Progress,
    open: impl Fn(&Wanted<S>) -> Result<R, ImageError> + Sync,
) -> Result<(), ImageError> {
    let mut seen = BTreeSet::new();
    let mut jobs = Vec::new();
    for layer in wanted {
        if !seen.insert(layer.diff_id) {
            continue;
        }
        let state = if store.pin_layer(&layer.diff_id)? {
            LayerState::Exists
        } else {
            LayerState::Waiting
        };
        progress.event(&Event::Layer {
            digest: layer.shown,
            state,
        });
        if state == LayerState::Waiting {
            jobs.push(layer);
        }
    }
    parallel::for_each(jobs, LAYERS_AT_ONCE, |layer| {
        let reader = open(&layer)?;
        let expect = Expect {
            blob: layer.blob,
            blob_size: layer.size,
            diff_id: Some(layer.diff_id),
            ..Expect::default()
        };
        ingest(store, reader, layer.shown, &expect, progress).map(drop)
    })
}

/// Reads one layer into the store and tells how it goes.
pub(crate) fn ingest(
    store: &Store,
    reader: impl Read,
    shown: Digest,
    expect: &Expect,
    progress: &dyn Progress,
) -> Result<LayerInfo, ImageError> {
    let told = AtomicU64::new(0);
    let total = expect.blob_size;
    let news = |done: u64| {
        if done >= told.load(Ordering::Relaxed).saturating_add(NEWS_BYTES) {
            told.store(done, Ordering::Relaxed);
            let state = LayerState::Moving { done, total };
            progress.event(&Event::Layer {
                digest: shown,
                state,
            });
        }
    };
    let info = store
        .ingest_layer(reader, Compression::Auto, expect, &news)
        .map_err(|source| ImageError::Layer {
            layer: shown,
            source: Box::new(source),
        })?;
    progress.event(&Event::Layer {
        digest: shown,
        state: LayerState::Complete,
    });
    Ok(info)
}
