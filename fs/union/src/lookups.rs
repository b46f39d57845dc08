//! How many references the kernel holds to each node.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes per chunk: one page of counters.
const CHUNK: u64 = 1024;
/// Chunks: room for 64 Mi nodes, ten times the largest image seen; the spine is 1 MiB of zero
/// pages that the kernel provides only when touched.
const CHUNKS: usize = 1 << 16;

type Chunk = Box<[AtomicU32]>;

/// Reference counts of lower nodes, by number; memory is taken page by page as nodes are seen.
///
/// Nodes beyond the table are counted as always referenced: they are never released early.
#[derive(Debug)]
pub(crate) struct Lookups {
    chunks: Box<[OnceLock<Chunk>]>,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }

    fn slot(&self, id: u64) -> Option<&AtomicU32> {
        let chunk = self.chunks.get(usize::try_from(id / CHUNK).ok()?)?;
        let counters = chunk.get_or_init(|| (0..CHUNK).map(|_| AtomicU32::new(0)).collect());
        counters.get(usize::try_from(id % CHUNK).ok()?)
    }

    /// Counts one more reference.
    pub(crate) fn add(&self, id: u64) {
        if let Some(counter) = self.slot(id) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops `count` references; true when none is left.
    pub(crate) fn forget(&self, id: u64, count: u64) -> bool {
        let Some(counter) = self.slot(id) else {
            return false;
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut left = 0;
        let _previous = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            left = held.saturating_sub(count);
            Some(left)
        });
        left == 0
    }

    /// Whether the kernel holds a reference.
    pub(crate) fn held(&self, id: u64) -> bool {
        self.slot(id)
            .is_none_or(|counter| counter.load(Ordering::Acquire) > 0)
    }
}
