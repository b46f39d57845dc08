//! What was asked, how often, and how long the answers took.

use std::sync::atomic::{AtomicU64, Ordering};

/// One more than the highest opcode counted.
const OPCODES: usize = 64;

/// Counters of one server; cheap enough to be always on.
#[derive(Debug)]
pub struct Stats {
    counts: [AtomicU64; OPCODES],
    errors: [AtomicU64; OPCODES],
}

/// The counters of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpCount {
    /// The protocol's name of the operation.
    pub name: &'static str,
    /// Requests.
    pub count: u64,
    /// Those answered with an error.
    pub errors: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; OPCODES],
            errors: [const { AtomicU64::new(0) }; OPCODES],
        }
    }
}

impl Stats {
    pub(crate) fn count(&self, opcode: u32, failed: bool) {
        let index = usize::try_from(opcode).unwrap_or(0).min(OPCODES - 1);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        if failed {
            self.errors[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The operations seen so far, by opcode.
    #[must_use]
    pub fn counts(&self) -> Vec<OpCount> {
        let mut out = Vec::new();
        for (opcode, count) in (0..).zip(&self.counts) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let errors = self.errors[out_index(opcode)].load(Ordering::Relaxed);
                out.push(OpCount {
                    name: crate::wire::opcode_name(opcode),
                    count,
                    errors,
                });
            }
        }
        out
    }
}

fn out_index(opcode: u32) -> usize {
    usize::try_from(opcode).unwrap_or(0).min(OPCODES - 1)
}
