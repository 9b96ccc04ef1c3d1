//! Ten thousand waiting experiments on a thousand full machines; a process of its own, whose memory is measured.

use simulations::{Backlog, most_resident_bytes};

const MACHINES: u32 = 1_000;
const WAITING: u32 = 10_000;
/// Four run on each machine. 6 KiB for each experiment is three times what it takes (28 MiB, 2026-11-30).
const MOST_BYTES: u64 = 14_000 * (6 << 10);

#[test]
fn ten_thousand_waiting_on_a_thousand_full_machines_are_decided_in_little_memory() {
    let before = most_resident_bytes();
    let backlog = Backlog::new(MACHINES, WAITING);
    for _ in 0..3 {
        assert_eq!(backlog.round(), 0, "the machines are full");
    }
    let grown = most_resident_bytes() - before;
    println!("{} MiB", grown >> 20);
    assert!(before > 0 && grown <= MOST_BYTES, "{grown} bytes");
}
