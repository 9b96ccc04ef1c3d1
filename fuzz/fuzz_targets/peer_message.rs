//! What nodes ask of each other, and the answers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    service::fuzzing::peer_message(bytes);
});
