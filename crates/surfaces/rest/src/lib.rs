//! The native HTTP API of a node: JSON over TCP for token holders, the same over a Unix socket for the users
//! of the machine. It translates; every decision is made in `service`.
//!
//! A request goes `serve` (connection, limits) → `front` (host, origin, headers) → `routes` (one file per
//! group) → `service::Handle`. `error` alone decides the status of an answer.

mod answer;
mod bind;
mod blob_batch;
mod body;
mod config;
mod connection;
mod error;
mod front;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod log_stream;
mod origin;
mod packages;
mod passwd;
mod range;
mod routes;
mod serve;
mod sources;
mod tls;

pub use bind::{Bound, PortHolder, bind};
pub use config::{Config, DEFAULT_PORT};
pub use error::Error;
pub use packages::{PackagePort, serve_packages};
pub use routes::openapi;
pub use serve::serve;
pub use service::audit;
pub use service::view as wire;
pub use tls::{TlsFiles, fingerprint};
