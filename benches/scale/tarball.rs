//! Archives of very many small files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Files in one directory.
const PER_DIR: usize = 100;
const BLOCK: usize = 512;

/// Path of one of the files.
pub(crate) fn path(number: usize) -> PathBuf {
    let dir = number / PER_DIR;
    PathBuf::from(format!("d{}/d{}/f{number}", dir % PER_DIR, dir / PER_DIR))
}

/// Writes an archive of about `entries` files of a few bytes each.
pub(crate) fn write(archive: &Path, entries: usize) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(archive)?);
    for number in 0..entries {
        let content = format!("{}\n", number % 1000);
        out.write_all(&header(&path(number).display().to_string(), content.len()))?;
        let mut block = [0; BLOCK];
        block[..content.len()].copy_from_slice(content.as_bytes());
        out.write_all(&block)?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

/// A ustar header. Source: `tar(5)`, "POSIX ustar archives".
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "14000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
