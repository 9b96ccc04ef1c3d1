//! A file of records, and names of directories.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    executor::fuzzing::records(bytes);
});
