//! How many references the kernel holds to each node.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes per chunk: one page of counters.
const CHUNK: u64 = 1024;
/// Chunks of a group, and groups: room for 64 Mi nodes, ten times the largest image seen.
const GROUP: u64 = 256;

type Chunk = Box<[AtomicU32]>;
type Group = Box<[OnceLock<Chunk>]>;

/// Reference counts of lower nodes, by number; memory is taken page by page as nodes are seen.
///
/// Nodes beyond the table are counted as always referenced: they are never released early.
#[derive(Debug)]
pub(crate) struct Lookups {
    /// Two steps, since every mount pays for the first: an empty `OnceLock` is not all zeros, so
    /// the allocator has to write it.
    groups: Box<[OnceLock<Group>]>,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        Self {
            groups: (0..GROUP).map(|_| OnceLock::new()).collect(),
        }
    }

    fn slot(&self, id: u64) -> Option<&AtomicU32> {
        let chunk = id / CHUNK;
        let group = self.groups.get(usize::try_from(chunk / GROUP).ok()?)?;
        let group = group.get_or_init(|| (0..GROUP).map(|_| OnceLock::new()).collect());
        let chunk = group.get(usize::try_from(chunk % GROUP).ok()?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_for_each_node_of_the_table() {
        let lookups = Lookups::new();
        let last = CHUNK * GROUP * GROUP - 1;
        for id in [0, CHUNK - 1, CHUNK, CHUNK * GROUP - 1, CHUNK * GROUP, last] {
            assert!(!lookups.held(id), "{id}");
            lookups.add(id);
            lookups.add(id);
            assert!(!lookups.forget(id, 1), "{id}");
            assert!(lookups.held(id), "{id}");
            assert!(lookups.forget(id, 1), "{id}");
            assert!(!lookups.held(id), "{id}");
        }
    }

    #[test]
    fn nodes_beyond_the_table_are_never_released() {
        let lookups = Lookups::new();
        let beyond = CHUNK * GROUP * GROUP;
        lookups.add(beyond);
        assert!(!lookups.forget(beyond, 1));
        assert!(lookups.held(beyond));
    }
}
