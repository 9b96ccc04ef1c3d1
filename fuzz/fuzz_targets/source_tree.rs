//! A source tree that a client has uploaded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    service::fuzzing::source_tree(bytes);
    executor::fuzzing::source_tree(bytes);
});
