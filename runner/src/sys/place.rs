//! Where a process runs: its processors, and the nodes its memory comes from.

use std::io;

use super::check;

/// Lets this thread run on the processors of a mask alone.
///
/// # Errors
///
/// `EINVAL` when none of them is there.
///
/// Source: `sched_setaffinity(2)`.
pub(crate) fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes of the mask as it is long; thread 0 is this one.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(mask),
            mask.as_ptr(),
        )
    };
    check(ret).map(drop)
}

/// Says which nodes the memory of this thread, and of what it executes, comes from.
///
/// # Errors
///
/// `EINVAL` for nodes that are not there or a mode that takes none.
///
/// Source: `set_mempolicy(2)`.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    let (mask, bits) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        // The kernel takes one bit fewer than it is told of.
        (nodes.as_ptr(), nodes.len() * 64 + 1)
    };
    // SAFETY: the kernel reads as many bits of the mask as it is told, which are all there are.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    check(ret).map(drop)
}
