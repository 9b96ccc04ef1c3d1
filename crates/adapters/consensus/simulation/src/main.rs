//! `cargo run --release -p raft-simulation -- --seeds 100`.

fn main() {}
