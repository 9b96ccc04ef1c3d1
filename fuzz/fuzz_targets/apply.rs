//! A log that holds anything: `apply` refuses or does it, never fails, and the state keeps its invariants; a second
//! replica that starts from a snapshot half way ends with the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use state_machine::{ClusterState, LogEntry, check_invariants};
use types::{LogIndex, codec};

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = codec::decode::<Vec<LogEntry>>(bytes, 1 << 20) else {
        return;
    };
    let mut state = ClusterState::default();
    let half = entries.len() / 2;
    let mut other = None;
    for (number, entry) in entries.iter().enumerate() {
        if number == half {
            other = Some(codec::decode(&codec::encode(&state), usize::MAX).expect("a snapshot restores"));
        }
        let index = LogIndex(number as u64 + 1);
        state.apply(index, entry);
        if let Some(other) = &mut other {
            ClusterState::apply(other, index, entry);
        }
        check_invariants(&state).expect("the state keeps its invariants");
    }
    if let Some(other) = other {
        assert_eq!(codec::encode(&other), codec::encode(&state));
    }
});
