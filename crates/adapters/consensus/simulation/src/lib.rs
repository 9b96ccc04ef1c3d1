//! The core over the real, unmodified openraft, on paused tokio time: virtual nodes with a simulated disk, network,
//! clock and processes. One seed is one history.
//!
//! Real: openraft, the state machine, membership, scheduler, leases and agents. Simulated: disks that lose what is not
//! synced, a network that loses, repeats, delays and cuts, clocks that differ, holders and their processes, and people who
//! repeat themselves. After each step the checks of `invariants/` are asked; at the end the faults stop, and the cluster
//! must become idle and whole.

mod adversary;
mod asking;
mod clients;
mod disk;
mod duties;
mod history;
mod holding;
mod host;
mod invariants;
mod log_store;
mod machine;
mod names;
mod network;
mod node;
mod plant;
mod raft_network;
mod raft_types;
mod random;
mod runtime;
mod seen;
mod watch;
mod worker;
mod world;

pub use history::{Report, Verdict, run};
pub use plant::{Plant, Point, Setup};
pub use world::Counts;
