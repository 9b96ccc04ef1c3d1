//! An exported history, of which anybody could have written any line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cli::fuzzing::audit_file(bytes);
});
