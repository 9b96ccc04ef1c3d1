//! A cluster in one thread: the real state machine, leases, agents and scheduler, with a simulated network, clocks,
//! disks and processes. One seed is one history.
//!
//! Consensus is modelled, not run: one log, of which a leader that lost its majority keeps a random prefix of what it
//! had proposed (the simulation over real openraft is a test package of `consensus`).

mod checks;
mod clients;
mod consensus;
mod executor;
mod faults;
mod leader;
mod machine;
mod network;
mod random;
mod schedule;
mod world;

pub use schedule::Backlog;
pub use world::{Outcome, Plant, Report, run};
