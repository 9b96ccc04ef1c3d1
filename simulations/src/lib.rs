//! A cluster in one thread: the real state machine, leases, agents, scheduler and choice of voters, with a simulated
//! network, clocks, disks and processes. One seed is one history.
//!
//! Consensus is modelled, not run; machines ([`Host`]), a leader's decisions ([`Brain`]) and the invariants know
//! nothing of that model, so that the simulation over real openraft uses them too.

mod brain;
mod clients;
mod consensus;
mod decisions;
mod faults;
mod host;
pub mod invariants;
mod kueue;
mod leader;
mod log;
mod network;
mod placement;
mod random;
mod schedule;
mod traffic;
mod voters;
mod whole;
mod world;

pub use brain::{Brain, BrainBugs, Purpose};
pub use decisions::Decider;
pub use host::{
    Effect, HOST_CPU_MILLI, HOST_MEMORY_BYTES, HolderStep, Host, HostBugs, LeaseAnswers, Timer,
};
pub use kueue::{Figures, Generator, generate};
pub use placement::{Allocation, PlacementPolicy, Task, Trace, TraceError, TraceNode, allocate};
pub use random::Random;
pub use schedule::{Backlog, most_resident_bytes};
pub use traffic::{Kept, Question, Rate, Role, traffic};
pub use world::{Outcome, Plant, Report, run};
