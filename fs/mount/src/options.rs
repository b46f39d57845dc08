//! The knobs of a server.

/// What OPEN and OPENDIR are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// `ENOSYS` once: the kernel then opens and closes without asking, and keeps its page cache.
    Silent,
    /// Each open is a request, and copies up a file that is opened for writing, as the kernel's
    /// overlayfs does; the page cache is kept across opens.
    KeepCache,
    /// The same, and the kernel reads and writes upper files by itself. For root of the whole
    /// machine; without writeback.
    Passthrough,
}

/// Whether requests come by `io_uring`, where the kernel lets them.
///
/// Each worker then has a ring and, for each queue it serves, room for one request: 4 KiB and
/// [`ServeOptions::transfer_bytes_max`] of address space, of which what was used stays in memory.
/// There is a queue for each processor the machine may have, and a worker for each processor we
/// may run on; where one has to wait, more of them up to [`ServeOptions::threads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoUring {
    /// All come by `/dev/fuse`.
    Off,
    /// By `io_uring` if the kernel offers it.
    Auto,
    /// By `io_uring`, or the server does not start.
    On,
}

/// How a mount is served. [`ServeOptions::default`] is what was measured best for containers;
/// see benches/RESULTS.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeOptions {
    /// Worker threads; at least 1. More than cores never paid. With [`IoUring`], those of each
    /// processor.
    pub threads: usize,
    /// The way requests come.
    pub io_uring: IoUring,
    /// Whether the kernel collects small writes.
    pub writeback: bool,
    /// What an open costs.
    pub open_mode: OpenMode,
    /// Whether files may be found again by handle, as NFS does. Overlayfs above this file system
    /// would store such handles and then take what they lead to for stale.
    pub handles: bool,
    /// Whether a worker goes to the processor of whoever asks; with `io_uring` they always do.
    pub follow: bool,
    /// Longest busy wait for the next request, in microseconds; 0 sleeps at once.
    pub spin_us: u32,
    /// Largest read or write request, in bytes.
    pub transfer_bytes_max: u32,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            threads: 2,
            io_uring: IoUring::Off,
            writeback: true,
            open_mode: OpenMode::Silent,
            handles: true,
            follow: true,
            spin_us: 100,
            transfer_bytes_max: 1 << 20,
        }
    }
}
