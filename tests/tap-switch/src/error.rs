//! What can go wrong while a switch is set up.

use std::io;

/// Why there is no switch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/net/tun` gave no device: it needs `CAP_NET_ADMIN`.
    #[error("make the TAP device {name}")]
    Device {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No pipe to wake the thread with.
    #[error("make a pipe")]
    Pipe(#[source] io::Error),
}
