//! Where the kernel finds the words with which a process is shown.

use std::io;

use super::check;

/// Where the parts of this process's memory lie, by address: beginnings and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) code: (u64, u64),
    pub(crate) data: (u64, u64),
    /// The beginning.
    pub(crate) heap: u64,
    /// The beginning.
    pub(crate) stack: u64,
    pub(crate) environment: (u64, u64),
}

/// `struct prctl_mm_map` of `linux/prctl.h`.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Makes `line`, words that each end with a NUL, this process's command line; all else stays.
///
/// The caller must be single-threaded: the end of the heap is told anew.
///
/// Source: `PR_SET_MM_MAP(2const)`.
pub(crate) fn set(layout: &Layout, line: &'static [u8]) -> io::Result<()> {
    // SAFETY: an increment of zero asks where the heap ends.
    let heap_end = unsafe { libc::sbrk(0) };
    let words = line.as_ptr_range();
    let map = MemoryMap {
        start_code: layout.code.0,
        end_code: layout.code.1,
        start_data: layout.data.0,
        end_data: layout.data.1,
        start_brk: layout.heap,
        brk: heap_end.addr() as u64,
        start_stack: layout.stack,
        arg_start: words.start.expose_provenance() as u64,
        arg_end: words.end.addr() as u64,
        env_start: layout.environment.0,
        env_end: layout.environment.1,
        // Both stay.
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::MAX,
    };
    // SAFETY: the structure is the kernel's, with its size; the kernel checks what it says, and
    // reads the words, which are never freed, only to show them.
    let ret = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            &raw const map,
            size_of::<MemoryMap>(),
            0,
        )
    };
    check(ret.into()).map(drop)
}
