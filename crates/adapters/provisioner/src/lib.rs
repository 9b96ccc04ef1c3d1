//! Machines on demand: the provider protocol, its client, and a provider whose machines are processes here.
//!
//! A provider is a process that answers `offers`, `launch`, `terminate` and `list` as JSON lines, so that a cloud's
//! kit stays out of this binary. [`LocalProcess`] is the provider for one machine: the demo and the tests use it
//! directly, and [`serve`] puts it behind the protocol.

mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod local_process;
mod orders;
mod protocol;
mod provider;
mod serve;
mod state_file;

pub use error::Error;
pub use local_process::{INSTANCE_VARIABLE, LaunchRequest, LocalInstance, LocalProcess};
pub use protocol::{
    Call, Failure, FailureKind, Instance, InstanceState, Launch, Offer, OfferedGpu, Order, Outcome,
    PROTOCOL_VERSION, Reply, Request, Response,
};
pub use provider::{Provider, ProviderConfig, start};
pub use serve::serve;
