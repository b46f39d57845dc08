//! The one place with `unsafe`: memory maps.
#![allow(unsafe_code, reason = "mapping a file is unsafe by its nature")]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file of the store for reading.
///
/// # Errors
///
/// `EINVAL` for an empty file; those of `mmap(2)`.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the files we map are made in tmp/, chmod 0444 and renamed into place; the store
    // never writes to or truncates a file after that, it only unlinks it, which keeps the pages.
    unsafe { Mmap::map(file) }
}
