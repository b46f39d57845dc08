//! Memory that is given back.

use std::ops::Range;

/// Unmaps the pages of a range of program text until they are touched again; see `madvise(2)`,
/// `MADV_DONTNEED`.
pub(crate) fn forget_text(range: Range<usize>) {
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: the range is a mapping of a file that nobody writes to through it: its pages have
    // the same bytes when they come back, so that even the text that runs may go.
    let _kept = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
}

/// Gives free pages of the heap back, where the C library can; see `malloc_trim(3)`.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing that is in use.
    let _released = unsafe { libc::malloc_trim(0) };
}
