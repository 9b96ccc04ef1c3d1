//! The frames of a blob transfer, and the stored index of a large blob.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    blobs::fuzzing::transfer(bytes);
    blobs::fuzzing::chunk_index(bytes);
});
