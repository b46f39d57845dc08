//! The tree that is measured on: the same on every machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories below the root, each a unit some workload takes whole.
pub(crate) const TOPS: usize = 20;
/// Smallest and largest of the small files, in bytes: about 4 KiB on average.
const SIZE_MIN: usize = 64;
const SIZE_SPAN: usize = 8192;
/// One file in so many also exists, with other content, in the layer below.
const SHADOWED_EVERY: usize = 20;
/// Random bytes that contents are cut from: 1 MiB.
const NOISE_WORDS: u64 = (1 << 20) / 8;
/// The one large file.
pub(crate) const BIG: &str = "big/blob";
/// Sources for a compiler, and how many.
pub(crate) const SOURCES: &str = "src";
pub(crate) const SOURCE_COUNT: usize = 200;
/// A program to start.
pub(crate) const PROGRAM: &str = "bin/true";
/// Where it comes from.
const PROGRAM_FROM: &str = "/bin/true";

/// How large the tree is.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) files: usize,
    pub(crate) dirs_per_top: usize,
    pub(crate) big_bytes: usize,
}

impl Shape {
    pub(crate) fn new(layers: usize, quick: bool) -> Self {
        Self {
            layers,
            files: if quick { 2000 } else { 20_000 },
            dirs_per_top: if quick { 8 } else { 75 },
            big_bytes: if quick { 10 << 20 } else { 100 << 20 },
        }
    }

    pub(crate) fn files_per_top(&self) -> usize {
        self.files / TOPS
    }

    /// Path of a small file below the root.
    fn file(&self, number: usize) -> PathBuf {
        let top = number / self.files_per_top();
        let within = number % self.files_per_top();
        let dir = within % self.dirs_per_top;
        PathBuf::from(format!(
            "{}/dir{dir:03}/file-{number:06}.txt",
            top_name(top)
        ))
    }

    /// All small files of these top directories, directory by directory.
    pub(crate) fn files_of(&self, tops: std::ops::Range<usize>) -> Vec<PathBuf> {
        let per_top = self.files_per_top();
        let mut out: Vec<PathBuf> = (tops.start * per_top..tops.end * per_top)
            .map(|number| self.file(number))
            .collect();
        out.sort();
        out
    }

    /// Everything there is, directory by directory.
    pub(crate) fn everything(&self) -> Vec<PathBuf> {
        let mut out = self.files_of(0..TOPS);
        for top in 0..TOPS {
            out.push(PathBuf::from(top_name(top)));
            for dir in 0..self.dirs_per_top {
                out.push(PathBuf::from(format!("{}/dir{dir:03}", top_name(top))));
            }
        }
        out.push(PathBuf::from(BIG));
        out.sort();
        out
    }
}

/// Name of a top directory.
pub(crate) fn top_name(number: usize) -> String {
    format!("top{number:02}")
}

/// A pseudo-random number that depends on `seed` alone (splitmix64).
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The same for a count.
fn scramble(seed: usize) -> usize {
    let mixed = mixed(u64::try_from(seed).unwrap_or(0));
    usize::try_from(mixed >> 32).unwrap_or(0)
}

/// Where a layer is; 0 is the lowest.
pub(crate) fn layer(base: &Path, number: usize) -> PathBuf {
    base.join(format!("l{number}"))
}

/// Writes all layers below `base`.
pub(crate) fn generate(base: &Path, shape: Shape) -> Result<(), String> {
    let noise: Vec<u8> = (0..NOISE_WORDS)
        .flat_map(|word| mixed(word).to_le_bytes())
        .collect();
    for number in 0..shape.files {
        let path = shape.file(number);
        let at = scramble(number) % shape.layers;
        let size = SIZE_MIN + scramble(number + shape.files) % SIZE_SPAN;
        let start = scramble(number + 2 * shape.files) % (noise.len() - SIZE_MIN - SIZE_SPAN);
        put(&layer(base, at).join(&path), &noise[start..start + size])?;
        if at > 0 && number % SHADOWED_EVERY == 0 {
            put(
                &layer(base, at - 1).join(&path),
                &noise[start..start + size / 2],
            )?;
        }
    }
    for at in 0..shape.layers {
        fs::create_dir_all(layer(base, at))
            .map_err(|e| format!("could not create a layer: {e}"))?;
    }
    let mut big = Vec::with_capacity(shape.big_bytes);
    while big.len() < shape.big_bytes {
        big.extend_from_slice(&noise);
    }
    put(&layer(base, 0).join(BIG), &big)?;
    sources(&layer(base, 0).join(SOURCES))?;
    let program = layer(base, 0).join(PROGRAM);
    put(&program, b"")?;
    fs::copy(PROGRAM_FROM, &program)
        .map(|_| ())
        .map_err(|e| format!("could not copy {PROGRAM_FROM}: {e}"))
}

/// Small programs that share a few headers, as projects do.
fn sources(dir: &Path) -> Result<(), String> {
    const HEADERS: usize = 10;
    for number in 0..HEADERS {
        let text = format!("static inline int h{number}(int x) {{ return x * {number}; }}\n");
        put(&dir.join(format!("h{number}.h")), text.as_bytes())?;
    }
    for number in 0..SOURCE_COUNT {
        let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n");
        for header in 0..HEADERS {
            text.push_str(&format!("#include \"h{header}.h\"\n"));
        }
        text.push_str(&format!(
            "int f{number}(int x) {{ printf(\"%d\\n\", h1(x)); return h2(x) + {number}; }}\n"
        ));
        put(&dir.join(format!("f{number}.c")), text.as_bytes())?;
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .map_err(|e| format!("could not create {}: {e}", parent.display()))?;
    }
    fs::write(path, bytes).map_err(|e| format!("could not write {}: {e}", path.display()))
}
