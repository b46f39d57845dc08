//! What happens while images move, told to whoever shows it.

use rrun_core::{Digest, ImageRef};

/// Where a layer is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Waiting for its turn.
    Waiting,
    /// Here already; nothing to move.
    Exists,
    /// Moving; compressed bytes.
    Moving {
        /// Bytes so far.
        done: u64,
        /// Bytes in all, when known.
        total: Option<u64>,
    },
    /// The connection broke; trying again from where it stopped.
    Retrying {
        /// Which attempt follows.
        attempt: u32,
        /// Bytes kept.
        at: u64,
    },
    /// Verified and stored, or accepted by the registry.
    Complete,
}

/// One thing that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// No tag was given; this one is used.
    DefaultTag(&'a str),
    /// A pull begins.
    Pulling(&'a ImageRef),
    /// A push begins.
    Pushing(&'a ImageRef),
    /// News of one layer, named by its blob digest (diffID when there is no other).
    Layer {
        /// The layer.
        digest: Digest,
        /// Its state.
        state: LayerState,
    },
    /// The digest of the manifest or index the registry served.
    Digest(Digest),
    /// The server was not what was expected, or something was left out; one line for the user.
    Note(&'a str),
}

/// Receives events, from several threads.
pub trait Progress: Sync {
    /// Shows, or ignores, one event.
    fn event(&self, event: &Event<'_>);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
