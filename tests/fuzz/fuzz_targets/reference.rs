//! Any text as an image reference: an error, or a reference whose text is read as the same one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rrun_core::ImageRef;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<ImageRef>() {
        let again: ImageRef = reference.canonical().parse().unwrap();
        assert_eq!(again.canonical(), reference.canonical());
    }
});
