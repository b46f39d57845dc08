//! Workloads on contents: compiling, starting programs, random and bulk I/O.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::support::program;
use crate::tree;
use crate::work::{Outcome, Stage, fault};

/// Bytes of one random access.
const BLOCK: usize = 4096;
/// Random accesses of one row.
const ACCESSES: u64 = 5000;
const STARTS: usize = 1000;
const LONG_BYTES: usize = 256 << 20;
const LONG: &str = "long";

pub(crate) fn compile(root: &Path, stage: &Stage) -> Outcome {
    let script = "cd \"$1\" && seq 0 $(($2 - 1)) | xargs -P2 -I@ cc -O1 -c f@.c -o f@.o";
    let mut command = program::limited("sh");
    command
        .args(["-c", script, "sh"])
        .arg(root.join(tree::SOURCES));
    program::timed(command.arg(tree::SOURCE_COUNT.to_string()), &stage.log)
}

pub(crate) fn start_programs(root: &Path, _stage: &Stage) -> Outcome {
    let path = root.join(tree::PROGRAM);
    let started = Instant::now();
    for _ in 0..STARTS {
        Command::new(&path)
            .status()
            .map_err(fault("start", &path))?;
    }
    Ok(started.elapsed())
}

/// Pseudo-random block offsets, the same for everybody.
fn offsets(seed: u64, size: u64) -> impl Iterator<Item = u64> {
    let blocks = size / BLOCK as u64;
    (0..ACCESSES).scan(seed, move |state, _| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 33) % blocks * BLOCK as u64)
    })
}

fn read_blocks(path: &Path, seed: u64) -> Result<(), String> {
    let file = File::open(path).map_err(fault("open", path))?;
    let size = file.metadata().map_err(fault("stat", path))?.len();
    let mut block = [0; BLOCK];
    for at in offsets(seed, size) {
        file.read_exact_at(&mut block, at)
            .map_err(fault("read", path))?;
    }
    Ok(())
}

pub(crate) fn read_randomly(root: &Path, _stage: &Stage) -> Outcome {
    let started = Instant::now();
    read_blocks(&root.join(tree::BIG), 1)?;
    Ok(started.elapsed())
}

pub(crate) fn read_in_parallel(root: &Path, _stage: &Stage) -> Outcome {
    let path = root.join(tree::BIG);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (1..=4)
            .map(|seed| {
                let path = &path;
                scope.spawn(move || read_blocks(path, seed))
            })
            .collect();
        readers.into_iter().try_for_each(|reader| {
            reader
                .join()
                .unwrap_or_else(|_| Err("a reader panicked".to_owned()))
        })
    })?;
    Ok(started.elapsed())
}

fn write_blocks(path: &Path) -> Outcome {
    let block = [b'w'; BLOCK];
    // Opening is when some copy the file up.
    let started = Instant::now();
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(fault("open", path))?;
    let size = file.metadata().map_err(fault("stat", path))?.len();
    for at in offsets(5, size) {
        file.write_all_at(&block, at)
            .map_err(fault("write", path))?;
    }
    file.sync_all().map_err(fault("fsync", path))?;
    Ok(started.elapsed())
}

pub(crate) fn write_randomly(root: &Path, _stage: &Stage) -> Outcome {
    write_blocks(&root.join(tree::BIG))
}

pub(crate) fn rewrite_randomly(root: &Path, _stage: &Stage) -> Outcome {
    write_blocks(&root.join(LONG))
}

pub(crate) fn write_long(root: &Path, _stage: &Stage) -> Outcome {
    let path = root.join(LONG);
    let bytes = vec![b'l'; 1 << 20];
    let started = Instant::now();
    let mut file = File::create(&path).map_err(fault("create", &path))?;
    for _ in 0..LONG_BYTES >> 20 {
        std::io::Write::write_all(&mut file, &bytes).map_err(fault("write", &path))?;
    }
    file.sync_all().map_err(fault("fsync", &path))?;
    Ok(started.elapsed())
}
