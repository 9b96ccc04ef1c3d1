//! The client half of the `muster` binary: it finds a node, speaks its REST interface and prints what comes back.
//!
//! Nothing here knows the cluster but through [`rest::wire`], the wire model.

mod audit_file;
mod backup_file;
mod capture;
mod client;
mod commands;
mod download;
mod environment;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod globals;
mod logs;
mod output;
mod retry;
mod secret_file;
mod surroundings;
mod terminal;
#[cfg(test)]
mod test_node;
mod upload;

pub use commands::{Command, execute};
pub use error::Error;
pub use globals::Globals;
pub use secret_file::read_secret_file;
pub use surroundings::Surroundings;
