//! Any bytes as a layer: errors only, and what is taken comes out again and merges or says why not.
#![no_main]

use std::io::Read;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rrun_store::{Compression, Expect, Store};

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let dir = format!("/dev/shm/rrun-fuzz-{}", std::process::id());
    Store::open(dir.as_ref()).expect("a store in memory")
});

fuzz_target!(|tar: &[u8]| {
    // With a good checksum in the first header the fuzzer gets further.
    let mut tar = tar.to_vec();
    if let Some(head) = tar.get_mut(..512) {
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let result = STORE.ingest_layer(&tar[..], Compression::None, &Expect::default(), &|_| {});
    if let Ok(info) = result {
        let mut out = Vec::new();
        let mut export = STORE.layer_tar(&info.diff_id).expect("a layer just taken in");
        export.read_to_end(&mut out).expect("its tar");
        assert!(out == tar);
        drop(STORE.base(&[info.diff_id]));
    }
});
