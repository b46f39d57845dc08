//! Any bytes as a layer index: errors only. The checksum is mended, or nothing would get past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rrun_store::LayerIndex;

fuzz_target!(|body: &[u8]| {
    if let Ok(index) = LayerIndex::decode(LayerIndex::seal(body.to_vec())) {
        for entry in index.entries() {
            drop(entry);
        }
    }
});
