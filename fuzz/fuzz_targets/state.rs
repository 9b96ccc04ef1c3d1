//! A snapshot's state from a disk or a replica: refused, or a state that can be asked, written again and checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use state_machine::{ClusterState, check_invariants};
use types::codec;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = codec::decode::<ClusterState>(bytes, 1 << 20) {
        // A state that no log makes is found out, or is whole.
        if check_invariants(&state).is_ok() {
            let again = codec::encode(&state);
            assert_eq!(codec::encode(&codec::decode::<ClusterState>(&again, usize::MAX).expect("written by us")), again);
        }
    }
});
