//! How fast are ingest, base building and a walk? `ingest_bench LAYER.tar[.gz|.zst]...`, or no
//! argument for a made-up layer of 100,000 small files.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench"
)]

use std::fs::File;
use std::io::{Cursor, Read};
use std::time::Instant;

use rrun_core::{FileType, Lower, NodeId};
use rrun_store::{Base, Compression, Expect, Store};

/// Entries of the made-up layer.
const ENTRIES: usize = 100_000;

fn walk(base: &Base, dir: NodeId) -> u64 {
    let mut count = 0;
    let mut dirs = Vec::new();
    base.entries(dir, 0, &mut |entry| {
        count += 1;
        let attr = base.attr(entry.node).expect("attributes");
        assert_eq!(base.lookup(dir, entry.name), Ok(Some(entry.node)));
        if attr.kind == FileType::Directory {
            dirs.push(entry.node);
        }
        true
    })
    .expect("entries");
    count + dirs.into_iter().map(|dir| walk(base, dir)).sum::<u64>()
}

fn made_up() -> Vec<u8> {
    let mut tar = Vec::new();
    for number in 0..ENTRIES {
        let (dir, sub, content) = (number / 1000, number / 50, format!("{number}").repeat(60));
        let mut block = [0_u8; 512];
        let name = format!("usr/share/dir{dir}/sub{sub}/file-{number}.txt");
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[156] = b'0';
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend_from_slice(&block);
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn main() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut layers = Vec::new();
    let mut inputs: Vec<(String, Box<dyn Read>)> = Vec::new();
    for path in std::env::args().skip(1) {
        let file = File::open(&path).unwrap();
        inputs.push((path, Box::new(file)));
    }
    if inputs.is_empty() {
        inputs.push(("made up".to_owned(), Box::new(Cursor::new(made_up()))));
    }
    for (name, input) in inputs {
        let start = Instant::now();
        let info = store
            .ingest_layer(input, Compression::Auto, &Expect::default(), &|_| {})
            .unwrap();
        let took = start.elapsed();
        let (mib, ms) = (info.uncompressed_size >> 20, took.as_millis().max(1));
        let rate = u128::from(info.uncompressed_size) / ms / 1000;
        println!(
            "{name}: {} entries, {mib} MiB tar in {ms} ms = {rate} MB/s",
            info.entries
        );
        layers.push(info.diff_id);
    }
    let start = Instant::now();
    let base = store.base(&layers).unwrap();
    let built = start.elapsed();
    let bytes = base.size_bytes() / base.len();
    println!(
        "base of {} nodes built in {built:?}, {bytes} bytes per node",
        base.len()
    );
    drop(base);
    let start = Instant::now();
    let base = store.base(&layers).unwrap();
    println!("base opened in {:?}", start.elapsed());
    let start = Instant::now();
    let count = walk(&base, NodeId::ROOT);
    println!(
        "walk with attributes and lookup of {count} entries in {:?}",
        start.elapsed()
    );
    let start = Instant::now();
    let mut tar = store.layer_tar(&layers[0]).unwrap();
    let size = std::io::copy(&mut tar, &mut std::io::sink()).unwrap();
    println!("export of {} MiB in {:?}", size >> 20, start.elapsed());
}
