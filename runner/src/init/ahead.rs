//! What a program reads before its first line, asked for ahead.
//!
//! The kernel reads a mapped file as its pages are touched, 128 KiB at a time, and the program waits
//! each time: one that is linked dynamically twenty to thirty times. Asked for while the process is
//! made ready, all that is answered meanwhile, on another processor. Nothing here is needed: what
//! goes wrong is left to `execve(2)` to tell.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise, fstat};

use crate::plan::ProcessSpec;
use crate::process::{self, open_regular as open};

/// Most bytes of a file that are asked for. C libraries are smaller; a larger program touches
/// little of itself.
const BYTES_MAX: u64 = 2 << 20;
/// What the kernel takes at once of a file that is read in order: twice its readahead of 128 KiB.
const STEP: u64 = 256 << 10;
/// Where the name of the loader is, as linkers write files.
const HEAD_BYTES: usize = 4096;
/// What loaders look for first, beside themselves; that of musl is the library.
const C_LIBRARY: &str = "libc.so.6";
/// The kind of a program header that names the loader. Source: `elf(5)`.
const PT_INTERP: u32 = 3;

/// Asks for what executing `spec` reads, in this process's root.
pub(crate) fn ask(spec: &ProcessSpec) {
    let _left = try_ask(spec);
}

fn try_ask(spec: &ProcessSpec) -> Option<()> {
    let candidates = process::candidates(spec.argv.first()?, &spec.env);
    let program = candidates.iter().find_map(|path| open(Path::new(path)))?;
    let mut head = beginning(&program)?;
    if let Some(interpreter) = process::interpreter(&head) {
        head = beginning(&open(Path::new(&interpreter))?)?;
    }
    let loader = open(&loader(&head)?)?;
    read_ahead(&loader)?;
    // What leads to the loader may be in another directory.
    let link = format!("/proc/self/fd/{}", loader.as_raw_fd());
    let real = std::fs::read_link(link).ok()?;
    read_ahead(&open(&real.with_file_name(C_LIBRARY))?)
}

/// The beginning of a program, all of which is asked for.
fn beginning(program: &OwnedFd) -> Option<Vec<u8>> {
    read_ahead(program)?;
    let mut head = vec![0; HEAD_BYTES];
    let count = rustix::io::pread(program, &mut head, 0).ok()?;
    head.truncate(count);
    Some(head)
}

fn read_ahead(file: &OwnedFd) -> Option<()> {
    let size = u64::try_from(fstat(file).ok()?.st_size).ok()?;
    fadvise(file, 0, None, Advice::Sequential).ok()?;
    let mut at = 0;
    while at < size.min(BYTES_MAX) {
        let step = std::num::NonZeroU64::new(STEP);
        fadvise(file, at, step, Advice::WillNeed).ok()?;
        at += STEP;
    }
    Some(())
}

/// The loader that a program of 64 bits names, little-endian, from the beginning of its file.
/// Source: `elf(5)`.
fn loader(head: &[u8]) -> Option<PathBuf> {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let long = |at: usize| {
        let bytes = head.get(at..at.checked_add(8)?)?;
        usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let short = |at: usize| {
        let bytes = head.get(at..at.checked_add(2)?)?;
        Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
    };
    let (table, size, count) = (long(32)?, short(54)?, short(56)?);
    let entries = (0..count).map_while(|number| table.checked_add(number.checked_mul(size)?));
    let named = |at: usize| {
        let kind = head.get(at..at.checked_add(4)?)?;
        (u32::from_le_bytes(kind.try_into().ok()?) == PT_INTERP).then_some(at)
    };
    let entry = entries
        .map_while(|at| head.get(at..).map(|_| at))
        .find_map(named)?;
    let start = long(entry.checked_add(8)?)?;
    let end = start.checked_add(long(entry.checked_add(32)?)?)?;
    let name = head.get(start..end)?.split(|byte| *byte == 0).next()?;
    let path = PathBuf::from(std::str::from_utf8(name).ok()?);
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one program header, of `kind`, that names `/l`.
    fn file(kind: u32) -> Vec<u8> {
        let mut head = vec![0; 64 + 56];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[32..40].copy_from_slice(&64_u64.to_le_bytes());
        head[54..56].copy_from_slice(&56_u16.to_le_bytes());
        head[56..58].copy_from_slice(&1_u16.to_le_bytes());
        head[64..68].copy_from_slice(&kind.to_le_bytes());
        head[72..80].copy_from_slice(&120_u64.to_le_bytes());
        head[96..104].copy_from_slice(&3_u64.to_le_bytes());
        head.extend_from_slice(b"/l\0");
        head
    }

    #[test]
    fn a_program_names_its_loader() {
        assert_eq!(loader(&file(PT_INTERP)), Some(PathBuf::from("/l")));
        assert_eq!(loader(&file(1)), None);
        assert_eq!(loader(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn no_byte_of_a_file_leads_astray() {
        let good = file(PT_INTERP);
        for at in 0..good.len() {
            assert!(loader(&good[..at]).is_none());
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _any = loader(&bad);
            }
        }
    }
}
