//! Bytes on disk, named by their BLAKE3 hash: put, get, chunk, collect, and copy from peer to peer.
//!
//! A name appears only when its bytes are durable and match it; damaged bytes are moved aside and never
//! served. Everything is streamed: memory does not grow with the size of a blob.

mod chunks;
mod collect;
mod config;
mod draft;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod homes;
mod names;
mod protocol;
mod read;
mod store;
mod transfer;
mod write;

pub use collect::Collected;
pub use config::Config;
pub use error::Error;
pub use homes::{COPIES, StorageNode, homes};
pub use names::NameFilter;
pub use store::{Handle, open};
